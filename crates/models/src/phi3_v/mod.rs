//! Phi-3-vision-128k and Phi-3.5-vision.
//!
//! A picture is scaled so that it fills as many square crops as allowed (`hd_transform`); each
//! crop, and a view of the whole, goes through a CLIP tower; patches are merged two by two, rows
//! are ended by a learnt separator and projected (`vision`); the result takes the place of
//! `<|image_k|>` in the prompt (`processor`) of a Llama-like decoder with LongRoPE.
//!
//! Behaviour follows the remote code that Microsoft publishes with the weights:
//! `image_processing_phi3_v.py`, `processing_phi3_v.py`, `image_embedding_phi3_v.py` and
//! `modeling_phi3_v.py`. Where it departs from them, the place says so.

mod config;
mod hd_transform;
mod processor;
mod vision;

use std::sync::Arc;

use vlmd_backend::ModelSpec;

pub use processor::Phi3VProcessor;

use crate::common::clip::{Geometry, HEAD_DIM};
use crate::common::clip_config::ClipConfig;
use crate::common::params::Params;
use crate::footprint::{DecoderShape, EncoderShape, Footprint, ViewShape};
use crate::load::Source;
use crate::outline::{Outline, Sketch};
use crate::registry::{Entry, Parts};
use crate::{LoadError, ModelFiles};
use hd_transform::HdTransform;

/// The registry's entry.
pub const ENTRY: Entry = Entry {
    name: "phi3_v",
    architectures: &["Phi3VForCausalLM"],
    load,
    outline,
};

/// The tower's branch of the tensor names.
const TOWER: &str = "model.vision_embed_tokens.img_processor.vision_model";

/// The tower's branch among all tensors.
fn tower<'a>(root: &Params<'a>) -> Params<'a> {
    root.at(TOWER)
}

fn load(files: &ModelFiles, source: &Source<'_>) -> Result<Parts, LoadError> {
    let params = source.root();
    let config = config::Config::read(files)?;
    // Cheap things first: a bad tokenizer shows before gigabytes are read.
    let geometry = Geometry::read(&tower(&params))?;
    let processor = Phi3VProcessor::new(files, &config, geometry)?;
    source.admit(outline(&source.sketch(files))?)?;
    let model = vision::load(&params, &config)?;
    Ok((Arc::new(processor), model))
}

fn outline(sketch: &Sketch<'_>) -> Result<Outline, LoadError> {
    let config = config::Config::read(sketch.files)?;
    let (geometry, tower) = sketch.clip(tower, &ClipConfig::vit_l_14_336(), HEAD_DIM)?;
    let crops = HdTransform::read(sketch.files, geometry.side())?.most();
    let sizes = config.sizes()?;
    let (side, cells) = (geometry.side(), geometry.grid / 2);
    Ok(Outline {
        footprint: Footprint {
            decoder: DecoderShape::new(&sizes, 0),
            encoder: EncoderShape::Views(ViewShape {
                tower,
                geometry,
                most: 1 + crops,
                projected: cells * cells,
                // Every row of tokens has an end of its own: of all shapes a column has most.
                features: vision::features(crops, 1, cells),
                largest: (side, side * crops),
            }),
        },
        spec: ModelSpec {
            long_beyond: config.rope()?.long_beyond(),
            ..sizes.spec()
        },
    })
}
