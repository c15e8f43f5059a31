//! Dense attention, as vision towers use it.

use candle_core::{Result, Tensor, bail};

use crate::{cpu, portable};

/// Attention in which every row of a picture sees all rows of that picture and no other's.
///
/// `q`, `k` and `v` are `[N, S, heads, head_dim]`, of one shape; the result is too. It is
/// contiguous, so that `[N, S, heads * head_dim]` is a free reshape away.
///
/// # Errors
/// When the shapes differ or the device fails.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f32) -> Result<Tensor> {
    let dims = q.dims4()?;
    if k.dims4()? != dims || v.dims4()? != dims {
        bail!(
            "attention takes three tensors of one shape, not {:?}, {:?}, {:?}",
            q.shape(),
            k.shape(),
            v.shape()
        );
    }
    if q.elem_count() == 0 {
        return q.zeros_like();
    }
    if q.device().is_cpu() {
        cpu::attention(q, k, v, scale)
    } else {
        portable::attention(q, k, v, scale)
    }
}
