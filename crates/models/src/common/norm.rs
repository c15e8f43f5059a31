//! Norms with their weights.

use candle_core::{Result, Tensor};
use vlmd_kernels::{add_layer_norm, add_rms_norm, layer_norm, rms_norm};

use super::params::Params;
use crate::LoadError;

/// A normalisation over the last dimension.
#[derive(Debug)]
pub(crate) enum Norm {
    /// Root mean square, as in Llama.
    Rms {
        /// `[width]`.
        weight: Tensor,
        /// Added to the mean square.
        eps: f32,
    },
    /// Layer norm.
    Layer {
        /// `[width]`.
        weight: Tensor,
        /// `[width]`.
        bias: Tensor,
        /// Added to the variance.
        eps: f32,
    },
}

impl Norm {
    /// `weight` of a branch.
    pub(crate) fn rms(
        params: &Params<'_>,
        width: usize,
        eps: f32,
    ) -> std::result::Result<Self, LoadError> {
        Ok(Self::Rms {
            weight: params.activation("weight", &[width])?,
            eps,
        })
    }

    /// `weight` and `bias` of a branch.
    pub(crate) fn layer(
        params: &Params<'_>,
        width: usize,
        eps: f32,
    ) -> std::result::Result<Self, LoadError> {
        Ok(Self::Layer {
            weight: params.activation("weight", &[width])?,
            bias: params.activation("bias", &[width])?,
            eps,
        })
    }

    /// `[.., width]` to the same shape.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Rms { weight, eps } => rms_norm(x, weight, *eps),
            Self::Layer { weight, bias, eps } => layer_norm(x, weight, bias, *eps),
        }
    }

    /// The sum `x + added` of two `[.., width]`, and its norm.
    pub(crate) fn add(&self, x: &Tensor, added: &Tensor) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Rms { weight, eps } => add_rms_norm(x, added, weight, *eps),
            Self::Layer { weight, bias, eps } => add_layer_norm(x, added, weight, bias, *eps),
        }
    }
}
