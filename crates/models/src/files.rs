//! Where a checkpoint's files are, and how they are read without trusting them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use vlmd_kernels::weights::Weights;

use crate::LoadError;

/// Most bytes of a configuration, tokenizer or index file. The largest real ones, tokenizers of
/// 256k entries, have about 35 MB.
pub const MAX_TEXT_FILE_BYTES: u64 = 64 << 20;

/// All weights in one file.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// Which of several weight files holds which tensor.
pub const WEIGHTS_INDEX_FILE: &str = "model.safetensors.index.json";

/// The files of a checkpoint in the Hugging Face layout.
#[derive(Debug, Clone)]
pub enum ModelFiles {
    /// A directory on disk. Its files may be links, as in the hub's cache.
    Directory(PathBuf),
    /// Files compiled into the program, by name.
    Embedded(&'static [(&'static str, &'static [u8])]),
}

impl ModelFiles {
    /// Checks that there is something to read from.
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        match self {
            Self::Directory(path) if !path.is_dir() => Err(LoadError::NotADirectory(path.clone())),
            _ => Ok(()),
        }
    }

    /// The contents of a small file; `None` if it does not exist.
    ///
    /// # Errors
    /// When the file exists and cannot be read, or exceeds [`MAX_TEXT_FILE_BYTES`].
    pub fn read_optional(&self, name: &str) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
        match self {
            Self::Directory(directory) => read_bounded(directory, name),
            Self::Embedded(files) => Ok(find(files, name).map(Cow::Borrowed)),
        }
    }

    /// The contents of a small file.
    ///
    /// # Errors
    /// When there is no such file, it cannot be read, or exceeds [`MAX_TEXT_FILE_BYTES`].
    pub fn read(&self, name: &str) -> Result<Cow<'static, [u8]>, LoadError> {
        self.read_optional(name)?.ok_or_else(|| LoadError::Missing {
            file: name.to_owned(),
            place: self.place(),
        })
    }

    /// A JSON file as `T`.
    ///
    /// # Errors
    /// As [`ModelFiles::read`], and when the file is not the JSON of a `T`.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, LoadError> {
        parse(name, &self.read(name)?)
    }

    /// A JSON file as `T`, or `T`'s default if it does not exist.
    ///
    /// # Errors
    /// As [`ModelFiles::read_optional`], and when the file is not the JSON of a `T`.
    pub fn json_or_default<T: DeserializeOwned + Default>(
        &self,
        name: &str,
    ) -> Result<T, LoadError> {
        match self.read_optional(name)? {
            Some(bytes) => parse(name, &bytes),
            None => Ok(T::default()),
        }
    }

    /// Opens the weights: one file, or every shard that the index names. Nothing is copied.
    ///
    /// # Errors
    /// When there are no weights, a shard is missing or named so that it would lie outside the
    /// directory, or a file is damaged.
    pub fn weights(&self) -> Result<Weights, LoadError> {
        match self {
            Self::Embedded(files) => match find(files, WEIGHTS_FILE) {
                Some(bytes) => Ok(Weights::from_bytes(bytes)?),
                None => Err(self.no_weights()),
            },
            Self::Directory(directory) => {
                let single = directory.join(WEIGHTS_FILE);
                if single.is_file() {
                    return Ok(Weights::open(&[single])?);
                }
                let Some(index) = self.read_optional(WEIGHTS_INDEX_FILE)? else {
                    return Err(self.no_weights());
                };
                let mut paths = Vec::new();
                for shard in shard_names(&index)? {
                    let path = directory.join(&shard);
                    if !path.is_file() {
                        return Err(LoadError::Missing {
                            file: shard,
                            place: format!("{}, though the index names it", self.place()),
                        });
                    }
                    paths.push(path);
                }
                Ok(Weights::open(&paths)?)
            }
        }
    }

    fn place(&self) -> String {
        match self {
            Self::Directory(path) => format!("`{}`", path.display()),
            Self::Embedded(_) => "the embedded model".to_owned(),
        }
    }

    fn no_weights(&self) -> LoadError {
        LoadError::NoWeights {
            place: self.place(),
        }
    }
}

/// The weight files that a [`WEIGHTS_INDEX_FILE`] names, each once, in order.
///
/// # Errors
/// When the index is not one, names no file, or names one that is not a plain `.safetensors` file
/// of its own directory.
pub fn shard_names(index: &[u8]) -> Result<Vec<String>, LoadError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = parse(WEIGHTS_INDEX_FILE, index)?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if names.is_empty() {
        return Err(LoadError::invalid(
            WEIGHTS_INDEX_FILE,
            "`weight_map` names no file",
        ));
    }
    for name in &names {
        let mut parts = Path::new(name).components();
        let plain = matches!(
            (parts.next(), parts.next()),
            (Some(Component::Normal(part)), None) if part.to_str() == Some(name)
        );
        // A backslash separates directories elsewhere; no real shard has one.
        if !plain || name.contains('\\') || !name.ends_with(".safetensors") {
            return Err(LoadError::invalid(
                WEIGHTS_INDEX_FILE,
                format!(
                    "`weight_map` names `{name}`, which is not a `.safetensors` file beside it"
                ),
            ));
        }
    }
    Ok(names.into_iter().collect())
}

fn find(files: &[(&'static str, &'static [u8])], name: &str) -> Option<&'static [u8]> {
    let (_, bytes) = files.iter().find(|(file, _)| *file == name)?;
    Some(bytes)
}

fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, LoadError> {
    serde_json::from_slice(bytes).map_err(|source| LoadError::Json {
        file: name.to_owned(),
        source,
    })
}

fn read_bounded(directory: &Path, name: &str) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
    let io = |source| LoadError::Io {
        file: name.to_owned(),
        source,
    };
    let file = match File::open(directory.join(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let too_large = |size| LoadError::TooLarge {
        file: name.to_owned(),
        size,
        limit: MAX_TEXT_FILE_BYTES,
    };
    let size = file.metadata().map_err(io)?.len();
    if size > MAX_TEXT_FILE_BYTES {
        return Err(too_large(size));
    }
    // The bound holds for what has no size beforehand, too: pipes, and files that grow.
    let mut bytes = Vec::new();
    file.take(MAX_TEXT_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    if bytes.len() as u64 > MAX_TEXT_FILE_BYTES {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(Some(Cow::Owned(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_named_once_and_in_order() {
        let index = br#"{"metadata": {}, "weight_map": {
            "a": "model-00002-of-00002.safetensors",
            "b": "model-00001-of-00002.safetensors",
            "c": "model-00001-of-00002.safetensors"}}"#;
        let names = shard_names(index).unwrap();
        assert_eq!(
            names,
            [
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors"
            ]
        );
    }

    #[test]
    fn shards_outside_the_directory_are_refused() {
        for name in [
            "../model.safetensors",
            "/etc/model.safetensors",
            "sub/model.safetensors",
            "./model.safetensors",
            "..",
            "",
            "a\\\\b.safetensors",
            "model.bin",
        ] {
            let index = format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#);
            let error = shard_names(index.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("beside it"), "{name}: {error}");
        }
    }

    #[test]
    fn an_index_without_files_is_refused() {
        let error = shard_names(br#"{"weight_map": {}}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`model.safetensors.index.json`: `weight_map` names no file"
        );
    }

    #[test]
    fn embedded_files_are_found_by_name() {
        let files = ModelFiles::Embedded(&[("config.json", b"{}")]);
        assert_eq!(&*files.read("config.json").unwrap(), b"{}");
        assert!(files.read_optional("other.json").unwrap().is_none());
        assert_eq!(
            files.read("other.json").unwrap_err().to_string(),
            "`other.json` is missing from the embedded model"
        );
        assert!(matches!(
            files.weights().unwrap_err(),
            LoadError::NoWeights { .. }
        ));
    }
}
