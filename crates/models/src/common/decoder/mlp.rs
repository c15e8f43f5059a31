//! The layer's second half.

use candle_core::{Result, Tensor};
use vlmd_kernels::{Linear, swiglu};

use crate::common::activation::Activation;
use crate::common::norm::Norm;

/// Widens each row, bends it and narrows it again.
#[derive(Debug)]
pub(crate) enum Mlp {
    /// `down(silu(gate(x)) * up(x))` (Shazeer 2020), as Llama has it.
    SwiGlu {
        /// Rows: gate, then up.
        gate_up: Linear,
        /// Back to the hidden width.
        down: Linear,
    },
    /// `down(norm(activation(up(x))))`, as GPT has it, with or without the norm.
    Plain {
        /// To the inner width.
        up: Linear,
        /// In between.
        activation: Activation,
        /// Kosmos-2 has one.
        inner_norm: Option<Norm>,
        /// Back to the hidden width.
        down: Linear,
    },
}

impl Mlp {
    /// `[T, hidden]` to the same shape.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::SwiGlu { gate_up, down } => down.forward(&swiglu(&gate_up.forward(x)?)?),
            Self::Plain {
                up,
                activation,
                inner_norm,
                down,
            } => {
                let inner = activation.apply(&up.forward(x)?)?;
                match inner_norm {
                    Some(norm) => down.forward(&norm.forward(&inner)?),
                    None => down.forward(&inner),
                }
            }
        }
    }
}
