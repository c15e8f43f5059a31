//! NeMo's checkpoints: a tar archive named `.nemo`, compressed or not, or its unpacked directory.
//!
//! It holds `model_config.yaml`, the tokenizer that the configuration names, and the weights:
//! one `model_weights.ckpt`, or one in a folder for each rank of tensor and pipeline parallelism.
//! The archive's members are read in place, from a mapping of the file; a compressed one is
//! unfolded into a file without a name first. Nothing is ever written to a path that an archive
//! says, and nothing of it is executed.

mod container;
mod gzip;
mod ranks;

use std::path::Path;
use std::sync::Arc;

use vlmd_kernels::weights::Weights;

use crate::LoadError;
use container::Container;
use ranks::Ranks;

/// The configuration's name.
pub const CONFIG_FILE: &str = "model_config.yaml";

/// An opened checkpoint. Clones share it.
#[derive(Debug, Clone)]
pub struct NemoArchive(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    container: Container,
    ranks: Ranks,
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
    /// for temporary files as the weights have bytes.
    ///
    /// # Errors
    /// [`LoadError::Io`] and [`LoadError::Weights`] when it cannot be read;
    /// [`LoadError::Invalid`] when the archive is damaged, has a link, a device, two members of
    /// one name or one whose path leads out of it, unfolds to far more than its size, or does
    /// not have the weights of every rank; [`LoadError::Missing`] when it has none.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let container = Container::open(path)?;
        let ranks = Ranks::find(&container)?;
        Ok(Self(Arc::new(Inner { container, ranks })))
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

    /// The numbers of tensor-parallel and pipeline-parallel ranks that the weights are split
    /// over, each at least 1.
    #[must_use]
    pub fn ranks(&self) -> (usize, usize) {
        (self.0.ranks.tensor, self.0.ranks.pipeline)
    }

    /// The tensors of all ranks, each named as in its rank's file behind `tp{T}.pp{P}.`, where T
    /// and P count from 0. Nothing is copied.
    ///
    /// # Errors
    /// [`LoadError::Invalid`] when a file is no checkpoint of PyTorch, wants something called
    /// that is not a part of tensors, or is damaged; [`LoadError::Weights`].
    pub fn weights(&self) -> Result<Weights, LoadError> {
        let mut weights = Weights::empty();
        for (tensor, pipeline, member) in self.0.ranks.members() {
            let part = self.0.container.checkpoint(member)?;
            weights.merge(&format!("tp{tensor}.pp{pipeline}."), part)?;
        }
        Ok(weights)
    }
}
