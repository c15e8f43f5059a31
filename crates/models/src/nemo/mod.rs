//! NeMo's checkpoints: a tar archive named `.nemo`, compressed or not, or its unpacked directory.
//!
//! It holds `model_config.yaml`, the tokenizer that the configuration names, and the weights:
//! one `model_weights.ckpt`, or one in a folder for each rank of tensor and pipeline parallelism,
//! or a distributed checkpoint in `model_weights`.
//!
//! The archive's members are read in place, from a mapping of the file; a compressed one is
//! unfolded into a file without a name first. Nothing is ever written to a path that an archive
//! says, and nothing of it is executed.

mod container;
mod distributed;
mod gzip;
mod ranks;

use std::path::Path;
use std::sync::Arc;

use vlmd_kernels::weights::Weights;

use crate::LoadError;
use container::Container;
use distributed::Distributed;
use ranks::Ranks;

/// The configuration's name.
pub const CONFIG_FILE: &str = "model_config.yaml";

/// An opened checkpoint. Clones share it.
#[derive(Debug, Clone)]
pub struct NemoArchive(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    container: Container,
    layout: Layout,
}

/// How the weights are stored.
#[derive(Debug)]
enum Layout {
    /// Each rank's by themselves.
    Ranks(Ranks),
    /// All ranks' together.
    Distributed(Distributed),
}

/// Whether `path` is a checkpoint of NeMo by its looks: a file that ends in `.nemo`, or a
/// directory with a `model_config.yaml` and no `config.json`.
#[must_use]
pub fn is_nemo(path: &Path) -> bool {
    if path.is_dir() {
        return path.join(CONFIG_FILE).is_file() && !path.join("config.json").exists();
    }
    path.is_file() && path.extension().is_some_and(|end| end == "nemo")
}

impl NemoArchive {
    /// Opens an archive or its unpacked directory and finds its members.
    ///
    /// A compressed archive is unfolded here, which takes time and as much room in the directory
    /// for temporary files as the weights have bytes. It is free again when the archive and the
    /// weights from it are dropped.
    ///
    /// # Errors
    /// [`LoadError::Io`] and [`LoadError::Weights`] when it cannot be read;
    /// [`LoadError::Invalid`] when the archive is damaged, has a link, a device, two members of
    /// one name or one whose path leads out of it, unfolds to far more than its size, or does
    /// not have all weights; [`LoadError::Missing`] when it has none.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let container = Container::open(path)?;
        let ranks = Ranks::find(&container)?;
        let distributed = Distributed::find(&container)?;
        let layout = match (ranks, distributed) {
            (Some(ranks), None) => Layout::Ranks(ranks),
            (None, Some(distributed)) => Layout::Distributed(distributed),
            (None, None) => return Err(container.missing(ranks::WEIGHTS_FILE)),
            (Some(_), Some(_)) => {
                let reason = "it has weights of ranks and a distributed checkpoint as well";
                return Err(LoadError::invalid(container.place(), reason));
            }
        };
        Ok(Self(Arc::new(Inner { container, layout })))
    }

    /// The contents of a small member, such as [`CONFIG_FILE`]. `name` is its path in the archive
    /// without a leading `./`.
    ///
    /// # Errors
    /// [`LoadError::Missing`]; [`LoadError::TooLarge`] beyond
    /// [`MAX_TEXT_FILE_BYTES`](crate::MAX_TEXT_FILE_BYTES); [`LoadError::Io`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>, LoadError> {
        self.0.container.read(name)
    }

    /// Whether the weights are a distributed checkpoint, which holds whole tensors however many
    /// ranks wrote it.
    #[must_use]
    pub fn is_distributed(&self) -> bool {
        matches!(self.0.layout, Layout::Distributed(_))
    }

    /// The numbers of tensor-parallel and pipeline-parallel ranks that the weights are split
    /// over, each at least 1; both are 1 for a distributed checkpoint.
    #[must_use]
    pub fn ranks(&self) -> (usize, usize) {
        match &self.0.layout {
            Layout::Ranks(ranks) => (ranks.tensor, ranks.pipeline),
            Layout::Distributed(_) => (1, 1),
        }
    }

    /// All tensors. Nothing is copied.
    ///
    /// Those of ranks are named as in their rank's file, behind `tp{T}.pp{P}.`, where T and P
    /// count from 0. Those of a distributed checkpoint are whole, and named as those of a single
    /// rank.
    ///
    /// # Errors
    /// [`LoadError::Invalid`] when a file is not what it should be, wants something called that
    /// is not a part of tensors, or is damaged; [`LoadError::Missing`]; [`LoadError::Weights`].
    pub fn weights(&self) -> Result<Weights, LoadError> {
        match &self.0.layout {
            Layout::Ranks(ranks) => ranks.weights(&self.0.container),
            Layout::Distributed(distributed) => {
                let mut weights = Weights::empty();
                weights.merge("tp0.pp0.", distributed.weights(&self.0.container)?)?;
                Ok(weights)
            }
        }
    }
}
