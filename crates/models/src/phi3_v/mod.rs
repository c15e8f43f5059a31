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

pub use processor::Phi3VProcessor;

use crate::common::clip::Geometry;
use crate::load::Source;
use crate::registry::{Entry, Parts};
use crate::{LoadError, ModelFiles};

/// The registry's entry.
pub const ENTRY: Entry = Entry {
    name: "phi3_v",
    architectures: &["Phi3VForCausalLM"],
    load,
};

/// The tower's branch of the tensor names.
const TOWER: &str = "model.vision_embed_tokens.img_processor.vision_model";

fn load(files: &ModelFiles, source: &Source<'_>) -> Result<Parts, LoadError> {
    let params = source.root();
    let config = config::Config::read(files)?;
    // Cheap things first: a bad tokenizer shows before gigabytes are read.
    let geometry = Geometry::read(&params.at(TOWER))?;
    let processor = Phi3VProcessor::new(files, &config, geometry)?;
    source.admit(vlmd_backend::ModelSpec {
        long_beyond: config.rope()?.long_beyond(),
        ..config.sizes()?.spec()
    })?;
    let model = vision::load(&params, &config)?;
    Ok((Arc::new(processor), model))
}
