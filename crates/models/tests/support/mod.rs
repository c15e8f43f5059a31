//! Goldens of the reference implementation: where they are and how they are read.
//!
//! A golden is a directory with a checkpoint, pictures, `golden.json` and `golden.safetensors`, as
//! `tests/reference` makes them. Those under `tests/golden` are always run; `VLMD_GOLDENS` names
//! further ones, separated by colons.

pub(crate) mod runner;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::Deserialize;
use vlmd_media::{DecodeLimits, Picture};

/// The directories whose goldens are of `architecture`. There is always at least one.
pub(crate) fn directories(architecture: &str) -> Vec<PathBuf> {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
    let mut directories: Vec<PathBuf> = std::fs::read_dir(committed)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    directories.sort_unstable();
    if let Some(further) = std::env::var_os("VLMD_GOLDENS") {
        directories.extend(std::env::split_paths(&further));
    }
    directories.retain(|directory| {
        #[derive(Deserialize)]
        struct Header {
            arch: String,
        }
        let Ok(golden) = std::fs::read(directory.join("golden.json")) else {
            return false;
        };
        serde_json::from_slice::<Header>(&golden).unwrap().arch == architecture
    });
    assert!(!directories.is_empty(), "no golden of {architecture}");
    directories
}

/// A golden with its tensors.
pub(crate) struct Golden {
    pub(crate) directory: PathBuf,
    pub(crate) cases: Vec<Case>,
    pub(crate) stop_ids: Vec<u32>,
    tensors: HashMap<String, Tensor>,
}

/// One conversation, and what the reference makes of it.
#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) messages: Vec<GoldenMessage>,
    pub(crate) prompt: String,
    images: Vec<String>,
    /// The pictures in a form that every decoder gives the same pixels for.
    images_decoded: Option<Vec<String>>,
    /// Below 0 where an image is: `-k` for the k-th.
    pub(crate) input_ids: Vec<i64>,
    pub(crate) generated_ids: Vec<u32>,
    /// Distance from the best to the second-best logit, per step.
    pub(crate) top2_gaps: Vec<f64>,
    /// The same for runs with another mode, named by a suffix.
    #[serde(default)]
    pub(crate) generated_ids_long: Option<Vec<u32>>,
    #[serde(default)]
    pub(crate) generated_ids_short: Option<Vec<u32>>,
    #[serde(default)]
    pub(crate) top2_gaps_long: Option<Vec<f64>>,
    #[serde(default)]
    pub(crate) top2_gaps_short: Option<Vec<f64>>,
    tensors: HashMap<String, TensorRecord>,
}

/// A message as the reference's template takes it: image tags are written out.
#[derive(Deserialize)]
pub(crate) struct GoldenMessage {
    pub(crate) role: String,
    pub(crate) content: String,
}

#[derive(Deserialize)]
struct TensorRecord {
    /// Only every so many rows and columns are stored.
    stride: Option<usize>,
}

impl Golden {
    pub(crate) fn read(directory: &Path) -> Self {
        #[derive(Deserialize)]
        struct File {
            cases: Vec<Case>,
            stop_ids: Vec<u32>,
        }
        let file = std::fs::read(directory.join("golden.json")).unwrap();
        let file: File = serde_json::from_slice(&file).unwrap();
        let tensors = directory.join("golden.safetensors");
        Self {
            directory: directory.to_owned(),
            cases: file.cases,
            stop_ids: file.stop_ids,
            tensors: candle_core::safetensors::load(tensors, &Device::Cpu).unwrap(),
        }
    }

    pub(crate) fn tensor(&self, case: &Case, name: &str) -> Option<&Tensor> {
        self.tensors.get(&format!("{}/{name}", case.name))
    }

    /// The reference's pixels, and that every how many rows and columns of them are stored.
    pub(crate) fn pixels(&self, case: &Case) -> Option<(&Tensor, usize)> {
        if let Some(full) = self.tensor(case, "pixel_values") {
            return Some((full, 1));
        }
        let strided = self.tensor(case, "pixel_values_strided")?;
        Some((strided, case.tensors["pixel_values"].stride.unwrap()))
    }

    pub(crate) fn pictures(&self, case: &Case) -> Vec<Picture> {
        let files = case.images_decoded.as_ref().unwrap_or(&case.images);
        let decode = |file: &String| {
            let bytes = std::fs::read(self.directory.join(file)).unwrap();
            vlmd_media::decode(&bytes, &DecodeLimits::default()).unwrap()
        };
        files.iter().map(decode).collect()
    }
}
