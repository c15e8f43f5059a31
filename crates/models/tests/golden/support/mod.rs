//! Goldens of the reference implementation: where they are and how they are read.
//!
//! A golden is a directory with a checkpoint, pictures, `golden.json` and `golden.safetensors`, as
//! `tests/reference` makes them. Those under `tests/golden` are always run; `VLMD_GOLDENS` names
//! further ones, separated by colons.

mod company;
mod kv;
pub(crate) mod pieces;
pub(crate) mod runner;
pub(crate) mod suite;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use vlmd_media::{DecodeLimits, Picture};
use vlmd_models::{ModelFiles, NemoFiles};

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
    date_string: Option<String>,
    /// File names of a `.nemo` archive and of the vision tower beside it.
    archive: Option<(String, String)>,
    tensors: HashMap<String, Tensor>,
}

/// One conversation, and what the reference makes of it.
#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) messages: Vec<GoldenMessage>,
    pub(crate) prompt: String,
    /// Where there are no messages: what the reference was given.
    pub(crate) raw_prompt: Option<String>,
    images: Vec<String>,
    /// The pictures in a form that every decoder gives the same pixels for.
    images_decoded: Option<Vec<String>>,
    /// Where a picture's features stand: the id of the image token, or `-k` for the k-th picture.
    pub(crate) input_ids: Vec<i64>,
    tensors: HashMap<String, TensorRecord>,
    /// What the reference generates, in each mode: `generated_ids`, and the distance from the best
    /// to the second-best logit per step in `top2_gaps`, with a suffix that names the mode.
    #[serde(flatten)]
    modes: HashMap<String, Value>,
}

/// A message as the reference's template takes it.
#[derive(Deserialize)]
pub(crate) struct GoldenMessage {
    pub(crate) role: String,
    pub(crate) content: Content,
    /// `name:value,name:value`.
    labels: Option<String>,
}

impl GoldenMessage {
    /// The labels by their names.
    pub(crate) fn labels(&self) -> BTreeMap<String, u8> {
        let labels = self.labels.iter().flat_map(|labels| labels.split(','));
        labels
            .map(|label| {
                let (name, value) = label.split_once(':').unwrap();
                (name.to_owned(), value.parse().unwrap())
            })
            .collect()
    }
}

/// With image tags written out, or part by part.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<GoldenPart>),
}

/// One part of a message.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum GoldenPart {
    Text { text: String },
    Image,
}

impl Case {
    /// What the reference generates in the mode that `suffix` names.
    pub(crate) fn generated<T: DeserializeOwned>(&self, field: &str, suffix: &str) -> Option<T> {
        let value = self.modes.get(&format!("{field}{suffix}"))?;
        Some(serde_json::from_value(value.clone()).unwrap())
    }
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
            date_string: Option<String>,
            archive: Option<String>,
            vision_tower: Option<String>,
        }
        let file = std::fs::read(directory.join("golden.json")).unwrap();
        let file: File = serde_json::from_slice(&file).unwrap();
        let tensors = directory.join("golden.safetensors");
        Self {
            directory: directory.to_owned(),
            cases: file.cases,
            stop_ids: file.stop_ids,
            date_string: file.date_string,
            archive: file.archive.zip(file.vision_tower),
            tensors: candle_core::safetensors::load(tensors, &Device::Cpu).unwrap(),
        }
    }

    /// The checkpoint.
    pub(crate) fn files(&self) -> ModelFiles {
        let Some((archive, tower)) = &self.archive else {
            return ModelFiles::Directory(self.directory.clone());
        };
        let tower = ModelFiles::Directory(self.directory.join(tower));
        let archive = NemoFiles::open(&self.directory.join(archive)).unwrap();
        ModelFiles::Nemo(archive.with_tower(tower))
    }

    pub(crate) fn is_archive(&self) -> bool {
        self.archive.is_some()
    }

    /// What the reference's template was given beside the messages.
    pub(crate) fn template_kwargs(&self) -> serde_json::Map<String, Value> {
        let date = self.date_string.iter();
        date.map(|date| ("date_string".to_owned(), Value::from(date.clone())))
            .collect()
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
