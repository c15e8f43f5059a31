//! Tower, projector and decoder put together.

use candle_core::{DType, Device, Result, Tensor};
use vlmd_backend::{ImageInput, KvCache, Model, ModelSpec, Step};

use super::config::Config;
use super::projector::Projector;
use crate::LoadError;
use crate::common::clip::{self, Clip};
use crate::common::decoder::Decoder;
use crate::common::decoder::megatron::Checkpoint;
use crate::common::positions::Positions;
use crate::common::sizes::Sizes;

/// NeVA with its weights.
#[derive(Debug)]
pub(super) struct Neva {
    spec: ModelSpec,
    tower: Clip,
    drops_class_token: bool,
    projector: Projector,
    decoder: Decoder,
    dtype: DType,
}

impl Neva {
    /// Loads what is the language model's, and the projector.
    pub(super) fn load(
        checkpoint: &Checkpoint<'_>,
        tower: Clip,
        config: &Config,
        sizes: Sizes,
    ) -> std::result::Result<Self, LoadError> {
        let rope = config.rope(&sizes)?;
        let vision = checkpoint.vision()?;
        let projector = Projector::load(
            &vision,
            config.projector_layers()?,
            tower.geometry().hidden,
            sizes.hidden_size,
        )?;
        let weights = checkpoint.decoder(&config.decoder()?, &sizes)?;
        let decoder = Decoder::new(&vision, sizes, Positions::Rotary(rope), weights);
        Ok(Self {
            spec: decoder.spec(),
            tower,
            drops_class_token: config.drops_class_token()?,
            projector,
            decoder,
            dtype: vision.activation_dtype(),
        })
    }

    /// Projected features of pictures `[n, 3, side, side]`: `[n, features, hidden]`.
    fn project(&self, pixels: &Tensor) -> Result<Tensor> {
        let pixels = pixels.to_device(self.device())?.to_dtype(self.dtype)?;
        let features = if self.drops_class_token {
            self.tower.patches(&pixels)?
        } else {
            self.tower.forward(&pixels)?
        };
        self.projector.forward(&features)
    }
}

impl Model for Neva {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> &Device {
        self.decoder.device()
    }

    /// Pictures share passes through the tower.
    fn encode(&self, images: &[&ImageInput]) -> Result<Vec<Tensor>> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let pixels: Vec<&Tensor> = images.iter().map(|image| &image.pixels).collect();
        let pixels = Tensor::cat(&pixels, 0)?;
        let features = clip::in_passes(&pixels, |pixels| self.project(pixels))?;
        (0..images.len()).map(|image| features.get(image)).collect()
    }

    fn forward(&self, step: &Step, cache: &KvCache) -> Result<Tensor> {
        self.decoder.forward(step, cache)
    }
}
