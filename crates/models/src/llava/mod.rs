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
use crate::load::Source;
use crate::registry::{Entry, Parts};
use crate::{LoadError, ModelFiles};
use processor::Views;

/// The registry's entry for LLaVA-1.5.
pub const LLAVA: Entry = Entry {
    name: "llava",
    architectures: &["LlavaForConditionalGeneration"],
    load: |files, source| load(files, source, false),
};

/// The registry's entry for LLaVA-NeXT.
pub const LLAVA_NEXT: Entry = Entry {
    name: "llava_next",
    architectures: &["LlavaNextForConditionalGeneration"],
    load: |files, source| load(files, source, true),
};

/// The tower's branch among the tensors of the vision half.
const TOWER: &str = "vision_tower.vision_model";

fn load(files: &ModelFiles, source: &Source<'_>, next: bool) -> Result<Parts, LoadError> {
    let params = source.root();
    let config = config::Config::read(files)?;
    // Cheap things first: a bad tokenizer shows before gigabytes are read.
    let tower = names::Parts::of(&params).vision.at(TOWER);
    config.stated().check(&tower)?;
    let geometry = Geometry::read(&tower)?;
    let views = if next {
        if config.keeps_class_token() {
            return Err(CONFIG.must("vision_feature_select_strategy", "be `default`", "full"));
        }
        Views::Anyres(config.pinpoints(files, geometry.side())?)
    } else {
        Views::Middle
    };
    let processor = LlavaProcessor::new(files, &config, geometry, views.clone())?;
    let sizes = config.text_config.sizes(config.text_defaults()?)?;
    source.admit(sizes.spec())?;
    let model = model::load(&params, &config, views)?;
    Ok((Arc::new(processor), model))
}
