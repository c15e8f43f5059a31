//! Activations by the names that configurations give them.

use candle_core::{Result, Tensor};
use vlmd_kernels::{gelu, quick_gelu, squared_relu};

use super::fields::CONFIG;
use crate::LoadError;

/// What bends the inner values of an MLP or a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// Exact GELU, by the error function.
    Gelu,
    /// `x * sigmoid(1.702 x)`, of OpenAI's CLIP.
    QuickGelu,
    /// `max(x, 0)^2` (So et al. 2021), of Nemotron.
    SquaredRelu,
}

impl Activation {
    /// The value of a field of `config.json` that tells between CLIP's two.
    pub(crate) fn read(field: &str, name: &str) -> std::result::Result<Self, LoadError> {
        let known = [("gelu", Self::Gelu), ("quick_gelu", Self::QuickGelu)];
        CONFIG.choice(field, name, &known)
    }

    /// Element by element.
    pub(crate) fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => gelu(x),
            Self::QuickGelu => quick_gelu(x),
            Self::SquaredRelu => squared_relu(x),
        }
    }
}
