//! Dense attention, as vision towers and cross-attention use it.
//!
//! On a card kernels of this crate take f32, f16 and bf16 with heads of a multiple of 8 elements up
//! to 256: 16-bit floats with heads of up to 128 on tensor cores, the others on plain ones. Few
//! rows, as those of a decode that looks at pictures, have the keys split among blocks. None of
//! them makes a matrix of scores. Other heads, and tensors of different types, take the route of
//! candle's operations, which makes one for some rows at a time.

use candle_core::{Result, Tensor, bail};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::{cpu, portable};

/// Attention in which every query of a picture sees all keys of that picture and no other's.
///
/// `q` is `[N, S, heads, head_dim]`, `k` and `v` are `[N, T, kv_heads, head_dim]`, where `heads`
/// is a multiple of `kv_heads` and query head `h` reads key head `h / (heads / kv_heads)`. The
/// result is like `q`, and contiguous, so that `[N, S, heads * head_dim]` is a free reshape away.
///
/// Heads of a row lie side by side; rows may be parts of wider ones, such as those of a joined
/// projection, and then are read where they are.
///
/// # Errors
/// When the shapes do not fit, there are no keys, or the device fails.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f32) -> Result<Tensor> {
    let (pictures, _, heads, head_dim) = q.dims4()?;
    let (of, keys, kv_heads, width) = k.dims4()?;
    let fits = of == pictures && width == head_dim && keys > 0 && kv_heads > 0;
    if !fits || !heads.is_multiple_of(kv_heads) || v.dims() != k.dims() {
        bail!(
            "attention of {:?} over {:?} and {:?} is not defined",
            q.shape(),
            k.shape(),
            v.shape()
        );
    }
    if q.elem_count() == 0 {
        return q.zeros_like();
    }
    #[cfg(feature = "cuda")]
    if let Some(out) = cuda::attention(q, k, v, scale)? {
        return Ok(out);
    }
    if q.device().is_cpu() {
        cpu::attention(q, k, v, scale)
    } else {
        portable::attention(q, k, v, scale)
    }
}
