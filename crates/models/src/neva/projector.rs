//! From the tower's features to the decoder's embeddings.

use candle_core::{Result, Tensor};
use vlmd_kernels::{Linear, gelu};

use crate::LoadError;
use crate::common::params::Params;

/// The projector's branch beside the embeddings.
const BRANCH: &str = "adapter_layer.mm_projector_adapter";
const NAME: &str = "mm_projector";

/// Linear layers with GELUs between them (`build_vision_projector`, as LLaVA has it). None at all
/// leave the features as they are.
#[derive(Debug)]
pub(super) struct Projector {
    layers: Vec<Linear>,
}

impl Projector {
    /// Loads `layers` from the branch of the embeddings, from `width` to `hidden` wide.
    pub(super) fn load(
        embeddings: &Params<'_>,
        layers: usize,
        width: usize,
        hidden: usize,
    ) -> std::result::Result<Self, LoadError> {
        let branch = embeddings.at(BRANCH);
        let linear = |layer: usize| {
            let input = if layer == 0 { width } else { hidden };
            if layers == 1 {
                branch.linear_with_bias(NAME, input, hidden)
            } else {
                // The GELUs have numbers, too.
                let layers = branch.at(NAME);
                layers.linear_with_bias(&(2 * layer).to_string(), input, hidden)
            }
        };
        if layers == 0 && width != hidden {
            return Err(LoadError::invalid(
                super::config::CONFIG_FILE,
                format!(
                    "`hidden_size` must be {width}, the tower's width, where there is no \
                     projector, but is {hidden}"
                ),
            ));
        }
        Ok(Self {
            layers: (0..layers)
                .map(linear)
                .collect::<std::result::Result<_, _>>()?,
        })
    }

    /// `[.., width]` to `[.., hidden]`.
    pub(super) fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let mut x = features.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                x = gelu(&x)?;
            }
            x = layer.forward(&x)?;
        }
        Ok(x)
    }
}
