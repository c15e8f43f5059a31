//! Llama-3.2-Vision, 11B and 90B ("mllama").
//!
//! A picture is laid on a canvas of up to four square tiles (`canvas`), which a tower with local
//! and global layers turns into features (`vision`), piece by piece (`encoding`). They never stand
//! in the prompt: every few layers the Llama decoder has one more that looks at them by
//! cross-attention. Their keys and values are computed once, when the picture is encoded, and live
//! as long as the request, beside the paged cache.
//!
//! The reference is transformers 4.51.3; later versions take wrong states out of the tower. It
//! departs from Meta's own code in one thing: tokens before the first picture see all tiles of
//! all pictures, those that are empty, too. What the weights were trained with is Meta's: such
//! tokens see nothing. That is the default here;
//! [`LoadOptions::transformers_quirks`](crate::LoadOptions::transformers_quirks) asks for the
//! other.

mod canvas;
mod config;
mod encoding;
mod model;
mod processor;
mod vision;

use std::sync::Arc;

pub use processor::MllamaProcessor;

use crate::common::names;
use crate::footprint::{DecoderShape, EncoderShape, Footprint, TileShape, TowerShape};
use crate::load::Source;
use crate::outline::{Outline, Sketch};
use crate::registry::{Entry, Parts};
use crate::{LoadError, ModelFiles};

/// The registry's entry.
pub const ENTRY: Entry = Entry {
    name: "mllama",
    architectures: &["MllamaForConditionalGeneration"],
    load,
    outline,
};

fn load(files: &ModelFiles, source: &Source<'_>) -> Result<Parts, LoadError> {
    let config = config::Config::read(files)?;
    // Cheap things first: a bad tokenizer shows before gigabytes are read.
    let processor = MllamaProcessor::new(files, &config, source)?;
    source.admit(outline(&source.sketch(files))?)?;
    let model = model::Mllama::load(&source.root(), &config)?;
    Ok((Arc::new(processor), Box::new(model)))
}

fn outline(sketch: &Sketch<'_>) -> Result<Outline, LoadError> {
    let config = config::Config::read(sketch.files)?;
    let vision = &config.vision_config;
    let inner = sketch.source.and_then(|source| {
        let parts = names::Parts::of(&source.root());
        let layers = parts
            .vision
            .at("vision_model")
            .at("transformer")
            .at("layers");
        let [inner, _] = layers.at(0).at("mlp").shape("fc1.weight").ok()?;
        Some(inner)
    });
    let tower = TowerShape {
        hidden: vision.hidden_size,
        heads: vision.attention_heads,
        // All that were published widen four times.
        inner: inner.unwrap_or_else(|| vision.hidden_size.saturating_mul(4)),
    };
    Ok(Outline {
        footprint: Footprint {
            decoder: DecoderShape::new(&config.text_sizes()?, config.cross_layers().len()),
            encoder: EncoderShape::Tiles(TileShape {
                tower,
                tile: vision.image_size,
                tiles: vision.max_num_tiles,
                tile_tokens: vision.tile_tokens(),
                inner_states: vision.intermediate_layers_indices.len(),
            }),
        },
        spec: config.spec(sketch.activations)?,
    })
}
