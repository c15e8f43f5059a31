//! Where a checkpoint's files are, and how they are read without trusting them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use vlmd_kernels::weights::{WeightFile, Weights};

use crate::{LoadError, NemoFiles, torch};

/// Most bytes of a configuration, tokenizer or index file. The largest real ones, tokenizers of
/// 256k entries, have about 35 MB.
pub const MAX_TEXT_FILE_BYTES: u64 = 64 << 20;

/// All weights in one file.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// Which of several weight files holds which tensor.
pub const WEIGHTS_INDEX_FILE: &str = "model.safetensors.index.json";

/// All weights in one file of PyTorch, as repositories have them that are older than safetensors.
pub const TORCH_WEIGHTS_FILE: &str = "pytorch_model.bin";

/// Which of several files of PyTorch holds which tensor.
pub const TORCH_WEIGHTS_INDEX_FILE: &str = "pytorch_model.bin.index.json";

/// The files of a checkpoint in the Hugging Face layout.
#[derive(Debug, Clone)]
pub enum ModelFiles {
    /// A directory on disk. Its files may be links, as in the hub's cache.
    Directory(PathBuf),
    /// NeMo's archive.
    Nemo(NemoFiles),
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
            Self::Directory(directory) => {
                Ok(read_bounded(&directory.join(name), name)?.map(Cow::Owned))
            }
            Self::Nemo(files) => files.read_optional(name),
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

    /// Opens the weights: one file, or every shard that the index names. Safetensors are preferred
    /// to what PyTorch pickled, which is read without being executed. Nothing is copied.
    ///
    /// # Errors
    /// When there are no weights, a shard is missing or named so that it would lie outside the
    /// directory, or a file is damaged.
    pub fn weights(&self) -> Result<Weights, LoadError> {
        match self {
            Self::Nemo(files) => files.weights(),
            Self::Embedded(files) => match find(files, WEIGHTS_FILE) {
                Some(bytes) => Ok(Weights::from_bytes(bytes)?),
                None => Err(self.no_weights()),
            },
            Self::Directory(directory) => {
                let paths = self.shards(directory, WEIGHTS_FILE, WEIGHTS_INDEX_FILE)?;
                if !paths.is_empty() {
                    return Ok(Weights::open(&paths)?);
                }
                let (file, index) = (TORCH_WEIGHTS_FILE, TORCH_WEIGHTS_INDEX_FILE);
                let paths = self.shards(directory, file, index)?;
                if paths.is_empty() {
                    return Err(self.no_weights());
                }
                let mut weights = Weights::empty();
                for path in paths {
                    let file = WeightFile::open(&path)?;
                    let whole = 0..file.bytes().len();
                    let tensors = torch::tensors(file.name(), file.bytes(), whole)?;
                    weights.add_raw(file, tensors)?;
                }
                Ok(weights)
            }
        }
    }

    /// The one file of weights, or those that the index names; none if there is neither.
    fn shards(
        &self,
        directory: &Path,
        single: &str,
        index: &str,
    ) -> Result<Vec<PathBuf>, LoadError> {
        let path = directory.join(single);
        if path.is_file() {
            return Ok(vec![path]);
        }
        let Some(bytes) = self.read_optional(index)? else {
            return Ok(Vec::new());
        };
        let mut paths = Vec::new();
        for shard in shard_names(index, &bytes)? {
            let path = directory.join(&shard);
            if !path.is_file() {
                return Err(LoadError::Missing {
                    file: shard,
                    place: format!("{}, though the index names it", self.place()),
                });
            }
            paths.push(path);
        }
        Ok(paths)
    }

    fn place(&self) -> String {
        match self {
            Self::Directory(path) => format!("`{}`", path.display()),
            Self::Nemo(files) => format!("`{}`", files.path().display()),
            Self::Embedded(_) => "the embedded model".to_owned(),
        }
    }

    fn no_weights(&self) -> LoadError {
        LoadError::NoWeights {
            place: self.place(),
        }
    }
}

/// The weight files that `bytes`, the contents of a [`WEIGHTS_INDEX_FILE`] or a
/// [`TORCH_WEIGHTS_INDEX_FILE`], name, each once, in order. `index` is which of them.
///
/// # Errors
/// When the index is not one, names no file, or names one that is not a plain file of its kind in
/// its own directory.
pub fn shard_names(index: &str, bytes: &[u8]) -> Result<Vec<String>, LoadError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let ending = match index {
        TORCH_WEIGHTS_INDEX_FILE => ".bin",
        _ => ".safetensors",
    };
    let parsed: Index = parse(index, bytes)?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if names.is_empty() {
        return Err(LoadError::invalid(index, "`weight_map` names no file"));
    }
    for name in &names {
        let mut parts = Path::new(name).components();
        let plain = matches!(
            (parts.next(), parts.next()),
            (Some(Component::Normal(part)), None) if part.to_str() == Some(name)
        );
        // A backslash separates directories elsewhere; no real shard has one.
        if !plain || name.contains('\\') || !name.ends_with(ending) {
            return Err(LoadError::invalid(
                index,
                format!("`weight_map` names `{name}`, which is not a `{ending}` file beside it"),
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

/// The contents of a small file, which messages call `name`; `None` if it does not exist.
pub(crate) fn read_bounded(path: &Path, name: &str) -> Result<Option<Vec<u8>>, LoadError> {
    let io = |source| LoadError::Io {
        file: name.to_owned(),
        source,
    };
    let file = match File::open(path) {
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
    Ok(Some(bytes))
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
        let names = shard_names(WEIGHTS_INDEX_FILE, index).unwrap();
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
            let error = shard_names(WEIGHTS_INDEX_FILE, index.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains("beside it"), "{name}: {error}");
        }
    }

    #[test]
    fn an_index_without_files_is_refused() {
        let error = shard_names(WEIGHTS_INDEX_FILE, br#"{"weight_map": {}}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`model.safetensors.index.json`: `weight_map` names no file"
        );
    }

    /// A directory with checkpoints of PyTorch under the given names.
    fn torch_directory(files: &[(&str, &str)]) -> (tempfile::TempDir, ModelFiles) {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/torch_files");
        let directory = tempfile::tempdir().unwrap();
        for (name, golden) in files {
            std::fs::copy(goldens.join(golden), directory.path().join(name)).unwrap();
        }
        let files = ModelFiles::Directory(directory.path().to_owned());
        (directory, files)
    }

    #[test]
    fn what_pytorch_pickled_is_read_where_there_are_no_safetensors() {
        let (directory, files) = torch_directory(&[(TORCH_WEIGHTS_FILE, "protocol2.pt")]);
        assert_eq!(
            files.weights().unwrap().names().collect::<Vec<_>>(),
            ["a", "b"]
        );
        // Preferred, and hence refused.
        std::fs::write(directory.path().join(WEIGHTS_FILE), b"damaged").unwrap();
        let error = files.weights().unwrap_err().to_string();
        assert!(error.contains("safetensors"), "{error}");
    }

    #[test]
    fn shards_of_pytorch_are_read_by_their_index() {
        let (directory, files) = torch_directory(&[
            ("pytorch_model-00001-of-00002.bin", "protocol2.pt"),
            ("pytorch_model-00002-of-00002.bin", "module.pt"),
        ]);
        let index = directory.path().join(TORCH_WEIGHTS_INDEX_FILE);
        let write = |second: &str| {
            let first = "pytorch_model-00001-of-00002.bin";
            let map = format!(r#"{{"weight_map": {{"a": "{first}", "steps": "{second}"}}}}"#);
            std::fs::write(&index, map).unwrap();
            files
                .weights()
                .map(|weights| weights.names().map(str::to_owned).collect::<Vec<_>>())
        };
        let names = write("pytorch_model-00002-of-00002.bin").unwrap();
        assert_eq!(names, ["a", "b", "linear.bias", "linear.weight", "steps"]);
        for (name, words) in [
            (
                "pytorch_model-00003-of-00003.bin",
                "though the index names it",
            ),
            ("../pytorch_model.bin", "not a `.bin` file beside it"),
            ("model.safetensors", "not a `.bin` file beside it"),
        ] {
            let error = write(name).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
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
