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

use crate::common::clip::{self, Clip, Geometry};
use crate::common::clip_config::ClipConfig;
use crate::common::decoder::megatron::Checkpoint;
use crate::common::params::Params;
use crate::common::sizes::Sizes;
use crate::footprint::{DecoderShape, EncoderShape, Footprint, ViewShape};
use crate::load::Source;
use crate::nemo::CONFIG_FILE;
use crate::nemo_files::TOWER;
use crate::outline::{Outline, Sketch, tower_shape};
use crate::registry::{Entry, Parts};
use crate::{LoadError, ModelFiles, NemoFiles};
use config::Config;

/// The registry's entry.
pub const ENTRY: Entry = Entry {
    name: "neva",
    architectures: &["MegatronNevaModel"],
    load,
    outline,
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

/// What is known of an archive before weights are read.
struct Opened<'a> {
    config: Config,
    checkpoint: Checkpoint<'a>,
    /// The tower's branch, in the archive or beside it.
    tower: Params<'a>,
    clip: ClipConfig,
    geometry: Geometry,
    processor: NevaProcessor,
}

impl<'a> Opened<'a> {
    fn new(files: &ModelFiles, source: &'a Source<'_>) -> Result<Self, LoadError> {
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
        Ok(Self {
            config,
            checkpoint,
            tower,
            clip,
            geometry,
            processor,
        })
    }

    fn sizes(&self) -> Result<Sizes, LoadError> {
        self.config.sizes(self.processor.vocab_size())
    }

    /// What tensors do not tell about the tower.
    fn options(&self) -> Result<clip::Options, LoadError> {
        let mut options = self.clip.options(self.config.hidden_state()?)?;
        options.class_token = self.config.keeps_class_token()?;
        Ok(options)
    }

    fn outline(&self) -> Result<Outline, LoadError> {
        let (sizes, options, geometry) = (self.sizes()?, self.options()?, self.geometry);
        let features = geometry.features(options.class_token);
        let inner = Clip::inner(&self.tower);
        Ok(Outline {
            footprint: Footprint {
                decoder: DecoderShape::new(&sizes, 0),
                encoder: EncoderShape::Views(ViewShape {
                    tower: tower_shape(geometry, inner, options.head_dim),
                    geometry,
                    most: 1,
                    projected: features,
                    features,
                    largest: (geometry.side(), geometry.side()),
                }),
            },
            spec: ModelSpec {
                input_vocab_size: self.checkpoint.rows()?,
                ..sizes.spec()
            },
        })
    }
}

fn load(files: &ModelFiles, source: &Source<'_>) -> Result<Parts, LoadError> {
    let opened = Opened::new(files, source)?;
    source.admit(opened.outline()?)?;
    let tower = Clip::load(&opened.tower, &opened.options()?)?;
    let sizes = opened.sizes()?;
    let model = model::load(&opened.checkpoint, tower, &opened.config, sizes)?;
    Ok((Arc::new(opened.processor), model))
}

fn outline(sketch: &Sketch<'_>) -> Result<Outline, LoadError> {
    let Some(source) = sketch.source else {
        return Err(LoadError::invalid(
            CONFIG_FILE,
            "what NeVA needs is told by its archive only",
        ));
    };
    Opened::new(sketch.files, source)?.outline()
}
