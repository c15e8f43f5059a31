//! The CPU kernels. What is in this file brings tensors to them and their results back.

mod attention;
mod code;
pub(crate) mod draw;
mod host;
mod linear;
mod math;
mod patches;
mod rowwise;
mod shared;
mod simd;
mod tile;
mod write;
#[cfg(target_arch = "x86_64")]
mod x86;

use candle_core::{D, Device, Result, Tensor, bail};
use rowwise::{Gelu, LayerNorm, QuickGelu, RmsNorm, Rope, RowOp, Softmax, SquaredRelu, SwiGlu};

use crate::pages::Pages;
use crate::ragged::{PAGE_TOKENS, Sequence};
use attention::{Heads, KeyRows, Shape, Span, Stored};
use code::Code;
use host::{
    Elements, for_elements, with_bytes, with_elements, with_f32, with_parameters, with_pictures,
    with_rows,
};
pub(crate) use patches::{level_patches, value_patches};
use simd::{Element, Level};
pub(crate) use write::write_kv;

/// See [`crate::Linear::forward`]; `x` is `[rows, in]`, the bias f32.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (rows, depth) = x.dims2()?;
    let columns = weight.dim(0)?;
    let mut out = vec![0f32; rows * columns];
    with_f32(x, |x| {
        with_elements(weight, |weight| {
            let mut run = |bias: Option<&[f32]>| {
                for_elements!(weight, weight => {
                    let task = linear::Product { x, weight, bias, rows, columns, depth };
                    linear::product(Level::get(), task, &mut out);
                });
                Ok(())
            };
            match bias {
                Some(bias) => with_f32(bias, |bias| run(Some(bias))),
                None => run(None),
            }
        })
    })?;
    Tensor::from_vec(out, (rows, columns), &Device::Cpu)
}

/// Keys in the pages of a sequence.
struct Paged<'a>(&'a Sequence);

impl KeyRows for Paged<'_> {
    fn row(&self, position: usize) -> usize {
        let block = self.0.blocks[position / PAGE_TOKENS] as usize;
        block * PAGE_TOKENS + position % PAGE_TOKENS
    }
}

/// See [`crate::paged_attention()`].
pub(crate) fn paged_attention(
    q: &Tensor,
    k: Pages<'_>,
    v: Pages<'_>,
    sequences: &[Sequence],
    scale: f32,
) -> Result<Tensor> {
    let (rows, heads, head_dim) = q.dims3()?;
    let spans: Vec<Span<Paged<'_>>> = sequences
        .iter()
        .filter(|sequence| !sequence.rows.is_empty())
        .map(|sequence| Span {
            first_row: sequence.rows.start,
            first_query: sequence.rows.start,
            rows: sequence.rows.len(),
            visible: sequence.visible(0),
            growth: 1,
            keys: Paged(sequence),
        })
        .collect();
    let shape = Shape {
        heads,
        kv_heads: k.data.dim(2)?,
        head_dim,
        scale,
    };
    let mut out = vec![0f32; rows * heads * head_dim];
    let call = Call {
        shape,
        spans: &spans,
        out: &mut out,
    };
    with_rows(q, |q| match (k.scales, v.scales) {
        (Some(k_scales), Some(v_scales)) => with_codes(k.data, k_scales, |k| {
            with_codes(v.data, v_scales, |v| {
                call.attend(q, k, v);
                Ok(())
            })
        }),
        _ => with_elements(k.data, |k| {
            with_elements(v.data, |v| {
                let stride = shape.kv_heads * head_dim;
                call.attend_elements(q, (k, stride), (v, stride))
            })
        }),
    })?;
    Tensor::from_vec(out, (rows, heads, head_dim), &Device::Cpu)
}

/// Keys that lie one after the other.
struct Dense {
    first: usize,
}

impl KeyRows for Dense {
    fn row(&self, position: usize) -> usize {
        self.first + position
    }
}

/// See [`crate::attention()`].
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f32) -> Result<Tensor> {
    let (pictures, len, heads, head_dim) = q.dims4()?;
    let (_, keys, kv_heads, _) = k.dims4()?;
    let shape = Shape {
        heads,
        kv_heads,
        head_dim,
        scale,
    };
    let alike = k.stride() == v.stride();
    let own = |x: &Tensor| if alike { Ok(x.clone()) } else { x.contiguous() };
    let mut out = vec![0f32; q.elem_count()];
    with_pictures(q, |q| {
        let Elements::F32(data) = q.elements else {
            bail!("on the CPU activations are f32");
        };
        let rows = host::Rows {
            data,
            stride: q.stride,
        };
        with_pictures(&own(k)?, |k| {
            let span = |picture| Span {
                first_row: picture * len,
                first_query: picture * q.apart,
                rows: len,
                visible: keys,
                growth: 0,
                keys: Dense {
                    first: picture * k.apart,
                },
            };
            let spans: Vec<Span<Dense>> = (0..pictures).map(span).collect();
            let call = Call {
                shape,
                spans: &spans,
                out: &mut out,
            };
            with_pictures(&own(v)?, |v| {
                call.attend_elements(rows, (k.elements, k.stride), (v.elements, v.stride))
            })
        })
    })?;
    Tensor::from_vec(out, (pictures, len, heads, head_dim), &Device::Cpu)
}

/// An attention whose keys and values are still to come.
struct Call<'a, R> {
    shape: Shape,
    spans: &'a [Span<R>],
    out: &'a mut [f32],
}

impl<R: KeyRows> Call<'_, R> {
    /// Enters the kernel for the dtype that keys and values, each with the elements from row to
    /// row, share.
    fn attend_elements(
        self,
        q: host::Rows<'_>,
        (k, k_stride): (Elements<'_>, usize),
        (v, v_stride): (Elements<'_>, usize),
    ) -> Result<()> {
        use Elements::{Bf16, F16, F32};
        match (k, v) {
            (F32(k), F32(v)) => self.attend(q, stored(k, k_stride), stored(v, v_stride)),
            (F16(k), F16(v)) => self.attend(q, stored(k, k_stride), stored(v, v_stride)),
            (Bf16(k), Bf16(v)) => self.attend(q, stored(k, k_stride), stored(v, v_stride)),
            _ => bail!("keys and values are of different dtypes"),
        }
        Ok(())
    }

    fn attend<E: Element>(self, q: host::Rows<'_>, k: Stored<'_, E>, v: Stored<'_, E>) {
        let heads = Heads {
            q,
            k,
            v,
            shape: self.shape,
        };
        attention::attend(Level::get(), heads, self.spans, self.out);
    }
}

/// Keys or values without scales.
fn stored<E>(data: &[E], stride: usize) -> Stored<'_, E> {
    Stored {
        data,
        stride,
        scales: None,
    }
}

/// Lends codes and their scales.
fn with_codes(
    codes: &Tensor,
    scales: &Tensor,
    f: impl FnOnce(Stored<'_, Code>) -> Result<()>,
) -> Result<()> {
    let (_, _, kv_heads, head_dim) = codes.dims4()?;
    with_bytes(codes, |codes| {
        with_f32(scales, |scales| {
            f(Stored {
                data: Code::from_bytes(codes),
                stride: kv_heads * head_dim,
                scales: Some(scales),
            })
        })
    })
}

/// See [`crate::rms_norm`].
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    with_parameters(weight, |weight| rows(x, 1, RmsNorm { weight, eps }))
}

/// See [`crate::layer_norm`].
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    with_parameters(weight, |weight| {
        with_parameters(bias, |bias| rows(x, 1, LayerNorm { weight, bias, eps }))
    })
}

/// See [`crate::softmax`].
pub(crate) fn softmax(x: &Tensor) -> Result<Tensor> {
    rows(x, 1, Softmax)
}

/// See [`crate::swiglu`].
pub(crate) fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    rows(gate_up, 2, SwiGlu)
}

/// See [`crate::gelu`].
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    elements(x, Gelu)
}

/// See [`crate::quick_gelu`].
pub(crate) fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    elements(x, QuickGelu)
}

/// See [`crate::squared_relu`].
pub(crate) fn squared_relu(x: &Tensor) -> Result<Tensor> {
    elements(x, SquaredRelu)
}

/// See [`crate::rope()`].
pub(crate) fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (tokens, heads, head_dim) = x.dims3()?;
    let rotated = 2 * cos.dim(1)?;
    let out = with_rows(x, |x| {
        with_parameters(cos, |cos| {
            with_parameters(sin, |sin| {
                let op = Rope {
                    cos,
                    sin,
                    head_dim,
                    rotated,
                };
                let width = heads * head_dim;
                Ok(rowwise::by_rows(Level::get(), op, x, tokens, width, width))
            })
        })
    })?;
    Tensor::from_vec(out, (tokens, heads, head_dim), &Device::Cpu)
}

/// Applies an operation that makes the last dimension `narrower` times shorter.
fn rows<O: RowOp>(x: &Tensor, narrower: usize, op: O) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    let mut shape = x.dims().to_vec();
    shape.pop();
    shape.push(width / narrower);
    let count = shape[..shape.len() - 1].iter().product();
    let out = with_f32(x, |data| {
        let x = host::Rows {
            data,
            stride: width,
        };
        Ok(rowwise::by_rows(
            Level::get(),
            op,
            x,
            count,
            width,
            width / narrower,
        ))
    })?;
    Tensor::from_vec(out, shape, &Device::Cpu)
}

fn elements<O: RowOp>(x: &Tensor, op: O) -> Result<Tensor> {
    let out = with_f32(x, |x| Ok(rowwise::by_elements(Level::get(), op, x)))?;
    Tensor::from_vec(out, x.shape(), &Device::Cpu)
}
