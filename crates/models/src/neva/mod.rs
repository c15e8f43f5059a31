//! NVIDIA NeVA: LLaVA on Nemotron or Llama, trained with NeMo and published as a `.nemo` archive.
//!
//! CLIP's features of a picture are projected and take the place of marks in the prompt of a GPT
//! (NVGPT: LayerNorm1p, squared ReLU, rotations of half a head) or of a Llama. NeMo leaves a
//! tower that it has not trained out of the archive; it comes from a Hugging Face checkpoint.
//!
//! The reference is `tests/reference/neva_reference.py`: NeMo itself needs a GPU, and what it
//! computes is written down there from the source of NeMo 1.23 and 2.2, with transformers'
//! Nemotron and Llama as witnesses.

mod config;
mod model;
mod processor;
mod template;

use std::sync::Arc;

use vlmd_backend::ModelSpec;

pub use processor::NevaProcessor;

use crate::common::clip::{Clip, Geometry};
use crate::common::clip_config::ClipConfig;
use crate::common::decoder::megatron::Checkpoint;
use crate::load::Source;
use crate::nemo_files::TOWER;
use crate::registry::{Entry, Parts};
use crate::{LoadError, ModelFiles, NemoFiles};
use config::Config;

/// The registry's entry.
pub const ENTRY: Entry = Entry {
    name: "neva",
    architectures: &["MegatronNevaModel"],
    load,
};

/// The tower's branch of CLIP's checkpoints.
const VISION_MODEL: &str = "vision_model";

/// The repository whose tower an archive needs beside it; `None` where it brings its own.
///
/// # Errors
/// When the archive's configuration is not NeVA's.
pub fn wanted_tower(files: &NemoFiles) -> Result<Option<String>, LoadError> {
    Ok(Config::read(files)?.wanted_tower().map(str::to_owned))
}

fn load(files: &ModelFiles, source: &Source<'_>) -> Result<Parts, LoadError> {
    let ModelFiles::Nemo(files) = files else {
        return Err(LoadError::invalid(
            "config.json",
            "NeVA is read from `.nemo` archives only",
        ));
    };
    let config = Config::read(files)?;
    // The configuration of a distributed checkpoint tells who wrote it, not how it is split.
    if !files.is_distributed() {
        config.check_ranks(files.ranks())?;
    }
    let checkpoint = Checkpoint::find(source, files.ranks())?;
    let trained = checkpoint.vision()?.at("vision_encoder").at(VISION_MODEL);
    let tower = if trained.has("embeddings.patch_embedding.weight") {
        trained
    } else if files.tower().is_some() {
        source.root().at(TOWER).at(VISION_MODEL)
    } else {
        let wanted = config.wanted_tower().unwrap_or("a CLIP model");
        return Err(LoadError::NoVisionTower(wanted.to_owned()));
    };
    let clip = files
        .tower()
        .map_or_else(|| Ok(ClipConfig::default()), ClipConfig::read)?;
    clip.stated().check(&tower)?;
    let geometry = Geometry::read(&tower)?;
    let processor = NevaProcessor::new(files, &config, geometry, checkpoint.rows()?)?;
    let sizes = config.sizes(processor.vocab_size())?;
    source.admit(ModelSpec {
        input_vocab_size: checkpoint.rows()?,
        ..sizes.spec()
    })?;
    let mut options = clip.options(config.hidden_state()?)?;
    options.class_token = config.keeps_class_token()?;
    let tower = Clip::load(&tower, &options)?;
    let model = model::load(&checkpoint, tower, &config, sizes)?;
    Ok((Arc::new(processor), model))
}
