//! Weights from safetensors files, mapped into memory and checked before use.

#![expect(
    unsafe_code,
    reason = "mapping a file into memory is unsafe: see `Bytes::map`"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

/// How bytes that did not come from a file are called in messages.
const EMBEDDED: &str = "the embedded weights";

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
    /// Two files bring a tensor of the same name.
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

/// The bytes of one file.
#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl Bytes {
    fn map(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping is private and read-only, and lives as long as its owner. What the
        // language cannot promise is that no one changes the file meanwhile: a write would show
        // through a `&[u8]`, a truncation would end the process with SIGBUS. Weights are files
        // that are replaced, never edited; they are read through here only while a model loads,
        // every tensor is copied out, and any bit pattern is a valid number, so a change can at
        // worst give wrong numbers or end the start-up of a process whose files were destroyed.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self::Mapped(map))
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

#[derive(Debug)]
struct Shard {
    file: String,
    bytes: Bytes,
}

#[derive(Debug)]
struct Entry {
    shard: usize,
    stored: Dtype,
    shape: Vec<usize>,
    /// Where its bytes are in the shard; within it, and as long as shape and dtype say.
    range: Range<usize>,
}

/// The tensors of one checkpoint, over any number of safetensors files.
///
/// Opening reads the headers only. Bytes are copied when a tensor is asked for.
#[derive(Debug)]
pub struct Weights {
    shards: Vec<Shard>,
    entries: BTreeMap<String, Entry>,
}

impl Weights {
    /// Maps the files and checks their headers: every tensor lies within its file, has as many
    /// bytes as its shape and dtype say, and is there once.
    ///
    /// # Errors
    /// [`WeightsError::Read`], [`WeightsError::Format`] or [`WeightsError::Duplicate`].
    pub fn open(paths: &[PathBuf]) -> Result<Self, WeightsError> {
        let mut weights = Self {
            shards: Vec::with_capacity(paths.len()),
            entries: BTreeMap::new(),
        };
        for path in paths {
            let bytes = Bytes::map(path).map_err(|source| WeightsError::Read {
                file: path.clone(),
                source,
            })?;
            weights.add(path.display().to_string(), bytes)?;
        }
        Ok(weights)
    }

    /// The same for a file that is part of the program.
    ///
    /// # Errors
    /// [`WeightsError::Format`].
    pub fn from_bytes(bytes: &'static [u8]) -> Result<Self, WeightsError> {
        let mut weights = Self {
            shards: Vec::with_capacity(1),
            entries: BTreeMap::new(),
        };
        weights.add(EMBEDDED.to_owned(), Bytes::Static(bytes))?;
        Ok(weights)
    }

    fn add(&mut self, file: String, bytes: Bytes) -> Result<(), WeightsError> {
        let (header, metadata) =
            SafeTensors::read_metadata(bytes.as_slice()).map_err(|error| WeightsError::Format {
                file: file.clone(),
                reason: describe(&error),
            })?;
        // The length of the header is itself stored in eight bytes before it.
        let data = header + size_of::<u64>();
        let shard = self.shards.len();
        for (name, info) in metadata.tensors() {
            let entry = Entry {
                shard,
                stored: info.dtype,
                shape: info.shape.clone(),
                range: data + info.data_offsets.0..data + info.data_offsets.1,
            };
            if let Some(first) = self.entries.get(&name) {
                return Err(WeightsError::Duplicate {
                    name,
                    first: self.shards[first.shard].file.clone(),
                    second: file,
                });
            }
            self.entries.insert(name, entry);
        }
        self.shards.push(Shard { file, bytes });
        Ok(())
    }

    /// Shape of a tensor, if it is there.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.entries.get(name).map(|entry| entry.shape.clone())
    }

    /// Dtype in which a tensor is stored, if it is there and in a dtype that candle has.
    #[must_use]
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.entries
            .get(name)
            .and_then(|entry| DType::try_from(entry.stored).ok())
    }

    /// Names of all tensors, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Bytes that all tensors take as they are stored.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.entries.values().map(|entry| entry.range.len()).sum()
    }

    /// Copies a tensor to a device, converted to `dtype` if one is given.
    ///
    /// # Errors
    /// [`WeightsError::Missing`], [`WeightsError::Shape`] when it is not of `expected_shape`,
    /// [`WeightsError::Stored`], or [`WeightsError::Load`].
    pub fn tensor(
        &self,
        name: &str,
        expected_shape: &[usize],
        dtype: Option<DType>,
        device: &Device,
    ) -> Result<Tensor, WeightsError> {
        let entry = self
            .entries
            .get(name)
            .ok_or_else(|| WeightsError::Missing {
                name: name.to_owned(),
                files: self.files(),
            })?;
        let shard = &self.shards[entry.shard];
        if entry.shape != expected_shape {
            return Err(WeightsError::Shape {
                name: name.to_owned(),
                file: shard.file.clone(),
                expected: expected_shape.to_vec(),
                found: entry.shape.clone(),
            });
        }
        let stored = DType::try_from(entry.stored).map_err(|_| WeightsError::Stored {
            name: name.to_owned(),
            file: shard.file.clone(),
            found: entry.stored.to_string(),
        })?;
        let load = || {
            let data = &shard.bytes.as_slice()[entry.range.clone()];
            // Converted on the host: what crosses to a device is already of its final size.
            Tensor::from_raw_buffer(data, stored, &entry.shape, &Device::Cpu)?
                .to_dtype(dtype.unwrap_or(stored))?
                .to_device(device)
        };
        load().map_err(|source| WeightsError::Load {
            name: name.to_owned(),
            file: shard.file.clone(),
            source: Box::new(source),
        })
    }

    fn files(&self) -> String {
        let files: Vec<&str> = self.shards.iter().map(|s| s.file.as_str()).collect();
        if files.is_empty() {
            "no file at all".to_owned()
        } else {
            files.join(", ")
        }
    }
}

/// The library's errors are names of variants; this says the same in words.
fn describe(error: &SafeTensorError) -> String {
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A file that is removed with its test.
    struct Temporary(PathBuf);

    impl Temporary {
        fn new(bytes: &[u8]) -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("vlmd-weights-{}-{number}.safetensors", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, bytes).unwrap();
            Self(path)
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn shard(tensors: &[(&str, DType)]) -> Vec<u8> {
        let make = |dtype| {
            let values = Tensor::new(&[[1f32, -2.5], [0.125, 3.]], &Device::Cpu).unwrap();
            values.to_dtype(dtype).unwrap()
        };
        let tensors: HashMap<&str, Tensor> = tensors
            .iter()
            .map(|&(name, dtype)| (name, make(dtype)))
            .collect();
        safetensors::serialize(&tensors, None).unwrap()
    }

    fn open(files: &[&Temporary]) -> Result<Weights, WeightsError> {
        let paths: Vec<PathBuf> = files.iter().map(|file| file.0.clone()).collect();
        Weights::open(&paths)
    }

    #[test]
    fn tensors_come_from_any_shard_in_the_dtype_asked_for() {
        let first = Temporary::new(&shard(&[("a", DType::BF16), ("b", DType::F32)]));
        let second = Temporary::new(&shard(&[("c", DType::F16)]));
        let weights = open(&[&first, &second]).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(weights.total_bytes(), 4 * (2 + 4 + 2));
        assert_eq!(weights.shape("a"), Some(vec![2, 2]));
        assert_eq!(weights.dtype("c"), Some(DType::F16));
        assert_eq!(weights.dtype("d"), None);
        for name in ["a", "b", "c"] {
            let kept = weights.tensor(name, &[2, 2], None, &Device::Cpu).unwrap();
            assert_eq!(Some(kept.dtype()), weights.dtype(name));
            let wide = weights.tensor(name, &[2, 2], Some(DType::F32), &Device::Cpu);
            let wide = wide.unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(wide, [[1., -2.5], [0.125, 3.]]);
        }
    }

    #[test]
    fn bytes_within_the_program_load_like_a_file() {
        let bytes: &'static [u8] = shard(&[("a", DType::F32)]).leak();
        let weights = Weights::from_bytes(bytes).unwrap();
        let a = weights.tensor("a", &[2, 2], Some(DType::BF16), &Device::Cpu);
        assert_eq!(a.unwrap().dtype(), DType::BF16);
    }

    #[test]
    fn what_is_not_there_or_has_another_shape_is_told_with_file_and_shapes() {
        let file = Temporary::new(&shard(&[("a", DType::F32)]));
        let name = file.0.display().to_string();
        let weights = open(&[&file]).unwrap();
        let missing = weights
            .tensor("b", &[2, 2], None, &Device::Cpu)
            .unwrap_err();
        assert_eq!(
            missing.to_string(),
            format!("there is no tensor `b` in {name}")
        );
        let shape = weights.tensor("a", &[4], None, &Device::Cpu).unwrap_err();
        assert_eq!(
            shape.to_string(),
            format!("the tensor `a` in {name} has the shape [2, 2], expected [4]")
        );
    }

    #[test]
    fn a_tensor_in_two_shards_is_refused() {
        let first = Temporary::new(&shard(&[("a", DType::F32)]));
        let second = Temporary::new(&shard(&[("a", DType::F32)]));
        assert!(matches!(
            open(&[&first, &second]),
            Err(WeightsError::Duplicate { .. })
        ));
    }

    #[test]
    fn a_file_cut_short_anywhere_is_refused() {
        let whole = shard(&[("a", DType::F32), ("b", DType::BF16)]);
        for len in 0..whole.len() {
            let file = Temporary::new(&whole[..len]);
            let error = open(&[&file]).unwrap_err();
            let file = file.0.display().to_string();
            assert!(error.to_string().contains(&file), "{len}: {error}");
        }
        let mut longer = whole;
        longer.push(0);
        assert!(open(&[&Temporary::new(&longer)]).is_err());
    }

    #[test]
    fn hostile_headers_are_refused() {
        let file = |header: &str, data: usize| {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            bytes.resize(bytes.len() + data, 0);
            Temporary::new(&bytes)
        };
        let max = u64::MAX;
        let headers = [
            "not json".to_owned(),
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#.to_owned(),
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#.to_owned(),
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#.to_owned(),
            r#"{"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,4]}}"#.to_owned(),
            format!(r#"{{"a":{{"dtype":"F32","shape":[{max},{max}],"data_offsets":[0,4]}}}}"#),
            format!(r#"{{"a":{{"dtype":"F32","shape":[1],"data_offsets":[{max},{max}]}}}}"#),
        ];
        for header in headers {
            let file = file(&header, 4);
            let error = open(&[&file]).unwrap_err();
            assert!(
                matches!(error, WeightsError::Format { .. }),
                "{header}: {error}"
            );
        }
        let huge = Temporary::new(&u64::MAX.to_le_bytes());
        assert!(matches!(open(&[&huge]), Err(WeightsError::Format { .. })));
    }

    #[test]
    fn a_form_that_candle_does_not_know_is_told_by_name() {
        let header = r#"{"a":{"dtype":"F8_E5M2","shape":[4],"data_offsets":[0,4]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 4]);
        let file = Temporary::new(&bytes);
        let weights = open(&[&file]).unwrap();
        let error = weights.tensor("a", &[4], None, &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("stored as F8_E5M2"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_told_by_name() {
        let error = Weights::open(&[PathBuf::from("no/such.safetensors")]).unwrap_err();
        assert!(error.to_string().contains("no/such.safetensors"), "{error}");
    }
}
