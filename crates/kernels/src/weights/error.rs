//! Why weights could not be loaded.

use std::path::PathBuf;

use safetensors::SafeTensorError;

/// Why weights could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// A file cannot be opened or mapped.
    #[error("cannot read the weights in {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file is not in the safetensors format, or is not whole.
    #[error("{file} is not a whole safetensors file: {reason}")]
    Format {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What is said to be a tensor's bytes cannot be.
    #[error("the tensor `{name}` in {file} {reason}")]
    Bytes {
        /// The tensor.
        name: String,
        /// The file that should have it.
        file: String,
        /// What is wrong with the bytes.
        reason: String,
    },
    /// Two files bring a tensor of the same name, or one brings it twice.
    #[error("the tensor `{name}` is in {first} and again in {second}")]
    Duplicate {
        /// The tensor.
        name: String,
        /// The file that was given first.
        first: String,
        /// The other file.
        second: String,
    },
    /// No file has the tensor.
    #[error("there is no tensor `{name}` in {files}")]
    Missing {
        /// The tensor.
        name: String,
        /// The files, in the order given.
        files: String,
    },
    /// The tensor has another shape than the model's configuration says.
    #[error("the tensor `{name}` in {file} has the shape {found:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// The file that has it.
        file: String,
        /// What the caller asked for.
        expected: Vec<usize>,
        /// What the file has.
        found: Vec<usize>,
    },
    /// The tensor is stored in a form that there is no arithmetic for.
    #[error("the tensor `{name}` in {file} is stored as {found}, which is not supported")]
    Stored {
        /// The tensor.
        name: String,
        /// The file that has it.
        file: String,
        /// The format's name for the form.
        found: String,
    },
    /// The tensor cannot be converted or brought to the device.
    #[error("cannot load the tensor `{name}` from {file}: {source}")]
    Load {
        /// The tensor.
        name: String,
        /// The file that has it.
        file: String,
        /// What candle says.
        source: Box<candle_core::Error>,
    },
}

/// The library's errors are names of variants; this says the same in words.
pub(super) fn describe(error: &SafeTensorError) -> String {
    match error {
        SafeTensorError::HeaderTooSmall => "it is shorter than eight bytes".to_owned(),
        SafeTensorError::HeaderTooLarge => "it claims a header of over 100 MB".to_owned(),
        SafeTensorError::InvalidHeaderLength => "it ends within its header".to_owned(),
        SafeTensorError::InvalidHeader(_) => "its header is not UTF-8".to_owned(),
        SafeTensorError::InvalidHeaderDeserialization(error) => {
            format!("its header cannot be parsed ({error})")
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            "its data is longer or shorter than its header says".to_owned()
        }
        SafeTensorError::InvalidOffset(name) => {
            format!("the bytes of `{name}` overlap or leave a gap")
        }
        SafeTensorError::TensorInvalidInfo => {
            "a tensor's bytes are not as many as its shape and dtype need".to_owned()
        }
        SafeTensorError::ValidationOverflow => "a shape is too large to be counted".to_owned(),
        other => other.to_string(),
    }
}
