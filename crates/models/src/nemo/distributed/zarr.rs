//! Arrays of zarr 2, as Megatron core writes them: a folder with a description and a file per
//! chunk, neither compressed nor filtered. See the specification of zarr's version 2, and
//! `strategies/zarr.py` for the name of bfloat16, which zarr does not have.

use serde::Deserialize;
use serde::de::IgnoredAny;
use vlmd_kernels::weights::StoredDtype;

use super::FOLDER;
use crate::LoadError;
use crate::nemo::container::Container;

/// The description of an array.
const DESCRIPTION: &str = "/.zarray";

/// Most chunks of an array.
const MAX_CHUNKS: usize = 1 << 16;

/// The array that a member describes.
pub(super) fn array_of(member: &str) -> Option<&str> {
    let name = member.strip_prefix(FOLDER)?.strip_suffix(DESCRIPTION)?;
    (!name.contains('/')).then_some(name)
}

/// An array whose chunks fill it exactly.
#[derive(Debug)]
pub(super) struct Array {
    dtype: StoredDtype,
    shape: Vec<usize>,
    chunk_shape: Vec<usize>,
}

#[derive(Deserialize)]
struct Description {
    zarr_format: u32,
    shape: Vec<usize>,
    chunks: Vec<usize>,
    dtype: String,
    order: String,
    compressor: Option<IgnoredAny>,
    filters: Option<IgnoredAny>,
    #[serde(default = "dot")]
    dimension_separator: String,
}

fn dot() -> String {
    ".".to_owned()
}

impl Array {
    /// Reads the description of the array `name`.
    pub(super) fn read(container: &Container, name: &str) -> Result<Self, LoadError> {
        let member = format!("{FOLDER}{name}{DESCRIPTION}");
        let file = container.path_of(&member);
        let found: Description =
            serde_json::from_slice(&container.read(&member)?).map_err(|source| {
                let file = file.clone();
                LoadError::Json { file, source }
            })?;
        Self::new(found).map_err(|reason| LoadError::invalid(&file, reason))
    }

    fn new(found: Description) -> Result<Self, String> {
        let Description { shape, chunks, .. } = found;
        if found.zarr_format != 2 {
            return Err(format!(
                "`zarr_format` must be 2, but is {}",
                found.zarr_format
            ));
        }
        if found.order != "C" {
            return Err(format!("`order` must be `C`, but is `{}`", found.order));
        }
        if found.dimension_separator != "." {
            let separator = found.dimension_separator;
            return Err(format!(
                "`dimension_separator` must be `.`, but is `{separator}`"
            ));
        }
        if found.compressor.is_some() || found.filters.is_some() {
            return Err(
                "`compressor` and `filters` must be `null`: what they change is not read"
                    .to_owned(),
            );
        }
        let dtype = dtype(&found.dtype)
            .ok_or_else(|| format!("`dtype` is `{}`, which is not read", found.dtype))?;
        let fits = shape.len() == chunks.len()
            && shape
                .iter()
                .zip(&chunks)
                .all(|(&size, &chunk)| chunk > 0 && size % chunk == 0);
        if !fits {
            return Err(format!(
                "`chunks` must divide `shape`, but are {chunks:?} and {shape:?}"
            ));
        }
        let array = Self {
            dtype,
            shape,
            chunk_shape: chunks,
        };
        let count = array.counts().try_fold(1_usize, usize::checked_mul);
        match count {
            Some(count) if count <= MAX_CHUNKS => Ok(array),
            _ => Err(format!(
                "`chunks` {:?} of `shape` {:?} are more than {MAX_CHUNKS}",
                array.chunk_shape, array.shape
            )),
        }
    }

    pub(super) fn dtype(&self) -> StoredDtype {
        self.dtype
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn chunk_shape(&self) -> &[usize] {
        &self.chunk_shape
    }

    /// Chunks along each axis.
    fn counts(&self) -> impl DoubleEndedIterator<Item = usize> {
        let sizes = self.shape.iter().zip(&self.chunk_shape);
        sizes.map(|(&size, &chunk)| size.checked_div(chunk).unwrap_or(0))
    }

    /// The member and the offsets of every chunk, by the offsets ascending.
    pub(super) fn chunks(&self, name: &str) -> impl Iterator<Item = (String, Vec<usize>)> {
        let total = self.counts().product();
        (0..total).map(move |number| {
            let mut rest: usize = number;
            let mut index: Vec<usize> = Vec::with_capacity(self.shape.len());
            for count in self.counts().rev() {
                index.push(rest.checked_rem(count).unwrap_or(0));
                rest = rest.checked_div(count).unwrap_or(0);
            }
            index.reverse();
            let parts: Vec<String> = index.iter().map(usize::to_string).collect();
            // The one chunk of an array without axes is called so, too.
            let file = if parts.is_empty() {
                "0".to_owned()
            } else {
                parts.join(".")
            };
            let at = index.iter().zip(&self.chunk_shape);
            let offsets = at.map(|(&index, &size)| index * size).collect();
            (format!("{FOLDER}{name}/{file}"), offsets)
        })
    }
}

/// A type by NumPy's name.
fn dtype(name: &str) -> Option<StoredDtype> {
    Some(match name {
        "bfloat16" => StoredDtype::BF16,
        "<f2" => StoredDtype::F16,
        "<f4" => StoredDtype::F32,
        "<f8" => StoredDtype::F64,
        "|u1" => StoredDtype::U8,
        "|i1" => StoredDtype::I8,
        "<i2" => StoredDtype::I16,
        "<i4" => StoredDtype::I32,
        "<i8" => StoredDtype::I64,
        "|b1" => StoredDtype::BOOL,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn sound() -> Value {
        json!({
            "zarr_format": 2, "shape": [4, 6], "chunks": [2, 3], "dtype": "<f4", "order": "C",
            "compressor": null, "filters": null, "fill_value": null
        })
    }

    fn read(description: Value) -> Result<Array, String> {
        let found = serde_json::from_value(description).map_err(|error| error.to_string());
        Array::new(found?)
    }

    #[test]
    fn chunks_are_files_by_their_index() {
        let array = read(sound()).unwrap();
        let chunks: Vec<_> = array.chunks("a").collect();
        let expected = [
            ("model_weights/a/0.0", [0, 0]),
            ("model_weights/a/0.1", [0, 3]),
            ("model_weights/a/1.0", [2, 0]),
            ("model_weights/a/1.1", [2, 3]),
        ]
        .map(|(member, offsets)| (member.to_owned(), offsets.to_vec()));
        assert_eq!(chunks, expected);

        let mut scalar = sound();
        scalar["shape"] = json!([]);
        scalar["chunks"] = json!([]);
        let chunks: Vec<_> = read(scalar).unwrap().chunks("a").collect();
        assert_eq!(chunks, [("model_weights/a/0".to_owned(), vec![])]);
    }

    #[test]
    fn other_descriptions_are_refused_by_field() {
        let cases = [
            ("zarr_format", json!(3), "`zarr_format` must be 2, but is 3"),
            ("order", json!("F"), "`order` must be `C`"),
            ("dimension_separator", json!("/"), "`dimension_separator`"),
            ("compressor", json!({"id": "blosc"}), "`compressor`"),
            ("filters", json!([{"id": "delta"}]), "`filters`"),
            ("dtype", json!(">f4"), "`dtype` is `>f4`"),
            ("dtype", json!("<c8"), "`dtype` is `<c8`"),
            ("chunks", json!([2, 4]), "must divide"),
            ("chunks", json!([2, 0]), "must divide"),
            ("chunks", json!([2]), "must divide"),
            ("shape", json!([1_u64 << 40, 6]), "more than 65536"),
            ("shape", json!([u64::MAX - 1, 6]), "more than 65536"),
            ("shape", json!([-1, 6]), "invalid value"),
        ];
        for (field, value, words) in cases {
            let mut description = sound();
            description[field] = value;
            let message = read(description).unwrap_err();
            assert!(message.contains(words), "{field}: {message}");
        }
    }

    #[test]
    fn arrays_are_folders_with_a_description() {
        assert_eq!(array_of("model_weights/a.b/.zarray"), Some("a.b"));
        assert_eq!(array_of("model_weights/a/b/.zarray"), None);
        assert_eq!(array_of("a/.zarray"), None);
        assert_eq!(array_of("model_weights/a/0.0"), None);
    }
}
