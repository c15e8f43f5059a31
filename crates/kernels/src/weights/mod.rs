//! Weights from files, mapped into memory and checked before use.
//!
//! Safetensors files describe themselves. Of other formats the caller knows where each tensor
//! lies and says so with [`Weights::add_raw`]; the checks are the same. Tensors that lie in pieces
//! are put together by [`Weights::join`].

mod error;
mod file;
mod joined;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;

pub use error::WeightsError;
pub use file::WeightFile;
pub use joined::{JoinedTensor, Part};
pub use safetensors::Dtype as StoredDtype;

use joined::Piece;

/// How bytes that did not come from a file are called in messages.
const EMBEDDED: &str = "the embedded weights";

/// A tensor that lies in a file as it is: row-major, little-endian, without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawTensor {
    /// Its name.
    pub name: String,
    /// The type of its values.
    pub dtype: StoredDtype,
    /// Its sizes, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes are in the file.
    pub range: Range<usize>,
}

#[derive(Debug)]
struct Entry {
    stored: StoredDtype,
    shape: Vec<usize>,
    /// Where its values are: at least one.
    pieces: Vec<Piece>,
}

impl Entry {
    /// The file with its first values, for messages.
    fn shard<'a>(&self, shards: &'a [WeightFile]) -> &'a WeightFile {
        &shards[self.pieces[0].shard]
    }
}

/// The tensors of one checkpoint, over any number of files.
///
/// Opening reads the headers only. Bytes are copied when a tensor is asked for.
#[derive(Debug)]
pub struct Weights {
    shards: Vec<WeightFile>,
    entries: BTreeMap<String, Entry>,
}

impl Weights {
    /// No tensors at all, to be added to.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            shards: Vec::new(),
            entries: BTreeMap::new(),
        }
    }

    /// Maps safetensors files and checks their headers: every tensor lies within its file, has as
    /// many bytes as its shape and dtype say, and is there once.
    ///
    /// # Errors
    /// [`WeightsError::Read`], [`WeightsError::Format`] or [`WeightsError::Duplicate`].
    pub fn open(paths: &[PathBuf]) -> Result<Self, WeightsError> {
        let mut weights = Self::empty();
        for path in paths {
            weights.add(WeightFile::open(path)?)?;
        }
        Ok(weights)
    }

    /// The same for a file that is part of the program.
    ///
    /// # Errors
    /// [`WeightsError::Format`].
    pub fn from_bytes(bytes: &'static [u8]) -> Result<Self, WeightsError> {
        let mut weights = Self::empty();
        weights.add(WeightFile::from_static(EMBEDDED, bytes))?;
        Ok(weights)
    }

    fn add(&mut self, file: WeightFile) -> Result<(), WeightsError> {
        let (header, metadata) =
            SafeTensors::read_metadata(file.bytes()).map_err(|error| WeightsError::Format {
                file: file.name().to_owned(),
                reason: error::describe(&error),
            })?;
        // The length of the header is itself stored in eight bytes before it.
        let data = header + size_of::<u64>();
        let tensors = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| RawTensor {
                name,
                dtype: info.dtype,
                shape: info.shape.clone(),
                range: data + info.data_offsets.0..data + info.data_offsets.1,
            })
            .collect();
        self.add_raw(file, tensors)
    }

    /// Adds tensors of a file in any format. They may share bytes.
    ///
    /// # Errors
    /// [`WeightsError::Bytes`] when a tensor does not lie within the file, or has not as many
    /// bytes as its shape and dtype say; [`WeightsError::Duplicate`]. Then nothing was added.
    pub fn add_raw(
        &mut self,
        file: WeightFile,
        tensors: Vec<RawTensor>,
    ) -> Result<(), WeightsError> {
        let mut names = BTreeSet::new();
        for tensor in &tensors {
            check_bytes(&file, tensor)?;
            let first = match self.entries.get(&tensor.name) {
                Some(entry) => Some(entry.shard(&self.shards).name()),
                None if names.insert(&tensor.name) => None,
                None => Some(file.name()),
            };
            if let Some(first) = first {
                return Err(WeightsError::Duplicate {
                    name: tensor.name.clone(),
                    first: first.to_owned(),
                    second: file.name().to_owned(),
                });
            }
        }
        let shard = self.shards.len();
        self.shards.push(file);
        self.entries.extend(tensors.into_iter().map(|tensor| {
            let entry = Entry {
                stored: tensor.dtype,
                pieces: vec![Piece::whole(shard, tensor.range, &tensor.shape)],
                shape: tensor.shape,
            };
            (tensor.name, entry)
        }));
        Ok(())
    }

    /// Takes over all tensors of `other`, with `prefix` before their names.
    ///
    /// # Errors
    /// [`WeightsError::Duplicate`]. Then nothing was taken over.
    pub fn merge(&mut self, prefix: &str, other: Self) -> Result<(), WeightsError> {
        let offset = self.shards.len();
        let mut entries = BTreeMap::new();
        for (name, mut entry) in other.entries {
            let name = format!("{prefix}{name}");
            if let Some(first) = self.entries.get(&name) {
                return Err(WeightsError::Duplicate {
                    name,
                    first: first.shard(&self.shards).name().to_owned(),
                    second: entry.shard(&other.shards).name().to_owned(),
                });
            }
            for piece in &mut entry.pieces {
                piece.shard += offset;
            }
            entries.insert(name, entry);
        }
        self.shards.extend(other.shards);
        self.entries.extend(entries);
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
        let pieces = self.entries.values().flat_map(|entry| &entry.pieces);
        pieces.map(|piece| piece.range.len()).sum()
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
        let shard = entry.shard(&self.shards);
        if entry.shape != expected_shape {
            return Err(WeightsError::Shape {
                name: name.to_owned(),
                file: shard.name().to_owned(),
                expected: expected_shape.to_vec(),
                found: entry.shape.clone(),
            });
        }
        let stored = DType::try_from(entry.stored).map_err(|_| WeightsError::Stored {
            name: name.to_owned(),
            file: shard.name().to_owned(),
            found: entry.stored.to_string(),
        })?;
        let load = || {
            let data = match entry.pieces.as_slice() {
                [piece] => Cow::Borrowed(&shard.bytes()[piece.range.clone()]),
                _ => Cow::Owned(entry.gathered(&self.shards)),
            };
            // Converted on the host: what crosses to a device is already of its final size.
            Tensor::from_raw_buffer(&data, stored, &entry.shape, &Device::Cpu)?
                .to_dtype(dtype.unwrap_or(stored))?
                .to_device(device)
        };
        load().map_err(|source| WeightsError::Load {
            name: name.to_owned(),
            file: shard.name().to_owned(),
            source: Box::new(source),
        })
    }

    fn files(&self) -> String {
        let mut files: Vec<&str> = self.shards.iter().map(WeightFile::name).collect();
        files.dedup();
        if files.is_empty() {
            "no file at all".to_owned()
        } else {
            files.join(", ")
        }
    }
}

/// Checks that the tensor lies within the file and has the bytes that it needs.
fn check_bytes(file: &WeightFile, tensor: &RawTensor) -> Result<(), WeightsError> {
    let wrong = |reason: String| {
        Err(WeightsError::Bytes {
            name: tensor.name.clone(),
            file: file.name().to_owned(),
            reason,
        })
    };
    let bits = tensor
        .shape
        .iter()
        .try_fold(tensor.dtype.bitsize(), |bits, &size| bits.checked_mul(size));
    let Some(bits) = bits else {
        return wrong(format!(
            "has the shape {:?}, which is too large to be counted",
            tensor.shape
        ));
    };
    let Range { start, end } = tensor.range;
    if file.bytes().get(tensor.range.clone()).is_none() {
        let len = file.bytes().len();
        return wrong(format!(
            "should lie at {start}..{end}, but the file has {len} bytes"
        ));
    }
    if !bits.is_multiple_of(8) || bits / 8 != tensor.range.len() {
        return wrong(format!(
            "has {} bytes, which is not what the shape {:?} takes in {}",
            tensor.range.len(),
            tensor.shape,
            tensor.dtype
        ));
    }
    Ok(())
}
