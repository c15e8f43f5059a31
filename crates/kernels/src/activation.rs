//! Activations.

use candle_core::{D, Result, Tensor, bail};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::route::Route;
use crate::{cpu, portable};

/// `silu(gate) * up`, the gated activation of Llama-like decoders (Shazeer 2020).
///
/// `gate_up` is `[.., 2 * width]`, the gate first; the result is `[.., width]`.
///
/// # Errors
/// When the last dimension is odd or the device fails.
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    if !gate_up.dim(D::Minus1)?.is_multiple_of(2) {
        bail!(
            "swiglu takes a gate and as many values, not {:?}",
            gate_up.shape()
        );
    }
    match Route::of(gate_up) {
        Route::Cpu => cpu::swiglu(gate_up),
        #[cfg(feature = "cuda")]
        Route::Cuda => cuda::swiglu(gate_up),
        Route::Portable => portable::swiglu(gate_up),
    }
}

/// `0.5 x (1 + erf(x / sqrt(2)))`, PyTorch's `gelu` without approximation.
///
/// # Errors
/// When the device fails.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        cpu::gelu(x)
    } else {
        x.gelu_erf()
    }
}

/// `x * sigmoid(1.702 x)`, the activation of OpenAI's CLIP.
///
/// # Errors
/// When the device fails.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    match Route::of(x) {
        Route::Cpu => cpu::quick_gelu(x),
        #[cfg(feature = "cuda")]
        Route::Cuda => cuda::quick_gelu(x),
        Route::Portable => portable::quick_gelu(x),
    }
}

/// `max(x, 0)^2`, the activation of Nemotron (So et al. 2021).
///
/// # Errors
/// When the device fails.
pub fn squared_relu(x: &Tensor) -> Result<Tensor> {
    match Route::of(x) {
        Route::Cpu => cpu::squared_relu(x),
        #[cfg(feature = "cuda")]
        Route::Cuda => cuda::squared_relu(x),
        Route::Portable => portable::squared_relu(x),
    }
}

/// Softmax over the last dimension.
///
/// # Errors
/// When the device fails.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        cpu::softmax(x)
    } else {
        candle_nn::ops::softmax_last_dim(&x.contiguous()?)
    }
}
