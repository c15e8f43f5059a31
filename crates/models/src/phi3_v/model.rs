//! The two halves put together.

use candle_core::{Device, Result, Tensor};
use vlmd_backend::{ImageInput, KvCache, Model, ModelSpec, Step};

use super::config::Config;
use super::vision::Vision;
use crate::LoadError;
use crate::common::decoder::{Decoder, llama};
use crate::common::params::Params;
use crate::common::positions::Positions;

/// Phi-3-vision or Phi-3.5-vision with its weights.
#[derive(Debug)]
pub(super) struct Phi3V {
    spec: ModelSpec,
    vision: Vision,
    decoder: Decoder,
}

impl Phi3V {
    pub(super) fn load(
        params: &Params<'_>,
        config: &Config,
    ) -> std::result::Result<Self, LoadError> {
        let vision = Vision::load(params, config)?;
        let sizes = config.sizes()?;
        let (eps, tied) = (config.rms_norm_eps as f32, config.tie_word_embeddings);
        let source = llama::Source::at(params, eps, tied);
        let weights = llama::load(&source, &sizes, 0..sizes.layers)?;
        let decoder = Decoder::new(params, sizes, Positions::Rotary(config.rope()?), weights);
        Ok(Self {
            spec: decoder.spec(),
            vision,
            decoder,
        })
    }
}

impl Model for Phi3V {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> &Device {
        self.decoder.device()
    }

    fn encode(&self, images: &[&ImageInput]) -> Result<Vec<Tensor>> {
        self.vision.encode(images)
    }

    fn forward(&self, step: &Step, cache: &KvCache) -> Result<Tensor> {
        self.decoder.forward(step, cache)
    }
}
