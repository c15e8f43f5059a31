//! Why a checkpoint cannot be served.

use std::path::PathBuf;

use vlmd_kernels::weights::WeightsError;
use vlmd_text::TextError;

/// Why a checkpoint cannot be loaded: one sentence that names the file and the reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The directory does not exist, or is no directory.
    #[error("`{}` is not a directory that can be read", .0.display())]
    NotADirectory(PathBuf),
    /// A file that every checkpoint of the architecture has.
    #[error("`{file}` is missing from {place}")]
    Missing {
        /// The file's name.
        file: String,
        /// The directory, or that the model is the embedded one.
        place: String,
    },
    /// The weights are neither in one file nor in shards with an index.
    #[error(
        "{place} holds neither `model.safetensors` nor `pytorch_model.bin`, nor an \
         `.index.json` of either"
    )]
    NoWeights {
        /// The directory, or that the model is the embedded one.
        place: String,
    },
    /// The archive has no vision tower, and none was given.
    #[error(
        "the archive holds no vision tower: give the directory of `{0}` or one like it with \
         `--vision-tower`"
    )]
    NoVisionTower(String),
    /// The operating system refused.
    #[error("`{file}` cannot be read: {source}")]
    Io {
        /// The file's name.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A text file larger than any real one.
    #[error("`{file}` has {size} bytes, more than the {limit} that such a file may have")]
    TooLarge {
        /// The file's name.
        file: String,
        /// Its size in bytes.
        size: u64,
        /// The most that is read, in bytes.
        limit: u64,
    },
    /// Not JSON, or not the JSON that belongs there.
    #[error("`{file}` is not valid: {source}")]
    Json {
        /// The file's name.
        file: String,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// Not YAML, or not the YAML that belongs there.
    #[error("`{file}` is not valid: {reason}")]
    Yaml {
        /// The file's name.
        file: String,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// A value that the architecture cannot work with.
    #[error("`{file}`: {reason}")]
    Invalid {
        /// The file's name.
        file: String,
        /// The field in backticks, the bound and the value.
        reason: String,
    },
    /// No architecture here goes by that name.
    #[error("`{file}`: {found} is not supported; supported are {supported}")]
    Architecture {
        /// Where it says so.
        file: &'static str,
        /// What the checkpoint calls itself.
        found: String,
        /// Every architecture there is.
        supported: String,
    },
    /// A tensor whose shape is not what the architecture takes.
    #[error("tensor `{name}`: {reason}")]
    Tensor {
        /// The tensor's full name in the checkpoint.
        name: String,
        /// Expected and found.
        reason: String,
    },
    /// Weights can be computed with in these types only.
    #[error("`dtype` must be `f32`, `f16` or `bf16`, but is `{0}`")]
    DType(String),
    /// There is no room for the model.
    #[error("{0}")]
    NotAdmitted(String),
    /// The weight files are damaged, or lack what the architecture needs.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer cannot be used.
    #[error("`{file}`: {source}")]
    Tokenizer {
        /// The file's name.
        file: String,
        /// What is wrong with it.
        source: TextError,
    },
    /// The chat template, or a file that it stands in, cannot be used.
    #[error(transparent)]
    Template(TextError),
    /// The device failed, or has no room.
    #[error("loading the weights failed: {0}")]
    Device(#[from] candle_core::Error),
}

impl LoadError {
    /// A value in `file` that cannot be worked with.
    pub(crate) fn invalid(file: &str, reason: impl Into<String>) -> Self {
        Self::Invalid {
            file: file.to_owned(),
            reason: reason.into(),
        }
    }

    /// A tensor of the wrong shape.
    pub(crate) fn tensor(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Tensor {
            name: name.into(),
            reason: reason.into(),
        }
    }
}
