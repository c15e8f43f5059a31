//! Rotary position embedding.

use candle_core::{Result, Tensor, bail};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::route::Route;
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
    check((rows, head_dim), x, cos, sin)?;
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    match Route::of(x) {
        Route::Cpu => cpu::rope(x, cos, sin),
        #[cfg(feature = "cuda")]
        Route::Cuda => cuda::rope(x, cos, sin),
        Route::Portable => portable::rope(x, cos, sin),
    }
}

/// Whether angles fit so many rows of heads of a width, which are in `x`.
pub(crate) fn check(
    (rows, head_dim): (usize, usize),
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
) -> Result<()> {
    let angles = cos.dims2()?;
    if angles.0 != rows || 2 * angles.1 > head_dim || sin.dims2()? != angles {
        bail!(
            "rope over {:?} cannot take angles of {:?} and {:?}",
            x.shape(),
            cos.shape(),
            sin.shape()
        );
    }
    Ok(())
}
