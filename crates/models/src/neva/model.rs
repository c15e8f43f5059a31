//! Tower, projector and decoder put together.

use vlmd_backend::Model;

use super::config::Config;
use crate::LoadError;
use crate::common::activation::Activation;
use crate::common::clip::Clip;
use crate::common::decoder::Decoder;
use crate::common::decoder::megatron::Checkpoint;
use crate::common::positions::Positions;
use crate::common::projector::{Projected, Projector};
use crate::common::sizes::Sizes;
use crate::common::spliced::Spliced;

/// Loads what is the language model's, and the projector (`build_vision_projector`, as LLaVA has
/// it), which is a branch beside the embeddings.
pub(super) fn load(
    checkpoint: &Checkpoint<'_>,
    tower: Clip,
    config: &Config,
    sizes: Sizes,
) -> Result<Box<dyn Model>, LoadError> {
    let rope = config.rope(&sizes)?;
    let vision = checkpoint.vision()?;
    let projector = Projector::load(
        &vision.at("adapter_layer.mm_projector_adapter"),
        &config.projector(tower.geometry().hidden)?,
        true,
        (tower.geometry().hidden, sizes.hidden_size),
        Activation::Gelu,
    )?;
    let weights = checkpoint.decoder(&config.decoder()?, &sizes)?;
    let decoder = Decoder::new(&vision, sizes, Positions::Rotary(rope), weights);
    let projected = Projected { tower, projector };
    Ok(Box::new(Spliced::new(projected, decoder)))
}
