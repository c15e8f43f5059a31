//! Tower, projector and decoder put together.

use candle_core::{Result, Tensor, bail};
use vlmd_backend::{ImageInput, Model};

use super::anyres::Plan;
use super::config::Config;
use super::processor::Views;
use crate::LoadError;
use crate::common::clip::Clip;
use crate::common::decoder::{Decoder, llama};
use crate::common::names::Parts;
use crate::common::params::Params;
use crate::common::positions::Positions;
use crate::common::projector::{Projected, Projector};
use crate::common::spliced::{Spliced, Vision};

/// Loads LLaVA-1.5 or LLaVA-NeXT, whose views are the whole and patches of it.
pub(super) fn load(
    params: &Params<'_>,
    config: &Config,
    views: Views,
) -> std::result::Result<Box<dyn Model>, LoadError> {
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
    let decoder = Decoder::new(params, sizes, Positions::Rotary(rope), weights);
    let tower = Clip::load(&parts.vision.at(super::TOWER), &config.tower()?)?;
    let projector = Projector::load(
        &parts.vision.at("multi_modal_projector"),
        &["linear_1", "linear_2"],
        config.multimodal_projector_bias,
        (tower.geometry().hidden, hidden),
        config.projector_activation()?,
    )?;
    let projected = Projected { tower, projector };
    Ok(match views {
        Views::Middle => Box::new(Spliced::new(projected, decoder)),
        Views::Anyres(pinpoints) => {
            let newline = parts.vision.activation("image_newline", &[hidden])?;
            let vision = Anyres {
                projected,
                pinpoints,
                newline: newline.unsqueeze(0)?,
            };
            Box::new(Spliced::new(vision, decoder))
        }
    })
}

/// LLaVA-NeXT's view of pictures.
#[derive(Debug)]
struct Anyres {
    projected: Projected,
    /// Sizes that a picture may be laid out in, `(height, width)`.
    pinpoints: Vec<(usize, usize)>,
    /// `[1, hidden]`: ends a row of patches' features.
    newline: Tensor,
}

impl Vision for Anyres {
    fn tower(&self) -> &Clip {
        self.projected.tower()
    }

    fn project(&self, features: &Tensor) -> Result<Tensor> {
        self.projected.project(features)
    }

    fn project_work(&self) -> u64 {
        self.projected.project_work()
    }

    /// `[n, features, hidden]`, the whole first, to `[image.features, hidden]`.
    fn arrange(&self, views: &Tensor, image: &ImageInput) -> Result<Tensor> {
        let geometry = self.projected.tower.geometry();
        let size = (image.size.1, image.size.0);
        let plan = Plan::new(size, &self.pinpoints, geometry.side(), geometry.grid);
        let (count, features, hidden) = views.dims3()?;
        if count != 1 + plan.patches.0 * plan.patches.1 {
            bail!(
                "{count} views do not make a picture of {:?} patches",
                plan.patches
            );
        }
        let whole = views.narrow(0, 0, 1)?.squeeze(0)?;
        let patches = views
            .narrow(0, 1, count - 1)?
            .reshape(((count - 1) * features, hidden))?;
        let ends = patches.dim(0)? as u32;
        let order = plan.order(geometry.grid, ends);
        // CUDA drivers without memory pools refuse to allocate nothing.
        if order.is_empty() {
            return Ok(whole);
        }
        let order = Tensor::new(order, views.device())?;
        let rows = Tensor::cat(&[&patches, &self.newline], 0)?;
        Tensor::cat(&[whole, rows.index_select(&order, 0)?], 0)
    }
}
