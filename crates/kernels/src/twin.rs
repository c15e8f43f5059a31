//! The same functions by another route, to be held against: plain candle operations, on any
//! device, in the type of their arguments.
//!
//! The crate's tests hold the CPU kernels against these, and `vlmd check` does it again on the
//! machine that serves. Nothing that serves calls them. Of paged attention and of writing to
//! pages the twin is taken with [`Ragged::gathered`](crate::Ragged::gathered).

use candle_core::{DType, Result, Tensor};

use crate::patches::Cut;
use crate::portable;

/// See [`Linear::forward`](crate::Linear::forward); `x` is `[rows, in]`, `weight` `[out, in]`.
///
/// # Errors
/// When shapes do not fit or the device fails.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    portable::linear(x, weight, bias)
}

/// See [`rms_norm`](crate::rms_norm).
///
/// # Errors
/// When shapes do not fit or the device fails.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    portable::rms_norm(x, weight, eps)
}

/// See [`layer_norm`](crate::layer_norm).
///
/// # Errors
/// When shapes do not fit or the device fails.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    portable::layer_norm(x, weight, bias, eps)
}

/// See [`swiglu`](crate::swiglu).
///
/// # Errors
/// When the device fails.
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    portable::swiglu(gate_up)
}

/// See [`gelu`](crate::gelu).
///
/// # Errors
/// When the device fails.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

/// See [`quick_gelu`](crate::quick_gelu).
///
/// # Errors
/// When the device fails.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    portable::quick_gelu(x)
}

/// See [`squared_relu`](crate::squared_relu).
///
/// # Errors
/// When the device fails.
pub fn squared_relu(x: &Tensor) -> Result<Tensor> {
    portable::squared_relu(x)
}

/// See [`softmax`](crate::softmax).
///
/// # Errors
/// When the device fails.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    candle_nn::ops::softmax_last_dim(&x.contiguous()?)
}

/// See [`rope`](crate::rope()).
///
/// # Errors
/// When shapes do not fit or the device fails.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    portable::rope(x, cos, sin)
}

/// See [`level_patches`](crate::level_patches).
///
/// # Errors
/// See there.
pub fn level_patches(
    levels: &Tensor,
    table: &Tensor,
    patch: usize,
    dtype: DType,
) -> Result<Tensor> {
    let (count, height, width, _) = levels.dims4()?;
    let cut = Cut::new(count, (height, width), patch)?;
    portable::level_patches(levels, table, cut, dtype)
}

/// See [`value_patches`](crate::value_patches).
///
/// # Errors
/// See there.
pub fn value_patches(values: &Tensor, patch: usize, dtype: DType) -> Result<Tensor> {
    let (count, _, height, width) = values.dims4()?;
    let cut = Cut::new(count, (height, width), patch)?;
    portable::value_patches(values, cut, dtype)
}

/// See [`attention`](crate::attention()).
///
/// # Errors
/// When shapes do not fit or the device fails.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f32) -> Result<Tensor> {
    portable::attention(q, k, v, scale)
}
