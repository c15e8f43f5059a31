//! The files of a model that NeMo saved.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use vlmd_kernels::weights::Weights;

use crate::nemo::{CONFIG_FILE, NemoArchive};
use crate::{LoadError, ModelFiles};

/// The branch of the tower's tensors among all.
pub(crate) const TOWER: &str = "vision_tower";

/// A `.nemo` archive, and the vision tower that stands beside it.
#[derive(Debug, Clone)]
pub struct NemoFiles {
    path: PathBuf,
    archive: NemoArchive,
    tower: Option<Box<ModelFiles>>,
}

impl NemoFiles {
    /// Whether `path` looks like what [`open`](Self::open) reads.
    #[must_use]
    pub fn is_nemo(path: &Path) -> bool {
        crate::nemo::is_nemo(path)
    }

    /// Opens an archive, or the directory that it was unpacked to.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or holds what no archive of NeMo's has.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        Ok(Self {
            path: path.to_owned(),
            archive: NemoArchive::open(path)?,
            tower: None,
        })
    }

    /// Adds a vision tower, a checkpoint in the Hugging Face layout.
    #[must_use]
    pub fn with_tower(self, tower: ModelFiles) -> Self {
        Self {
            tower: Some(Box::new(tower)),
            ..self
        }
    }

    pub(crate) fn tower(&self) -> Option<&ModelFiles> {
        self.tower.as_deref()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// See [`NemoArchive::is_distributed`].
    pub(crate) fn is_distributed(&self) -> bool {
        self.archive.is_distributed()
    }

    /// Tensor-parallel ranks and pipeline stages of the weights.
    pub(crate) fn ranks(&self) -> (usize, usize) {
        self.archive.ranks()
    }

    /// The contents of a small file; `None` if it does not exist.
    pub(crate) fn read_optional(
        &self,
        name: &str,
    ) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
        match self.archive.read(name) {
            Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
            Err(LoadError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The contents of a small file.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, LoadError> {
        self.archive.read(name)
    }

    /// A YAML file as `T`. What it may unfold to is bounded.
    pub(crate) fn yaml<T: DeserializeOwned>(&self, name: &str) -> Result<T, LoadError> {
        serde_saphyr::from_slice(&self.read(name)?).map_err(|error| LoadError::Yaml {
            file: name.to_owned(),
            reason: error.without_snippet().to_string(),
        })
    }

    /// The class of the model, without its module.
    pub(crate) fn class(&self) -> Result<Option<String>, LoadError> {
        #[derive(Deserialize)]
        struct Target {
            target: Option<String>,
        }
        let Target { target } = self.yaml(CONFIG_FILE)?;
        Ok(target.and_then(|target| target.rsplit('.').next().map(str::to_owned)))
    }

    /// All weights: the archive's by rank, `tp0.pp0.` and so on, and the tower's.
    pub(crate) fn weights(&self) -> Result<Weights, LoadError> {
        let mut weights = self.archive.weights()?;
        if let Some(tower) = &self.tower {
            tower.check()?;
            weights.merge(&format!("{TOWER}."), tower.weights()?)?;
        }
        Ok(weights)
    }
}
