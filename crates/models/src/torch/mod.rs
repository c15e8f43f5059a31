//! Checkpoints of `torch.save`, found in place and read without executing anything.
//!
//! Such a file is a zip. `data.pkl` in it is a pickle of the dictionary of weights, in which every
//! tensor names a storage; each storage lies in the zip as a file of its own, as it was in memory.
//! See `torch/serialization.py` and `torch/_utils.py`.

pub(crate) mod distributed;
mod entries;
mod globals;
mod pickle;
mod state_dict;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

use vlmd_kernels::weights::RawTensor;

use crate::{LoadError, MAX_TEXT_FILE_BYTES};
use pickle::Pickle;
use state_dict::StateDictError;

pub(crate) use pickle::shown;

/// The pickle's name in the zip, below the one folder that everything is in.
const PICKLE: &str = "/data.pkl";

/// How `torch.save` began before version 1.6: a pickle of its magic number.
const OLD_FORMAT: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// The tensors of the checkpoint that lies at `within` of `bytes`, with their ranges in `bytes`.
///
/// It is a dictionary of tensors by name, or has one as its entry `state_dict`, as Lightning
/// writes it. Whatever else it holds is left out. `file` stands for it in messages.
///
/// # Errors
/// [`LoadError::Invalid`] when it is no checkpoint, damaged, wants something called that is not a
/// part of tensors, holds no tensor, or one that does not lie row by row.
pub(crate) fn tensors(
    file: &str,
    bytes: &[u8],
    within: Range<usize>,
) -> Result<Vec<RawTensor>, LoadError> {
    read(file, bytes, within, state_dict::tensors)
}

/// The one tensor that was saved at `within` of `bytes`, with its range in `bytes`. It is to be
/// called `name`.
///
/// # Errors
/// As [`tensors`].
pub(crate) fn tensor(
    file: &str,
    bytes: &[u8],
    within: Range<usize>,
    name: &str,
) -> Result<RawTensor, LoadError> {
    read(file, bytes, within, |pickle, archive| {
        state_dict::tensor(pickle, archive, name)
    })
}

/// Runs the checkpoint's pickle and looks for something in its value.
fn read<T>(
    file: &str,
    bytes: &[u8],
    within: Range<usize>,
    find: impl FnOnce(&Pickle<'_>, &Archive<'_>) -> Result<T, StateDictError>,
) -> Result<T, LoadError> {
    let archive = Archive::open(file, bytes, within)?;
    let program = archive.pickle()?;
    let invalid = |reason: String| LoadError::invalid(file, reason);
    let pickle = Pickle::read(&program).map_err(|error| invalid(error.to_string()))?;
    find(&pickle, &archive).map_err(|error| invalid(error.to_string()))
}

/// The zip of one checkpoint.
struct Archive<'a> {
    file: &'a str,
    bytes: &'a [u8],
    /// Where `bytes` begins in the whole file.
    offset: usize,
    /// The folder that everything is in.
    folder: String,
    entries: BTreeMap<String, Range<usize>>,
}

impl<'a> Archive<'a> {
    fn open(file: &'a str, bytes: &'a [u8], within: Range<usize>) -> Result<Self, LoadError> {
        let invalid = |reason: &str| LoadError::invalid(file, reason);
        let offset = within.start;
        let bytes = bytes
            .get(within)
            .ok_or_else(|| invalid("lies beyond the end of its file"))?;
        if bytes.starts_with(OLD_FORMAT) {
            return Err(invalid(
                "is in the format of PyTorch before 1.6, which has to be executed; where it is \
                 trusted, `torch.save(torch.load(path, weights_only=True), path)` converts it",
            ));
        }
        let entries = entries::entries(bytes)
            .map_err(|error| invalid(&format!("is no checkpoint of PyTorch: {error}")))?;
        let mut folders = entries.keys().filter_map(|name| {
            let folder = name.strip_suffix(PICKLE)?;
            (!folder.contains('/')).then(|| folder.to_owned())
        });
        let (Some(folder), None) = (folders.next(), folders.next()) else {
            return Err(invalid(
                "is no checkpoint of PyTorch: it is a zip without one `data.pkl`",
            ));
        };
        drop(folders);
        let archive = Self {
            file,
            bytes,
            offset,
            folder,
            entries,
        };
        match archive.record("byteorder") {
            Some(range) if archive.bytes.get(range.clone()) != Some(b"little") => {
                Err(invalid("its numbers are not in little-endian order"))
            }
            _ => Ok(archive),
        }
    }

    /// Where a file of the zip lies in `bytes`.
    fn record(&self, name: &str) -> Option<Range<usize>> {
        self.entries
            .get(&format!("{}/{name}", self.folder))
            .cloned()
    }

    /// A copy of the pickle: what is interpreted must not change meanwhile, as a mapped file can.
    fn pickle(&self) -> Result<Vec<u8>, LoadError> {
        let range = self.record("data.pkl").unwrap_or_default();
        let size = range.len() as u64;
        if size > MAX_TEXT_FILE_BYTES {
            return Err(LoadError::TooLarge {
                file: format!("{}{PICKLE}", self.file),
                size,
                limit: MAX_TEXT_FILE_BYTES,
            });
        }
        Ok(self.bytes.get(range).unwrap_or_default().to_vec())
    }
}
