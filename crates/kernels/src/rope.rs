//! Rotary position embedding.

use candle_core::{Result, Tensor, bail};

use crate::{cpu, portable};

/// Rotates each head by its token's angles, the half-split form (Su et al. 2021, in the layout
/// of GPT-NeoX): with `a` and `b` the two halves of a head, `[a cos - b sin, b cos + a sin]`.
///
/// `x` is `[T, heads, head_dim]`, `cos` and `sin` are `[T, rotated / 2]`; where `rotated` is less
/// than `head_dim`, the dimensions behind it stay as they are. Whatever scales the angles or the
/// amplitude is already in `cos` and `sin`.
///
/// # Errors
/// When the shapes do not fit or the device fails.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (rows, _, head_dim) = x.dims3()?;
    let angles = cos.dims2()?;
    if angles.0 != rows || 2 * angles.1 > head_dim || sin.dims2()? != angles {
        bail!(
            "rope over {:?} cannot take angles of {:?} and {:?}",
            x.shape(),
            cos.shape(),
            sin.shape()
        );
    }
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    if x.device().is_cpu() {
        cpu::rope(x, cos, sin)
    } else {
        portable::rope(x, cos, sin)
    }
}
