//! The zip that `torch.save` writes: nothing in it is compressed, so that tensors can be mapped.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::Range;

use zip::read::{ArchiveOffset, Config};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::shown;
use crate::budget::Budget;

/// Most bytes of all headers together. An entry takes some 200.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// Why a zip is not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ZipProblem {
    /// It is none, or its directory cannot be followed.
    #[error("it is not a whole zip ({0})")]
    Damaged(#[from] ZipError),
    /// Two entries have one name.
    #[error("its zip has two entries of one name")]
    Twice,
    /// An entry has to be unpacked.
    #[error("`{0}` in its zip is compressed or encrypted, which torch never does")]
    Packed(String),
    /// An entry is said to lie elsewhere.
    #[error("`{0}` in its zip lies beyond the end: it is cut off")]
    Beyond(String),
}

/// Where the entries of a zip lie in its `bytes`, by name.
///
/// Checksums are not compared: torch neither does so, nor always writes them
/// (`torch.serialization.set_crc32_options`).
pub(crate) fn entries(bytes: &[u8]) -> Result<BTreeMap<String, Range<usize>>, ZipProblem> {
    let left = Cell::new(MAX_HEADER_BYTES);
    let config = Config {
        archive_offset: ArchiveOffset::Known(0),
    };
    let reader = Budget::new(Cursor::new(bytes), &left);
    let mut zip = ZipArchive::with_config(config, reader)?;
    if zip.has_duplicate_names() {
        return Err(ZipProblem::Twice);
    }
    let mut entries = BTreeMap::new();
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index)?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        let stored = entry.compression() == CompressionMethod::Stored
            && entry.compressed_size() == entry.size()
            && !entry.encrypted();
        if !stored {
            return Err(ZipProblem::Packed(shown(&name)));
        }
        let range = entry.data_start().and_then(|start| {
            let end = start.checked_add(entry.size())?;
            let range = usize::try_from(start).ok()?..usize::try_from(end).ok()?;
            bytes.get(range.clone()).map(|_| range)
        });
        let range = range.ok_or_else(|| ZipProblem::Beyond(shown(&name)))?;
        // Names that differ in bytes may not differ as text.
        if entries.insert(name, range).is_some() {
            return Err(ZipProblem::Twice);
        }
    }
    Ok(entries)
}
