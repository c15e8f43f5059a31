//! From a tower's features to a decoder's embeddings.

use candle_core::{Result, Tensor};
use vlmd_kernels::Linear;

use super::activation::Activation;
use super::clip::Clip;
use super::params::Params;
use super::spliced::Vision;
use super::stages::linear_work;
use crate::LoadError;

/// Linear layers with an activation between them. None at all leave features as they are.
#[derive(Debug)]
pub(crate) struct Projector {
    layers: Vec<Linear>,
    activation: Activation,
}

impl Projector {
    /// Loads the layers `names` of a branch, which go from `width` to `hidden`; all of them have
    /// biases, or none has.
    pub(crate) fn load(
        params: &Params<'_>,
        names: &[impl AsRef<str>],
        biased: bool,
        (width, hidden): (usize, usize),
        activation: Activation,
    ) -> std::result::Result<Self, LoadError> {
        let layer = |(index, name): (usize, &_)| {
            let input = if index == 0 { width } else { hidden };
            params.linear_of(AsRef::as_ref(name), input, hidden, biased)
        };
        let layers = names.iter().enumerate().map(layer);
        Ok(Self {
            layers: layers.collect::<std::result::Result<_, _>>()?,
            activation,
        })
    }

    /// `[.., width]` to `[.., hidden]`.
    pub(crate) fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let mut x = features.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                x = self.activation.apply(&x)?;
            }
            x = layer.forward(&x)?;
        }
        Ok(x)
    }

    /// Multiplications for so many features.
    pub(crate) fn work(&self, features: usize) -> u64 {
        linear_work(&self.layers, features)
    }
}

/// A tower whose features are projected.
#[derive(Debug)]
pub(crate) struct Projected {
    pub(crate) tower: Clip,
    pub(crate) projector: Projector,
}

impl Vision for Projected {
    fn tower(&self) -> &Clip {
        &self.tower
    }

    /// `[n, features, hidden]`.
    fn project(&self, features: &Tensor) -> Result<Tensor> {
        self.projector.forward(features)
    }

    fn project_work(&self) -> u64 {
        self.projector.work(self.tower.feature_count())
    }
}
