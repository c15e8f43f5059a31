//! Pictures as rows of patches, normalised on the way.
//!
//! A convolution whose stride is its kernel, as the patch embedding of a vision transformer
//! (Dosovitskiy et al. 2020), is a product of its weight with such rows.

use candle_core::{DType, Result, Tensor, bail};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::route::Route;
use crate::{cpu, portable};

/// Colours of a pixel.
pub(crate) const COLOURS: usize = 3;

/// Levels of a colour.
pub(crate) const LEVELS: usize = 256;

/// Pictures and how they are cut. A strip is a row of patches: `patch` rows of pixels, and as
/// many numbers of the result, which lie together in either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) count: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Pixels per side of a patch.
    pub(crate) patch: usize,
}

impl Cut {
    pub(crate) fn new(count: usize, (height, width): (usize, usize), patch: usize) -> Result<Self> {
        let whole = |side: usize| patch > 0 && side > 0 && side.is_multiple_of(patch);
        if count == 0 || !whole(height) || !whole(width) {
            bail!("{count} pictures of {width} x {height} pixels are not whole patches of {patch}");
        }
        Ok(Self {
            count,
            height,
            width,
            patch,
        })
    }

    /// Strips of a picture.
    pub(crate) fn strips(&self) -> usize {
        self.height / self.patch
    }

    /// Numbers of a strip.
    pub(crate) fn strip(&self) -> usize {
        COLOURS * self.patch * self.width
    }

    /// Shape of the result.
    pub(crate) fn shape(&self) -> (usize, usize, usize) {
        let patches = self.strips() * (self.width / self.patch);
        (self.count, patches, COLOURS * self.patch * self.patch)
    }
}

/// Rows of patches of pictures of 8 bits a colour.
///
/// `levels` is `[n, height, width, 3]` in u8, as decoders and resamplers give pictures, and
/// `table` `[3, 256]` in f32, what each level of each colour becomes. The result is
/// `[n, patches, 3 * patch * patch]` in `dtype`, patches row by row and a patch in the order of a
/// convolution's weight: colour, row, column. Each number is that of the table, rounded to the
/// nearest of `dtype`, ties to even, the same bits on every device.
///
/// # Errors
/// When shapes or types are others, sides are not whole patches, `dtype` is not f32, f16 or bf16,
/// or the device fails.
pub fn level_patches(
    levels: &Tensor,
    table: &Tensor,
    patch: usize,
    dtype: DType,
) -> Result<Tensor> {
    let (count, height, width, colours) = levels.dims4()?;
    if levels.dtype() != DType::U8 || colours != COLOURS {
        bail!(
            "levels are [n, height, width, {COLOURS}] in u8, not {:?} in {:?}",
            levels.dims(),
            levels.dtype()
        );
    }
    if table.dtype() != DType::F32 || table.dims() != [COLOURS, LEVELS] {
        bail!(
            "a table of levels is [{COLOURS}, {LEVELS}] in f32, not {:?} in {:?}",
            table.dims(),
            table.dtype()
        );
    }
    check(dtype)?;
    let cut = Cut::new(count, (height, width), patch)?;
    match Route::to(levels.device(), dtype) {
        Route::Cpu => cpu::level_patches(levels, table, cut, dtype),
        #[cfg(feature = "cuda")]
        Route::Cuda => cuda::level_patches(levels, table, cut, dtype),
        Route::Portable => portable::level_patches(levels, table, cut, dtype),
    }
}

/// Rows of patches of pictures that are normalised already, `[n, 3, height, width]` in f32; see
/// [`level_patches`].
///
/// # Errors
/// See [`level_patches`].
pub fn value_patches(values: &Tensor, patch: usize, dtype: DType) -> Result<Tensor> {
    let (count, colours, height, width) = values.dims4()?;
    if values.dtype() != DType::F32 || colours != COLOURS {
        bail!(
            "values are [n, {COLOURS}, height, width] in f32, not {:?} in {:?}",
            values.dims(),
            values.dtype()
        );
    }
    check(dtype)?;
    let cut = Cut::new(count, (height, width), patch)?;
    match Route::to(values.device(), dtype) {
        Route::Cpu => cpu::value_patches(values, cut, dtype),
        #[cfg(feature = "cuda")]
        Route::Cuda => cuda::value_patches(values, cut, dtype),
        Route::Portable => portable::value_patches(values, cut, dtype),
    }
}

fn check(dtype: DType) -> Result<()> {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => Ok(()),
        other => bail!("pixels become f32, f16 or bf16, not {other:?}"),
    }
}
