//! Activations by the names that configurations give them.

use candle_core::{Result, Tensor};
use vlmd_kernels::{gelu, quick_gelu, squared_relu};

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
    /// The activation that `hidden_act` and its like name in `config.json`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "gelu" => Self::Gelu,
            "quick_gelu" => Self::QuickGelu,
            "relu2" | "squared-relu" => Self::SquaredRelu,
            _ => return None,
        })
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
