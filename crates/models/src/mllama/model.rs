//! The two halves put together.

use candle_core::{DType, Device, Result, Tensor};
use vlmd_backend::{ImageInput, KvCache, Model, ModelSpec, Step};

use super::config::{Config, UNSAID_TOKENS};
use super::cross::CrossLayer;
use super::vision::Vision;
use crate::LoadError;
use crate::common::decoder::{Decoder, llama};
use crate::common::names::Parts;
use crate::common::params::Params;
use crate::common::positions::Positions;

/// Llama-3.2-Vision with its weights.
#[derive(Debug)]
pub(super) struct Mllama {
    spec: ModelSpec,
    vision: Vision,
    decoder: Decoder,
    /// Each with the index of the decoder's layer that comes after it.
    cross: Vec<(usize, CrossLayer)>,
}

impl Mllama {
    pub(super) fn load(
        params: &Params<'_>,
        config: &Config,
    ) -> std::result::Result<Self, LoadError> {
        let sizes = config.text_sizes()?;
        let eps = config.rms_norm_eps()?;
        let parts = Parts::of(params);
        let source = llama::Source {
            model: parts.text,
            head: (!config.tie_word_embeddings()).then_some(parts.head),
            rms_norm_eps: eps,
            unsaid_tokens: UNSAID_TOKENS,
        };
        let looking = config.cross_layers();
        let reading = (0..sizes.layers).filter(|layer| !looking.contains(layer));
        let weights = llama::load(&source, &sizes, reading)?;
        let branch = source.model.at("layers");
        let cross = looking
            .iter()
            .enumerate()
            // Among the layers before it are as many that look as it has predecessors.
            .map(|(nth, &layer)| {
                let loaded = CrossLayer::load(&branch.at(layer), &sizes, eps)?;
                Ok((layer - nth, loaded))
            })
            .collect::<std::result::Result<Vec<_>, LoadError>>()?;
        let vision = Vision::load(&parts.vision, config, sizes.hidden_size)?;
        let rope = config.rope(&sizes)?;
        let decoder = Decoder::new(params, sizes, Positions::Rotary(rope), weights);
        Ok(Self {
            spec: config.spec(params.activation_dtype())?,
            vision,
            decoder,
            cross,
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

    /// Keys and values of each picture for all layers that look, as
    /// `[layers, 2, features, kv_heads, head_dim]`.
    fn encode(&self, images: &[&ImageInput]) -> Result<Vec<Tensor>> {
        let kept = |image: &&ImageInput| {
            let features = self.vision.encode(image)?;
            let of_layer = |(_, layer): &(usize, CrossLayer)| layer.keys_values(&features);
            let layers: Vec<Tensor> = self.cross.iter().map(of_layer).collect::<Result<_>>()?;
            if layers.is_empty() {
                return Tensor::zeros(0, DType::F32, self.device());
            }
            Tensor::stack(&layers, 0)
        };
        images.iter().map(kept).collect()
    }

    fn forward(&self, step: &Step, cache: &KvCache) -> Result<Tensor> {
        self.decoder.forward_with(step, cache, |next, mut x| {
            if step.cross.is_empty() {
                return Ok(x);
            }
            for (index, (before, layer)) in self.cross.iter().enumerate() {
                if *before == next {
                    x = layer.forward(&x, &step.cross, index)?;
                }
            }
            Ok(x)
        })
    }
}
