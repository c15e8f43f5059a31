//! Normalisation over the last dimension, alone or of a sum.

use candle_core::{D, Result, Tensor, bail};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::route::Route;
use crate::{cpu, portable};

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension (Zhang and Sennrich 2019).
///
/// `x` is `[.., width]`, `weight` is `[width]`.
///
/// # Errors
/// When the widths differ or the device fails.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    check(x, weight)?;
    match Route::of(x) {
        Route::Cpu => cpu::rms_norm(x, weight, eps),
        #[cfg(feature = "cuda")]
        Route::Cuda => Ok(cuda::rms_norm(x, None, weight, eps)?.1),
        Route::Portable => portable::rms_norm(x, weight, eps),
    }
}

/// The sum `x + added`, and [`rms_norm`] of it: a residual connection and the norm behind it, in
/// one pass over memory where the device has a kernel for it.
///
/// `x` and `added` are `[.., width]`, of one shape and dtype; the sum is rounded to that dtype
/// before it is normed.
///
/// # Errors
/// When shapes, dtypes or widths differ or the device fails.
pub fn add_rms_norm(
    x: &Tensor,
    added: &Tensor,
    weight: &Tensor,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    check(x, weight)?;
    check_sum(x, added)?;
    match Route::of(x) {
        #[cfg(feature = "cuda")]
        Route::Cuda => cuda::rms_norm(x, Some(added), weight, eps),
        Route::Cpu | Route::Portable => {
            let sum = (x + added)?;
            let normed = rms_norm(&sum, weight, eps)?;
            Ok((sum, normed))
        }
    }
}

/// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last dimension, with the
/// biased variance (Ba, Kiros and Hinton 2016).
///
/// `x` is `[.., width]`, `weight` and `bias` are `[width]`.
///
/// # Errors
/// When the widths differ or the device fails.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    check(x, weight)?;
    check(x, bias)?;
    match Route::of(x) {
        Route::Cpu => cpu::layer_norm(x, weight, bias, eps),
        #[cfg(feature = "cuda")]
        Route::Cuda => Ok(cuda::layer_norm(x, None, weight, bias, eps)?.1),
        Route::Portable => portable::layer_norm(x, weight, bias, eps),
    }
}

/// The sum `x + added`, and [`layer_norm`] of it; see [`add_rms_norm`].
///
/// # Errors
/// When shapes, dtypes or widths differ or the device fails.
pub fn add_layer_norm(
    x: &Tensor,
    added: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    check(x, weight)?;
    check(x, bias)?;
    check_sum(x, added)?;
    match Route::of(x) {
        #[cfg(feature = "cuda")]
        Route::Cuda => cuda::layer_norm(x, Some(added), weight, bias, eps),
        Route::Cpu | Route::Portable => {
            let sum = (x + added)?;
            let normed = layer_norm(&sum, weight, bias, eps)?;
            Ok((sum, normed))
        }
    }
}

fn check(x: &Tensor, weight: &Tensor) -> Result<()> {
    if x.dim(D::Minus1)? != weight.dims1()? {
        bail!(
            "a norm over {:?} cannot take {:?}",
            weight.shape(),
            x.shape()
        );
    }
    Ok(())
}

fn check_sum(x: &Tensor, added: &Tensor) -> Result<()> {
    if x.shape() != added.shape() || x.dtype() != added.dtype() {
        bail!(
            "{:?} {:?} cannot be added to {:?} {:?}",
            added.dtype(),
            added.shape(),
            x.dtype(),
            x.shape()
        );
    }
    Ok(())
}
