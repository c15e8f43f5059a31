//! Copies of the committed checkpoints, to be changed.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

/// The weights, which every golden has in one file.
pub(crate) const WEIGHTS: &str = "model.safetensors";

/// A copy of a golden's checkpoint in a directory of its own, without what the reference computed.
pub(crate) struct Checkpoint(tempfile::TempDir);

impl Checkpoint {
    pub(crate) fn copy(golden: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(golden).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            let computed = name.to_str().unwrap().starts_with("golden.");
            if entry.file_type().unwrap().is_file() && !computed {
                fs::copy(entry.path(), directory.path().join(name)).unwrap();
            }
        }
        Self(directory)
    }

    pub(crate) fn directory(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// Rewrites the weights.
    pub(crate) fn edit_tensors(&self, edit: impl FnOnce(&mut HashMap<String, Tensor>)) {
        let path = self.path(WEIGHTS);
        let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        edit(&mut tensors);
        candle_core::safetensors::save(&tensors, path).unwrap();
    }
}
