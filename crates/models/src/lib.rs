//! The architectures, and the registry that picks one for a checkpoint.
//!
//! A checkpoint is a directory in the Hugging Face layout, NeMo's archive, or the one that is
//! compiled in. [`load()`] reads its configuration, finds the architecture in [`registry`], and
//! gives back the two halves that serve it: a [`Processor`], which turns conversations and
//! pictures into prompts on any thread, and a [`Model`](vlmd_backend::Model), which the engine's
//! worker owns.
//!
//! Each architecture has a folder with its registry entry; what several need is in `common`.
//! [`catalog`] knows the models by the names that clients use for them.

mod budget;
mod card_shapes;
pub mod catalog;
mod common;
mod error;
mod files;
mod footprint;
pub mod kosmos2;
pub mod llava;
mod load;
pub mod mllama;
pub mod nemo;
mod nemo_files;
pub mod neva;
mod outline;
pub mod phi3_v;
mod processor;
pub mod registry;
pub mod tiny;
mod torch;

pub use error::LoadError;
pub use files::{
    MAX_TEXT_FILE_BYTES, ModelFiles, TORCH_WEIGHTS_FILE, TORCH_WEIGHTS_INDEX_FILE, WEIGHTS_FILE,
    WEIGHTS_INDEX_FILE, shard_names,
};
pub use footprint::{Compute, Footprint, StepBound};
pub use load::{Admit, LoadOptions, LoadedModel, Need, OnProgress, load};
pub use nemo_files::NemoFiles;
pub use outline::{survey, survey_card};
pub use processor::{
    Chat, Ending, Entity, Grounded, ImageError, Message, Part, PrepareError, Processor, ToolCall,
};
