//! The two halves put together.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use vlmd_backend::{Encoding, ImageInput, KvCache, Model, ModelSpec, Step};

use super::config::{Config, UNSAID_TOKENS};
use super::encoding;
use super::vision::Vision;
use crate::LoadError;
use crate::common::decoder::cross::LookingDecoder;
use crate::common::decoder::llama;
use crate::common::names::Parts;
use crate::common::params::Params;
use crate::common::positions::Positions;
use crate::common::text_config::MLLAMA;

/// Llama-3.2-Vision with its weights.
#[derive(Debug)]
pub(super) struct Mllama {
    spec: ModelSpec,
    /// Shared with encodings, like the decoder, which has a part in them.
    vision: Arc<Vision>,
    decoder: Arc<LookingDecoder>,
}

impl Mllama {
    pub(super) fn load(
        params: &Params<'_>,
        config: &Config,
    ) -> std::result::Result<Self, LoadError> {
        let sizes = config.text_sizes()?;
        let hidden = sizes.hidden_size;
        let parts = Parts::of(params);
        let source = llama::Source {
            model: parts.text,
            head: (!config.text().tie_word_embeddings).then_some(parts.head),
            rms_norm_eps: config.text().rms_norm_eps(&MLLAMA)?,
            unsaid_tokens: UNSAID_TOKENS,
        };
        let rope = Positions::Rotary(config.text().rope(&sizes, &MLLAMA)?);
        let looking = config.cross_layers();
        Ok(Self {
            spec: config.spec(params.activation_dtype())?,
            decoder: Arc::new(LookingDecoder::load(params, &source, sizes, looking, rope)?),
            vision: Arc::new(Vision::load(&parts.vision, config, hidden)?),
        })
    }
}

impl Model for Mllama {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> &Device {
        self.decoder.device()
    }

    fn begin_encoding(&self, images: &[&ImageInput]) -> Result<Box<dyn Encoding>> {
        encoding::begin(&self.vision, &self.decoder, images)
    }

    fn forward(&self, step: &Step, cache: &KvCache) -> Result<Tensor> {
        self.decoder.forward(step, cache)
    }
}
