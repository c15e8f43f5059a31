//! Normalisation over the last dimension.

use candle_core::{D, Result, Tensor, bail};

use crate::{cpu, portable};

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension (Zhang and Sennrich 2019).
///
/// `x` is `[.., width]`, `weight` is `[width]`.
///
/// # Errors
/// When the widths differ or the device fails.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    check(x, weight)?;
    if x.device().is_cpu() {
        cpu::rms_norm(x, weight, eps)
    } else {
        portable::rms_norm(x, weight, eps)
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
    if x.device().is_cpu() {
        cpu::layer_norm(x, weight, bias, eps)
    } else {
        portable::layer_norm(x, weight, bias, eps)
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
