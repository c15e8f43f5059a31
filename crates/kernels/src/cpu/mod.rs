//! The CPU kernels. What is in this file brings tensors to them and their results back.

mod attention;
mod host;
mod linear;
mod math;
mod rowwise;
mod shared;
mod simd;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

use candle_core::{CpuStorage, D, Device, InplaceOp2, Layout, Result, Tensor, bail};
use rowwise::{Gelu, LayerNorm, QuickGelu, RmsNorm, Rope, RowOp, Softmax, SquaredRelu, SwiGlu};

use crate::ragged::{PAGE_TOKENS, Sequence};
use attention::{Heads, KeyRows, Span};
use host::{for_elements, with_elements, with_f32, with_parameters, with_rows};
use simd::{Element, Level};

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

/// Rounds rows to the cache's dtype and writes them to their slots.
struct WriteRows<'a> {
    slots: &'a [u32],
}

impl InplaceOp2 for WriteRows<'_> {
    fn name(&self) -> &'static str {
        "write-kv"
    }

    fn cpu_fwd(
        &self,
        cache: &mut CpuStorage,
        cache_layout: &Layout,
        new: &CpuStorage,
        new_layout: &Layout,
    ) -> Result<()> {
        let Some((start, end)) = cache_layout.contiguous_offsets() else {
            bail!("a cache must be contiguous to be written in place");
        };
        let width = new_layout.shape().elem_count() / self.slots.len().max(1);
        let new = match host::Elements::contiguous(new, new_layout)? {
            host::Elements::F32(new) => new,
            host::Elements::F16(_) | host::Elements::Bf16(_) => {
                bail!("on the CPU new keys and values are f32")
            }
        };
        match cache {
            CpuStorage::F32(all) => write_rows(new, self.slots, width, &mut all[start..end]),
            CpuStorage::F16(all) => write_rows(new, self.slots, width, &mut all[start..end]),
            CpuStorage::BF16(all) => write_rows(new, self.slots, width, &mut all[start..end]),
            _ => bail!("a cache must be f32, f16 or bf16"),
        }
        Ok(())
    }
}

fn write_rows<E: Element>(new: &[f32], slots: &[u32], width: usize, cache: &mut [E]) {
    for (row, &slot) in slots.iter().enumerate() {
        let from = &new[row * width..][..width];
        let to = &mut cache[slot as usize * width..][..width];
        for (to, &from) in to.iter_mut().zip(from) {
            *to = E::from_f32(from);
        }
    }
}

/// See [`crate::write_kv`].
pub(crate) fn write_kv(new: &Tensor, cache: &Tensor, slots: &[u32]) -> Result<()> {
    if slots.is_empty() {
        return Ok(());
    }
    cache.inplace_op2(&new.contiguous()?, &WriteRows { slots })
}

struct Pages<'a> {
    sequence: &'a Sequence,
    row_len: usize,
}

impl KeyRows for Pages<'_> {
    fn start(&self, position: usize) -> usize {
        let block = self.sequence.blocks[position / PAGE_TOKENS] as usize;
        (block * PAGE_TOKENS + position % PAGE_TOKENS) * self.row_len
    }
}

/// See [`crate::paged_attention()`].
pub(crate) fn paged_attention(
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    sequences: &[Sequence],
    scale: f32,
) -> Result<Tensor> {
    let (rows, heads, head_dim) = q.dims3()?;
    let kv_heads = k_cache.dim(2)?;
    if !k_cache.is_contiguous() || !v_cache.is_contiguous() {
        bail!("a cache must be contiguous");
    }
    let spans: Vec<Span<Pages<'_>>> = sequences
        .iter()
        .filter(|sequence| !sequence.rows.is_empty())
        .map(|sequence| Span {
            first_row: sequence.rows.start,
            rows: sequence.rows.len(),
            visible: sequence.visible(0),
            growth: 1,
            keys: Pages {
                sequence,
                row_len: kv_heads * head_dim,
            },
        })
        .collect();
    let mut out = vec![0f32; rows * heads * head_dim];
    with_rows(q, |q| {
        with_elements(k_cache, |k| {
            with_elements(v_cache, |v| {
                for_pair(
                    k,
                    v,
                    q,
                    (heads, kv_heads, head_dim),
                    scale,
                    &spans,
                    &mut out,
                )
            })
        })
    })?;
    Tensor::from_vec(out, (rows, heads, head_dim), &Device::Cpu)
}

struct Dense {
    first: usize,
    row_len: usize,
}

impl KeyRows for Dense {
    fn start(&self, position: usize) -> usize {
        (self.first + position) * self.row_len
    }
}

/// See [`crate::attention()`].
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f32) -> Result<Tensor> {
    let (pictures, len, heads, head_dim) = q.dims4()?;
    let (_, keys, kv_heads, _) = k.dims4()?;
    let spans: Vec<Span<Dense>> = (0..pictures)
        .map(|picture| Span {
            first_row: picture * len,
            rows: len,
            visible: keys,
            growth: 0,
            keys: Dense {
                first: picture * keys,
                row_len: kv_heads * head_dim,
            },
        })
        .collect();
    let mut out = vec![0f32; q.elem_count()];
    let shape = (pictures * len, heads, head_dim);
    with_rows(&q.reshape(shape)?, |q| {
        with_elements(k, |k| {
            with_elements(v, |v| {
                for_pair(
                    k,
                    v,
                    q,
                    (heads, kv_heads, head_dim),
                    scale,
                    &spans,
                    &mut out,
                )
            })
        })
    })?;
    Tensor::from_vec(out, (pictures, len, heads, head_dim), &Device::Cpu)
}

/// Enters the attention kernel for the dtype that keys and values share.
fn for_pair<R: KeyRows>(
    k: host::Elements<'_>,
    v: host::Elements<'_>,
    q: host::Rows<'_>,
    (heads, kv_heads, head_dim): (usize, usize, usize),
    scale: f32,
    spans: &[Span<R>],
    out: &mut [f32],
) -> Result<()> {
    macro_rules! attend {
        ($k:expr, $v:expr) => {
            attention::attend(
                Level::get(),
                Heads {
                    q: q.data,
                    q_stride: q.stride,
                    k: $k,
                    v: $v,
                    heads,
                    kv_heads,
                    head_dim,
                    scale,
                },
                spans,
                out,
            )
        };
    }
    match (k, v) {
        (host::Elements::F32(k), host::Elements::F32(v)) => attend!(k, v),
        (host::Elements::F16(k), host::Elements::F16(v)) => attend!(k, v),
        (host::Elements::Bf16(k), host::Elements::Bf16(v)) => attend!(k, v),
        _ => bail!("keys and values are of different dtypes"),
    }
    Ok(())
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
