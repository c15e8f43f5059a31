//! Tower, projector and decoder put together.

use candle_core::{DType, Device, Result, Tensor, bail};
use vlmd_backend::{ImageInput, KvCache, Model, ModelSpec, Step};
use vlmd_kernels::Linear;

use super::anyres::Plan;
use super::config::Config;
use super::processor::Views;
use crate::LoadError;
use crate::common::activation::Activation;
use crate::common::clip::{self, Clip};
use crate::common::decoder::{Decoder, llama};
use crate::common::names::Parts;
use crate::common::params::Params;
use crate::common::positions::Positions;

/// LLaVA-1.5 or LLaVA-NeXT with its weights.
#[derive(Debug)]
pub(super) struct Llava {
    spec: ModelSpec,
    tower: Clip,
    keeps_class_token: bool,
    projector: [Linear; 2],
    activation: Activation,
    views: Views,
    /// `[1, hidden]`: ends a row of patches' features. LLaVA-NeXT only.
    newline: Option<Tensor>,
    decoder: Decoder,
    dtype: DType,
}

impl Llava {
    pub(super) fn load(
        params: &Params<'_>,
        config: &Config,
        views: Views,
    ) -> std::result::Result<Self, LoadError> {
        let defaults = config.text_defaults()?;
        let sizes = config.text_config.sizes(defaults)?;
        let hidden = sizes.hidden_size;
        let parts = Parts::of(params);
        let source = llama::Source {
            model: parts.text,
            head: (!config.tie_word_embeddings()).then_some(parts.head),
            rms_norm_eps: config.text_config.rms_norm_eps(defaults)?,
            unsaid_tokens: 0,
        };
        let weights = llama::load(&source, &sizes, 0..sizes.layers)?;
        let rope = config.text_config.rope(&sizes, defaults)?;
        let tower = Clip::load(&parts.vision.at(super::TOWER), &config.tower()?)?;
        let width = tower.geometry().hidden;
        let projector = parts.vision.at("multi_modal_projector");
        let linear = |name, input, output| {
            if config.multimodal_projector_bias {
                projector.linear_with_bias(name, input, output)
            } else {
                projector.linear(name, input, output)
            }
        };
        let newline = match views {
            Views::Middle => None,
            Views::Anyres(_) => {
                let newline = parts.vision.activation("image_newline", &[hidden])?;
                Some(newline.unsqueeze(0)?)
            }
        };
        let decoder = Decoder::new(params, sizes, Positions::Rotary(rope), weights);
        Ok(Self {
            spec: decoder.spec(),
            tower,
            keeps_class_token: config.keeps_class_token(),
            projector: [
                linear("linear_1", width, hidden)?,
                linear("linear_2", hidden, hidden)?,
            ],
            activation: config.projector_activation()?,
            views,
            newline,
            decoder,
            dtype: params.activation_dtype(),
        })
    }

    /// Projected features of views `[n, 3, side, side]`: `[n, features, hidden]`.
    fn project(&self, pixels: &Tensor) -> Result<Tensor> {
        let pixels = pixels.to_device(self.device())?.to_dtype(self.dtype)?;
        let features = if self.keeps_class_token {
            self.tower.forward(&pixels)?
        } else {
            self.tower.patches(&pixels)?
        };
        let [first, second] = &self.projector;
        second.forward(&self.activation.apply(&first.forward(&features)?)?)
    }

    /// One picture's views as they stand in the prompt: `[n, features, hidden]` to
    /// `[image.features, hidden]`.
    fn arrange(&self, views: &Tensor, image: &ImageInput) -> Result<Tensor> {
        let (Views::Anyres(pinpoints), Some(newline)) = (&self.views, &self.newline) else {
            return views.squeeze(0);
        };
        let geometry = self.tower.geometry();
        let size = (image.size.1, image.size.0);
        let plan = Plan::new(size, pinpoints, geometry.side(), geometry.grid);
        let (count, features, hidden) = views.dims3()?;
        if count != 1 + plan.patches.0 * plan.patches.1 {
            bail!(
                "{count} views do not make a picture of {:?} patches",
                plan.patches
            );
        }
        let patches = views
            .narrow(0, 1, count - 1)?
            .reshape(((count - 1) * features, hidden))?;
        let ends = patches.dim(0)? as u32;
        let order = Tensor::new(plan.order(geometry.grid, ends), self.device())?;
        let rows = Tensor::cat(&[&patches, newline], 0)?;
        let whole = views.narrow(0, 0, 1)?.squeeze(0)?;
        if order.elem_count() == 0 {
            return Ok(whole);
        }
        Tensor::cat(&[whole, rows.index_select(&order, 0)?], 0)
    }
}

impl Model for Llava {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> &Device {
        self.decoder.device()
    }

    /// The views of all pictures share passes through the tower.
    fn encode(&self, images: &[&ImageInput]) -> Result<Vec<Tensor>> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let pixels: Vec<&Tensor> = images.iter().map(|image| &image.pixels).collect();
        let pixels = Tensor::cat(&pixels, 0)?;
        let projected = clip::in_passes(&pixels, |views| self.project(views))?;
        let mut first = 0;
        let mut features = Vec::with_capacity(images.len());
        for image in images {
            let views = image.pixels.dim(0)?;
            features.push(self.arrange(&projected.narrow(0, first, views)?, image)?);
            first += views;
        }
        Ok(features)
    }

    fn forward(&self, step: &Step, cache: &KvCache) -> Result<Tensor> {
        self.decoder.forward(step, cache)
    }
}
