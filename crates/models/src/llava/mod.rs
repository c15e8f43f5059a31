//! LLaVA-1.5 and LLaVA-NeXT (1.6), on Vicuna, Mistral and Yi.
//!
//! A CLIP tower's last but one hidden state is projected by two linear layers and takes the place
//! of `<image>` in the prompt of a Llama-like decoder. LLaVA-1.5 looks at the middle of a
//! picture; LLaVA-NeXT at the whole, and at patches of it in a layout that fits its ratio
//! (`anyres`).
//!
//! The reference is transformers 4.51.3 with its PIL processors. It takes a picture that is 1 or
//! 3 pixels high for one with its colours first, and fails or answers nonsense; here such a
//! picture is one like any other.

mod anyres;
mod config;
mod model;
mod processor;
mod templates;

use std::sync::Arc;

pub use processor::LlavaProcessor;

use crate::common::clip::Geometry;
use crate::common::fields::CONFIG;
use crate::common::names;
use crate::common::params::Params;
use crate::footprint::{DecoderShape, EncoderShape, Footprint, ViewShape};
use crate::load::Source;
use crate::outline::{Outline, Sketch};
use crate::registry::{Entry, Parts};
use crate::{LoadError, ModelFiles};
use processor::Views;

/// The registry's entry for LLaVA-1.5.
pub const LLAVA: Entry = Entry {
    name: "llava",
    architectures: &["LlavaForConditionalGeneration"],
    load: |files, source| load(files, source, false),
    outline: |sketch| outline(sketch, false),
};

/// The registry's entry for LLaVA-NeXT.
pub const LLAVA_NEXT: Entry = Entry {
    name: "llava_next",
    architectures: &["LlavaNextForConditionalGeneration"],
    load: |files, source| load(files, source, true),
    outline: |sketch| outline(sketch, true),
};

/// The tower's branch among the tensors of the vision half.
const TOWER: &str = "vision_tower.vision_model";

/// The tower's branch among all tensors.
fn tower<'a>(root: &Params<'a>) -> Params<'a> {
    names::Parts::of(root).vision.at(TOWER)
}

fn load(files: &ModelFiles, source: &Source<'_>, next: bool) -> Result<Parts, LoadError> {
    let params = source.root();
    let config = config::Config::read(files)?;
    // Cheap things first: a bad tokenizer shows before gigabytes are read.
    let branch = tower(&params);
    config.stated().check(&branch)?;
    let geometry = Geometry::read(&branch)?;
    let views = if next {
        if config.keeps_class_token() {
            return Err(CONFIG.must("vision_feature_select_strategy", "be `default`", "full"));
        }
        Views::Anyres(config.pinpoints(files, geometry.side())?)
    } else {
        Views::Middle
    };
    let processor = LlavaProcessor::new(files, &config, geometry, views.clone())?;
    source.admit(outline(&source.sketch(files), next)?)?;
    let model = model::load(&params, &config, views)?;
    Ok((Arc::new(processor), model))
}

fn outline(sketch: &Sketch<'_>, next: bool) -> Result<Outline, LoadError> {
    let config = config::Config::read(sketch.files)?;
    let head_dim = config.tower()?.head_dim;
    let (geometry, tower) = sketch.clip(tower, config.vision(), head_dim)?;
    let (side, grid) = (geometry.side(), geometry.grid);
    let view_features = geometry.features(config.keeps_class_token());
    // Height and width of the largest patchwork, in patches.
    let pinpoints = if next {
        config.pinpoints(sketch.files, side)?
    } else {
        Vec::new()
    };
    let patches = |&(high, wide): &(usize, usize)| (high / side, wide / side);
    // Every row of features has an end of its own: among equals the tallest has most.
    let most = pinpoints
        .iter()
        .map(patches)
        .max_by_key(|&(rows, columns)| (rows * columns, rows));
    let sizes = config.text_config.sizes(config.text_defaults()?)?;
    let views = match most {
        None => ViewShape {
            tower,
            geometry,
            most: 1,
            projected: view_features,
            features: view_features,
            largest: (side, side),
        },
        Some((rows, columns)) => ViewShape {
            tower,
            geometry,
            most: 1 + rows * columns,
            projected: view_features,
            features: view_features + rows * grid * (columns * grid + 1),
            largest: (columns * side, rows * side),
        },
    };
    Ok(Outline {
        footprint: Footprint {
            decoder: DecoderShape::new(&sizes, 0),
            encoder: EncoderShape::Views(views),
        },
        spec: sizes.spec(),
    })
}
