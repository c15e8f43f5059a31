//! From tensors to slices: what the kernels read and write.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, bail};
use half::{bf16, f16};

/// The elements of a tensor in one of the dtypes that weights and caches come in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Elements<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl<'a> Elements<'a> {
    /// All elements of a contiguous tensor.
    pub(crate) fn contiguous(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("a kernel needs a contiguous tensor");
        };
        Ok(match storage {
            CpuStorage::F32(all) => Self::F32(&all[start..end]),
            CpuStorage::F16(all) => Self::F16(&all[start..end]),
            CpuStorage::BF16(all) => Self::Bf16(&all[start..end]),
            _ => bail!("a kernel needs f32, f16 or bf16"),
        })
    }

    /// The elements from a tensor's first one on, those that are not its own among them.
    fn from_first(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let start = layout.start_offset();
        Ok(match storage {
            CpuStorage::F32(all) => Self::F32(&all[start..]),
            CpuStorage::F16(all) => Self::F16(&all[start..]),
            CpuStorage::BF16(all) => Self::Bf16(&all[start..]),
            _ => bail!("a kernel needs f32, f16 or bf16"),
        })
    }
}

/// Runs the expression `$body` with `$data` bound to the slice inside, whatever its dtype.
macro_rules! for_elements {
    ($elements:expr, $data:ident => $body:expr) => {
        match $elements {
            $crate::cpu::host::Elements::F32($data) => $body,
            $crate::cpu::host::Elements::F16($data) => $body,
            $crate::cpu::host::Elements::Bf16($data) => $body,
        }
    };
}
pub(crate) use for_elements;

/// Lends the elements of a tensor to `f`, contiguous, copied only if they are not.
pub(crate) fn with_elements<R>(
    tensor: &Tensor,
    f: impl FnOnce(Elements<'_>) -> Result<R>,
) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(Elements::contiguous(storage, layout)?),
        _ => bail!("a CPU kernel was given a tensor of another device"),
    }
}

/// Lends the bytes of a contiguous u8 tensor.
pub(crate) fn with_bytes<R>(tensor: &Tensor, f: impl FnOnce(&[u8]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::U8(all)), Some((start, end))) => f(&all[start..end]),
        _ => bail!("a CPU kernel needs contiguous codes of u8"),
    }
}

/// The same for activations, which are f32.
pub(crate) fn with_f32<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    if tensor.dtype() != DType::F32 {
        bail!("on the CPU activations are f32, not {:?}", tensor.dtype());
    }
    with_elements(tensor, |elements| match elements {
        Elements::F32(data) => f(data),
        Elements::F16(_) | Elements::Bf16(_) => bail!("on the CPU activations are f32"),
    })
}

/// Lends a small vector of parameters as f32, whatever it is stored as.
pub(crate) fn with_parameters<R>(
    tensor: &Tensor,
    f: impl FnOnce(&[f32]) -> Result<R>,
) -> Result<R> {
    with_f32(&tensor.to_dtype(DType::F32)?, f)
}

/// An f32 tensor that is contiguous but for its first dimension, such as the part of a fused
/// projection that belongs to the queries: row `i` starts at `i * stride`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
}

impl<'a> Rows<'a> {
    /// The first `width` elements of row `index`.
    #[inline(always)]
    pub(crate) fn row(&self, index: usize, width: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..width]
    }
}

/// Lends a tensor by rows; it is copied only if a row of it is not contiguous.
pub(crate) fn with_rows<R>(tensor: &Tensor, f: impl FnOnce(Rows<'_>) -> Result<R>) -> Result<R> {
    if tensor.dtype() != DType::F32 {
        bail!("on the CPU activations are f32, not {:?}", tensor.dtype());
    }
    let inner = tensor.dims()[1..].iter().product();
    if !dense_within(tensor, 1) || tensor.stride()[0] < inner || tensor.elem_count() == 0 {
        return with_f32(tensor, |data| {
            f(Rows {
                data,
                stride: inner,
            })
        });
    }
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(all)) => f(Rows {
            data: &all[layout.start_offset()..],
            stride: layout.stride()[0],
        }),
        _ => bail!("a CPU kernel was given a tensor of another device"),
    }
}

/// A tensor that is contiguous but for its first two dimensions, pictures and rows, such as the
/// part of a fused projection that belongs to the keys: row `r` of picture `i` starts at
/// `(i * apart + r) * stride`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pictures<'a> {
    pub(crate) elements: Elements<'a>,
    /// Elements from row to row.
    pub(crate) stride: usize,
    /// Rows from picture to picture.
    pub(crate) apart: usize,
}

/// Lends a tensor `[pictures, rows, ..]`; it is copied only if a row of it is not contiguous, or
/// pictures are no whole number of rows apart.
pub(crate) fn with_pictures<R>(
    tensor: &Tensor,
    f: impl FnOnce(Pictures<'_>) -> Result<R>,
) -> Result<R> {
    let rows = tensor.dim(1)?;
    let inner: usize = tensor.dims()[2..].iter().product();
    let (picture, row) = (tensor.stride()[0], tensor.stride()[1]);
    let as_it_is = dense_within(tensor, 2)
        && row >= inner.max(1)
        && picture.is_multiple_of(row)
        && tensor.elem_count() > 0;
    if !as_it_is {
        return with_elements(tensor, |elements| {
            f(Pictures {
                elements,
                stride: inner,
                apart: rows,
            })
        });
    }
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(Pictures {
            elements: Elements::from_first(storage, layout)?,
            stride: row,
            apart: picture / row,
        }),
        _ => bail!("a CPU kernel was given a tensor of another device"),
    }
}

/// Whether a tensor is contiguous from dimension `first` on.
fn dense_within(tensor: &Tensor, first: usize) -> bool {
    let mut dense = 1;
    let dims = tensor.dims()[first..].iter();
    dims.zip(&tensor.stride()[first..])
        .rev()
        .all(|(&dim, &stride)| {
            let fits = dim == 1 || stride == dense;
            dense *= dim;
            fits
        })
}
