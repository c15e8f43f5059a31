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
use crate::footprint::{DecoderShape, EncoderShape, Footprint, ViewShape};
use crate::load::Source;
use crate::outline::{Outline, Sketch};
use crate::registry::{Entry, Parts};
use crate::{LoadError, ModelFiles};

/// The registry's entry.
pub const ENTRY: Entry = Entry {
    name: "kosmos-2",
    architectures: &["Kosmos2ForConditionalGeneration"],
    load,
    outline,
};

/// The tower's branch among the tensors.
fn tower<'a>(root: &Params<'a>) -> Params<'a> {
    root.at("vision_model").at("model")
}

fn load(files: &ModelFiles, source: &Source<'_>) -> Result<Parts, LoadError> {
    let config = config::Config::read(files)?;
    // Cheap things first: a bad tokenizer shows before gigabytes are read.
    let processor = Kosmos2Processor::new(files, &config, source)?;
    source.admit(outline(&source.sketch(files))?)?;
    let model = model::load(&source.root(), &config)?;
    Ok((Arc::new(processor), model))
}

fn outline(sketch: &Sketch<'_>) -> Result<Outline, LoadError> {
    let config = config::Config::read(sketch.files)?;
    let head_dim = config.tower()?.head_dim;
    let (geometry, tower) = sketch.clip(tower, config.vision(), head_dim)?;
    let sizes = config.text_config.sizes()?;
    let features = geometry.features(true);
    Ok(Outline {
        footprint: Footprint {
            decoder: DecoderShape::new(&sizes, 0),
            encoder: EncoderShape::Views(ViewShape {
                tower,
                geometry,
                most: 1,
                // The resampler's keys and values are of all features, and of the latents.
                projected: features + config.latent_query_num,
                features: config.latent_query_num,
                largest: (geometry.side(), geometry.side()),
            }),
        },
        spec: sizes.spec(),
    })
}
