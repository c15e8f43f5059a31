//! Kosmos-2: a picture in 64 latents, and answers that point at it.
//!
//! A CLIP tower's features, all of them, are brought to unit length and pressed into a fixed
//! number of learnt latents by one layer of cross-attention (`resampler`). They stand between
//! `<image>` and `</image>` at the beginning of the prompt of a decoder with Magneto's inner norms
//! and sinusoidal positions. Its answers name places in the picture by the cells of a grid;
//! `grounding` makes boxes of them.
//!
//! The reference is transformers 4.51.3 with its PIL processor. It takes a picture that is 1 or 3
//! pixels high for one with its colours first, and fails or answers nonsense; here such a picture
//! is one like any other.

mod config;
mod grounding;
mod model;
mod processor;
mod prompt;
mod resampler;

use std::sync::Arc;

pub use processor::Kosmos2Processor;

use crate::common::params::Params;
use crate::load::Source;
use crate::registry::{Entry, Parts};
use crate::{LoadError, ModelFiles};

/// The registry's entry.
pub const ENTRY: Entry = Entry {
    name: "kosmos-2",
    architectures: &["Kosmos2ForConditionalGeneration"],
    load,
};

/// The tower's branch among the tensors.
fn tower<'a>(root: &Params<'a>) -> Params<'a> {
    root.at("vision_model").at("model")
}

fn load(files: &ModelFiles, source: &Source<'_>) -> Result<Parts, LoadError> {
    let config = config::Config::read(files)?;
    // Cheap things first: a bad tokenizer shows before gigabytes are read.
    let processor = Kosmos2Processor::new(files, &config, source)?;
    source.admit(config.text_config.sizes()?.spec())?;
    let model = model::load(&source.root(), &config)?;
    Ok((Arc::new(processor), model))
}
