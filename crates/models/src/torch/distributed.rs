//! What `torch.distributed.checkpoint` saved, by its `.metadata`.
//!
//! Ranks write the parts of tensors that they hold one after the other into files of their own,
//! each part as `torch.save` does. `.metadata` is a pickle of dataclasses that lists the tensors,
//! their parts, and where each lies; see `torch/distributed/checkpoint/metadata.py` and
//! `filesystem.py`. Such a checkpoint has every tensor in whole, however many ranks wrote it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::globals::{Global, Saved};
use super::pickle::{Node, Pickle, Value, shown};
use super::state_dict::{TensorProblem, integers};
use crate::LoadError;

/// Most parts of all tensors together. A model of 100 layers on 64 ranks has some 40 000.
const MAX_CHUNKS: usize = 1 << 17;

/// Most attributes of an object; those that are read have up to five.
const MAX_ATTRIBUTES: usize = 16;

/// Most bytes of the name of a tensor or a file.
const MAX_NAME: usize = 1024;

/// A tensor and the parts that it was saved in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SavedTensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) chunks: Vec<SavedChunk>,
}

/// A part of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SavedChunk {
    /// Where it begins in the tensor, along each axis.
    pub(crate) offsets: Vec<usize>,
    /// How far it reaches along each axis.
    pub(crate) sizes: Vec<usize>,
    /// The file's name, which is not to be trusted.
    pub(crate) file: String,
    /// Where it lies in the file, saved as by `torch.save`; not compared with the file.
    pub(crate) range: Range<usize>,
}

/// Why a description is not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum MetadataError {
    #[error("it is not the metadata of torch.distributed.checkpoint")]
    Malformed,
    #[error("it lists more than {MAX_CHUNKS} parts of tensors")]
    TooMany,
    #[error("it lists the tensor `{0}` twice")]
    Twice(String),
    #[error("the tensor `{name}` {problem}")]
    Tensor {
        name: String,
        problem: TensorProblem,
    },
    #[error("the part of `{name}` at {offsets:?} is not in any file")]
    NoPlace { name: String, offsets: Vec<usize> },
    #[error("the part of `{name}` at {offsets:?} is compressed, which is not read")]
    Transformed { name: String, offsets: Vec<usize> },
}

/// The tensors that a `.metadata` of these bytes lists; `file` stands for it in messages.
///
/// # Errors
/// [`LoadError::Invalid`] when it is something else, damaged, or lists a part without a place.
pub(crate) fn saved_tensors(file: &str, bytes: &[u8]) -> Result<Vec<SavedTensor>, LoadError> {
    let invalid = |reason: String| LoadError::invalid(file, reason);
    let pickle = Pickle::read(bytes).map_err(|error| invalid(error.to_string()))?;
    list(&pickle).map_err(|error| invalid(error.to_string()))
}

/// The places of all parts, by the tensor's name and the part's offsets.
type Places<'a> = HashMap<(&'a str, Vec<usize>), Value<'a>>;

fn list(pickle: &Pickle<'_>) -> Result<Vec<SavedTensor>, MetadataError> {
    let metadata = Object::find(pickle, pickle.root(), Saved::Metadata)?;
    let entries = pickle.dict(metadata.attribute("state_dict_metadata")?);
    let entries = entries.ok_or(MetadataError::Malformed)?;
    let places = places(pickle, metadata.attribute("storage_data")?)?;
    let mut count = 0;
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    for &(name, entry) in entries {
        let name = short(name)?;
        // What is not a tensor was pickled by itself.
        let Ok(tensor) = Object::find(pickle, entry, Saved::Tensor) else {
            continue;
        };
        if !names.insert(name) {
            return Err(MetadataError::Twice(shown(name)));
        }
        let Some(Node::List(chunks)) = pickle.node(tensor.attribute("chunks")?) else {
            return Err(MetadataError::Malformed);
        };
        count += chunks.len();
        if count > MAX_CHUNKS {
            return Err(MetadataError::TooMany);
        }
        tensors.push(SavedTensor {
            name: name.to_owned(),
            shape: sizes(&tensor, name, "size")?,
            chunks: chunks
                .iter()
                .map(|&chunk| place(pickle, name, chunk, &places))
                .collect::<Result<_, _>>()?,
        });
    }
    Ok(tensors)
}

fn places<'a>(pickle: &Pickle<'a>, data: Value<'a>) -> Result<Places<'a>, MetadataError> {
    let mut places = Places::new();
    for &(index, place) in pickle.dict(data).ok_or(MetadataError::Malformed)? {
        let index = Object::find(pickle, index, Saved::Index)?;
        let name = short(index.attribute("fqn")?)?;
        // What is not a tensor has none.
        if index.attribute("offset").is_ok() {
            places.insert((name, sizes(&index, name, "offset")?), place);
        }
    }
    Ok(places)
}

fn place<'a>(
    pickle: &Pickle<'a>,
    name: &'a str,
    chunk: Value<'a>,
    places: &Places<'a>,
) -> Result<SavedChunk, MetadataError> {
    let chunk = Object::find(pickle, chunk, Saved::Chunk)?;
    let offsets = sizes(&chunk, name, "offsets")?;
    let sizes = sizes(&chunk, name, "sizes")?;
    let key = (name, offsets);
    let place = places.get(&key).copied();
    let (_, offsets) = key;
    let Some(place) = place else {
        let name = shown(name);
        return Err(MetadataError::NoPlace { name, offsets });
    };
    let place = Object::find(pickle, place, Saved::Place)?;
    if place.attribute("transform_descriptors").is_ok() {
        let name = shown(name);
        return Err(MetadataError::Transformed { name, offsets });
    }
    let file = short(place.attribute("relative_path")?)?;
    let (Value::Int(start), Value::Int(length)) =
        (place.attribute("offset")?, place.attribute("length")?)
    else {
        return Err(MetadataError::Malformed);
    };
    let end = start.checked_add(length).map(usize::try_from);
    let (Ok(start), Some(Ok(end))) = (usize::try_from(start), end) else {
        return Err(MetadataError::Malformed);
    };
    Ok(SavedChunk {
        offsets,
        sizes,
        file: file.to_owned(),
        range: start..end,
    })
}

/// A name of reasonable length: one long text may be that of many things.
fn short<'a>(value: Value<'a>) -> Result<&'a str, MetadataError> {
    match value {
        Value::Text(name) if name.len() <= MAX_NAME => Ok(name),
        _ => Err(MetadataError::Malformed),
    }
}

/// Sizes, or offsets, that an attribute holds.
fn sizes(
    object: &Object<'_, '_>,
    name: &str,
    attribute: &str,
) -> Result<Vec<usize>, MetadataError> {
    let tensor = |problem| MetadataError::Tensor {
        name: shown(name),
        problem,
    };
    let found = integers(object.pickle, object.attribute(attribute)?).map_err(tensor)?;
    let sizes: Result<_, _> = found.iter().map(|&size| usize::try_from(size)).collect();
    sizes.map_err(|_| tensor(TensorProblem::Shape(found)))
}

/// A dataclass's object.
struct Object<'p, 'a> {
    pickle: &'p Pickle<'a>,
    attributes: &'p [(Value<'a>, Value<'a>)],
}

impl<'p, 'a> Object<'p, 'a> {
    fn find(pickle: &'p Pickle<'a>, value: Value<'a>, of: Saved) -> Result<Self, MetadataError> {
        match pickle.node(value) {
            Some(&Node::Made {
                of: Global::Saved(class),
                state,
                ..
            }) if class == of => {
                let attributes = pickle.dict(state).ok_or(MetadataError::Malformed)?;
                // One long dictionary may be that of many objects.
                if attributes.len() > MAX_ATTRIBUTES {
                    return Err(MetadataError::Malformed);
                }
                Ok(Self { pickle, attributes })
            }
            _ => Err(MetadataError::Malformed),
        }
    }

    fn attribute(&self, name: &str) -> Result<Value<'a>, MetadataError> {
        let mut attributes = self.attributes.iter();
        let found = attributes.find(|(key, _)| *key == Value::Text(name));
        let (_, value) = found.ok_or(MetadataError::Malformed)?;
        Ok(*value)
    }
}
