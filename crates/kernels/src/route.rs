//! Which kernels take a tensor.

use candle_core::{DType, Device, Tensor};

/// The kernels that take a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// This crate's own for the CPU.
    Cpu,
    /// This crate's own for NVIDIA cards.
    #[cfg(feature = "cuda")]
    Cuda,
    /// Candle's operations.
    Portable,
}

impl Route {
    /// The best for activations.
    pub(crate) fn of(x: &Tensor) -> Self {
        Self::to(x.device(), x.dtype())
    }

    /// The best for activations of this type on this device.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(
            unused_variables,
            reason = "only cards have kernels of some types alone"
        )
    )]
    pub(crate) fn to(device: &Device, dtype: DType) -> Self {
        match device {
            Device::Cpu => Self::Cpu,
            #[cfg(feature = "cuda")]
            Device::Cuda(_) if is_number(dtype) => Self::Cuda,
            _ => Self::Portable,
        }
    }
}

/// Whether it is one of the types that activations, weights and caches of values come in.
#[cfg(feature = "cuda")]
fn is_number(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}
