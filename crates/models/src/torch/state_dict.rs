//! The tensors of a pickled dictionary.

use std::collections::BTreeSet;
use std::ops::Range;

use vlmd_kernels::weights::{RawTensor, StoredDtype};

use super::Archive;
use super::globals::Global;
use super::pickle::{Node, Pickle, Value, shown};

/// Most dimensions of a tensor. Those of models have up to five.
const MAX_DIMENSIONS: usize = 8;

/// Why a dictionary is none of weights.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StateDictError {
    /// It is something else.
    #[error("it does not hold a dictionary of tensors")]
    NoDictionary,
    /// It holds other things only.
    #[error("its dictionary holds no tensor")]
    NoTensors,
    /// It is no tensor where one is wanted.
    #[error("it is not a tensor")]
    NoTensor,
    /// A name is there twice.
    #[error("the tensor `{0}` is there twice")]
    Twice(String),
    /// A tensor cannot be found by its description.
    #[error("the tensor `{name}` {problem}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: TensorProblem,
    },
}

/// Why a tensor cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TensorProblem {
    /// Its parts are not those of a tensor.
    #[error("is described in a way that is not torch's")]
    Malformed,
    #[error("has {0} dimensions, more than {MAX_DIMENSIONS}")]
    Dimensions(usize),
    /// A size or an offset below zero, or one that cannot be multiplied.
    #[error("has the shape {0:?}, which cannot be")]
    Shape(Vec<i64>),
    /// Its values do not follow each other.
    #[error(
        "has the shape {shape:?} and the strides {strides:?}: its values do not lie row by row; \
         `.contiguous()` before saving it puts them so"
    )]
    Strides {
        /// Sizes, outermost first.
        shape: Vec<usize>,
        /// Values from one index to the next.
        strides: Vec<i64>,
    },
    /// It reaches out of its storage.
    #[error("takes the values {range:?} of a storage of {len}")]
    Beyond {
        /// Values, counted.
        range: Range<i64>,
        /// Values in the storage.
        len: i64,
    },
    /// The storage does not exist.
    #[error("lies in the storage `{0}`, which is not there")]
    NoStorage(String),
    /// The storage is not as large as it should be.
    #[error("lies in the storage `{key}` of {expected} bytes, but its file has {found}")]
    StorageSize {
        /// Its name.
        key: String,
        /// Bytes by the pickle.
        expected: i128,
        /// Bytes in the zip.
        found: usize,
    },
}

/// All tensors of the dictionary that the pickle is or holds.
pub(super) fn tensors(
    pickle: &Pickle<'_>,
    archive: &Archive<'_>,
) -> Result<Vec<RawTensor>, StateDictError> {
    let root = pickle.dict(pickle.root());
    let root = root.ok_or(StateDictError::NoDictionary)?;
    let nested = root
        .iter()
        .find(|(key, _)| *key == Value::Text("state_dict"))
        .and_then(|&(_, value)| pickle.dict(value));
    // Texts may be long and stand for many keys: each name is taken once.
    let mut names = BTreeSet::new();
    let mut tensors = Vec::new();
    for &(key, value) in nested.unwrap_or(root) {
        let (Value::Text(name), Some(tensor)) = (key, find(pickle, value)) else {
            continue;
        };
        if !names.insert(name) {
            return Err(StateDictError::Twice(shown(name)));
        }
        let tensor = tensor
            .and_then(|tensor| locate(name, &tensor, archive))
            .map_err(|problem| StateDictError::Tensor {
                name: shown(name),
                problem,
            })?;
        tensors.push(tensor);
    }
    if tensors.is_empty() {
        return Err(StateDictError::NoTensors);
    }
    Ok(tensors)
}

/// The tensor that the pickle is.
pub(super) fn tensor(
    pickle: &Pickle<'_>,
    archive: &Archive<'_>,
    name: &str,
) -> Result<RawTensor, StateDictError> {
    let tensor = find(pickle, pickle.root()).ok_or(StateDictError::NoTensor)?;
    tensor
        .and_then(|tensor| locate(name, &tensor, archive))
        .map_err(|problem| StateDictError::Tensor {
            name: shown(name),
            problem,
        })
}

/// A tensor as the pickle describes it.
struct Described<'a> {
    dtype: StoredDtype,
    /// The storage's name and its number of values.
    key: &'a str,
    len: i64,
    offset: i64,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

/// The tensor that a value is; `None` if it is something else.
fn find<'a>(pickle: &Pickle<'a>, value: Value<'a>) -> Option<Result<Described<'a>, TensorProblem>> {
    let (mut of, mut arguments) = made(pickle, value)?;
    if of == Global::RebuildParameter {
        let &inner = pickle.tuple(arguments)?.first()?;
        (of, arguments) = made(pickle, inner)?;
    }
    if !matches!(of, Global::RebuildTensorV2 | Global::RebuildTensorV3) {
        return None;
    }
    Some(describe(pickle, of, arguments))
}

fn made<'a>(pickle: &Pickle<'a>, value: Value<'a>) -> Option<(Global, Value<'a>)> {
    match pickle.node(value)? {
        Node::Made { of, arguments, .. } => Some((*of, *arguments)),
        _ => None,
    }
}

fn describe<'a>(
    pickle: &Pickle<'a>,
    of: Global,
    arguments: Value<'a>,
) -> Result<Described<'a>, TensorProblem> {
    // Storage, offset, size, stride, whether it wants gradients, hooks, and what differs.
    let Some(
        &[
            storage,
            Value::Int(offset),
            size,
            strides,
            _,
            _,
            ref rest @ ..,
        ],
    ) = pickle.tuple(arguments)
    else {
        return Err(TensorProblem::Malformed);
    };
    let id = match pickle.node(storage) {
        Some(Node::Persistent(id)) => pickle.tuple(*id),
        _ => None,
    };
    // A tag, the class, the name of the file, the device, the number of values.
    let Some(
        &[
            Value::Text("storage"),
            Value::Global(class),
            Value::Text(key),
            _,
            Value::Int(len),
        ],
    ) = id
    else {
        return Err(TensorProblem::Malformed);
    };
    let (dtype, len) = match (of, class, rest.first()) {
        (Global::RebuildTensorV2, Global::Storage(dtype), _) => (dtype, len),
        (
            Global::RebuildTensorV3,
            Global::UntypedStorage,
            Some(&Value::Global(Global::DType(dtype))),
        ) => {
            let width = i64::try_from(dtype.bitsize() / 8);
            let len = width.ok().and_then(|width| len.checked_div(width));
            (dtype, len.ok_or(TensorProblem::Malformed)?)
        }
        _ => return Err(TensorProblem::Malformed),
    };
    Ok(Described {
        dtype,
        key,
        len,
        offset,
        shape: integers(pickle, size)?,
        strides: integers(pickle, strides)?,
    })
}

/// The integers of a tuple, or of a `torch.Size` of one.
pub(super) fn integers<'a>(
    pickle: &Pickle<'a>,
    value: Value<'a>,
) -> Result<Vec<i64>, TensorProblem> {
    let value = match pickle.node(value) {
        Some(&Node::Made {
            of: Global::Size,
            arguments,
            ..
        }) => {
            let inner = pickle.tuple(arguments).and_then(<[_]>::first);
            *inner.ok_or(TensorProblem::Malformed)?
        }
        _ => value,
    };
    let values = pickle.tuple(value).ok_or(TensorProblem::Malformed)?;
    if values.len() > MAX_DIMENSIONS {
        return Err(TensorProblem::Dimensions(values.len()));
    }
    let integer = |value: &Value<'_>| match value {
        Value::Int(number) => Ok(*number),
        _ => Err(TensorProblem::Malformed),
    };
    values.iter().map(integer).collect()
}

/// Where the tensor's values are in the file.
fn locate(
    name: &str,
    tensor: &Described<'_>,
    archive: &Archive<'_>,
) -> Result<RawTensor, TensorProblem> {
    let shape = shape(tensor)?;
    let width = tensor.dtype.bitsize() / 8;
    let impossible = || TensorProblem::Shape(tensor.shape.clone());

    let record = archive
        .record(&format!("data/{}", tensor.key))
        .ok_or_else(|| TensorProblem::NoStorage(shown(tensor.key)))?;
    let expected = i128::from(tensor.len) * width as i128;
    if expected != record.len() as i128 {
        return Err(TensorProblem::StorageSize {
            key: shown(tensor.key),
            expected,
            found: record.len(),
        });
    }

    let values = shape
        .iter()
        .try_fold(1, |n: usize, &size| n.checked_mul(size));
    let values = values.ok_or_else(impossible)?;
    let end = i64::try_from(values)
        .ok()
        .and_then(|values| tensor.offset.checked_add(values))
        .ok_or_else(impossible)?;
    if tensor.offset < 0 || end > tensor.len {
        return Err(TensorProblem::Beyond {
            range: tensor.offset..end,
            len: tensor.len,
        });
    }
    // Within the storage, hence within the file: nothing of this can exceed its length.
    let start = usize::try_from(tensor.offset).map_err(|_| impossible())?;
    let start = archive.offset + record.start + start * width;
    Ok(RawTensor {
        name: name.to_owned(),
        dtype: tensor.dtype,
        shape,
        range: start..start + values * width,
    })
}

/// The sizes of a tensor, after its strides were found to be those of rows.
fn shape(tensor: &Described<'_>) -> Result<Vec<usize>, TensorProblem> {
    let impossible = || TensorProblem::Shape(tensor.shape.clone());
    if tensor.strides.len() != tensor.shape.len() {
        return Err(TensorProblem::Malformed);
    }
    let sizes = tensor.shape.iter().map(|&size| usize::try_from(size));
    let shape: Vec<usize> = sizes.collect::<Result<_, _>>().map_err(|_| impossible())?;
    if shape.contains(&0) {
        return Ok(shape);
    }
    let mut expected: i64 = 1;
    for (&size, &stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
        // From the only index to itself no step is taken.
        if size == 1 {
            continue;
        }
        if stride != expected {
            return Err(TensorProblem::Strides {
                shape,
                strides: tensor.strides.clone(),
            });
        }
        expected = expected.checked_mul(size).ok_or_else(impossible)?;
    }
    Ok(shape)
}
