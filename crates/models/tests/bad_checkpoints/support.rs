//! What damages checkpoints, and what is said of them.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use vlmd_models::{LoadOptions, ModelFiles, load};

use crate::checkpoint::{Checkpoint, WEIGHTS};

/// Where the committed goldens are.
const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");

/// The weights in two files, as an index names them.
pub(crate) const SHARDS: [&str; 2] = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
];

impl Checkpoint {
    /// A copy of a committed golden's checkpoint.
    pub(crate) fn of(golden: &str) -> Self {
        Self::copy(&Path::new(GOLDENS).join(golden))
    }

    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.path(file)).unwrap();
    }

    pub(crate) fn edit(&self, file: &str, edit: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&fs::read(self.path(file)).unwrap()).unwrap();
        edit(&mut value);
        fs::write(self.path(file), serde_json::to_vec(&value).unwrap()).unwrap();
    }

    /// Sets one field, by its JSON pointer, in an object that is there.
    pub(crate) fn set(&self, file: &str, field: &str, value: &Value) {
        self.edit(file, |settings| {
            let (parent, name) = field.rsplit_once('/').unwrap();
            settings.pointer_mut(parent).unwrap()[name] = value.clone();
        });
    }

    /// Takes a token out of the tokenizer, or calls it `other`.
    pub(crate) fn replace_token(&self, token: &str, other: Option<&str>) {
        self.edit("tokenizer.json", |tokenizer| {
            let added = tokenizer["added_tokens"].as_array_mut().unwrap();
            match other {
                None => added.retain(|entry| entry["content"] != token),
                Some(other) => {
                    let entry = added.iter_mut().find(|entry| entry["content"] == token);
                    entry.unwrap()["content"] = json!(other);
                }
            }
        });
    }

    /// Cuts the weights in two, with an index.
    pub(crate) fn shard(&self) {
        let path = self.path(WEIGHTS);
        let tensors = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap();
        let mut map = Map::new();
        let mut halves = SHARDS.map(|shard| (shard, std::collections::HashMap::new()));
        for (nth, (name, tensor)) in tensors.into_iter().enumerate() {
            let (shard, half) = &mut halves[nth % 2];
            map.insert(name.clone(), json!(shard));
            half.insert(name, tensor);
        }
        for (shard, half) in &halves {
            candle_core::safetensors::save(half, self.path(shard)).unwrap();
        }
        fs::remove_file(path).unwrap();
        let index = json!({"metadata": {}, "weight_map": map});
        let index = serde_json::to_vec(&index).unwrap();
        fs::write(self.path("model.safetensors.index.json"), index).unwrap();
    }

    pub(crate) fn load(&self) -> Result<(), String> {
        let files = ModelFiles::Directory(self.directory().to_owned());
        match load(&files, &LoadOptions::default()) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What loading says, which is one line; the directory's own name as `DIR`.
    #[track_caller]
    pub(crate) fn refusal(&self) -> String {
        let message = self.load().unwrap_err();
        assert!(!message.contains('\n'), "{message}");
        message.replace(self.directory().to_str().unwrap(), "DIR")
    }

    /// The same, and it holds all of `words`.
    #[track_caller]
    pub(crate) fn assert_refused(&self, words: &[&str]) {
        let message = self.refusal();
        for word in words {
            assert!(message.contains(word), "`{word}` is not in: {message}");
        }
    }
}
