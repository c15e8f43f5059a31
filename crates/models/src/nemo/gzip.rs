//! Compressed archives, unfolded into a file without a name.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::LoadError;

/// How gzip begins.
const MAGIC: &[u8] = b"\x1f\x8b";

/// An archive of this size unfolds, however small it was.
const FREE_BYTES: u64 = 64 << 20;

/// Beyond [`FREE_BYTES`], most bytes that one byte may unfold to. Weights shrink by a third.
const MAX_RATIO: u64 = 100;

/// Bytes written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Whether a file is compressed.
pub(super) fn is_compressed(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Unfolds `bytes` into a temporary file that no directory lists. `place` stands for it in
/// messages.
///
/// # Errors
/// [`LoadError::Invalid`] when the data is damaged, cut off, or unfolds to more than
/// [`MAX_RATIO`] times its size; [`LoadError::Io`], which names the directory that is full.
pub(super) fn unfold(place: &str, bytes: &[u8]) -> Result<File, LoadError> {
    let directory = std::env::temp_dir();
    let no_room = |source: io::Error| no_room(place, &directory, &source);
    let mut file = tempfile::tempfile_in(&directory).map_err(no_room)?;
    let limit = FREE_BYTES.max((bytes.len() as u64).saturating_mul(MAX_RATIO));
    let mut unfolding = MultiGzDecoder::new(bytes).take(limit.saturating_add(1));
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut total = 0;
    loop {
        let read = match unfolding.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let reason = format!("its compressed data is damaged or cut off: {error}");
                return Err(LoadError::invalid(place, reason));
            }
        };
        let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else {
            break;
        };
        total += read as u64;
        if total > limit {
            let reason = format!(
                "its {} bytes unfold to more than {limit}, {MAX_RATIO} times as many",
                bytes.len()
            );
            return Err(LoadError::invalid(place, reason));
        }
        file.write_all(part).map_err(no_room)?;
    }
    Ok(file)
}

fn no_room(place: &str, directory: &Path, source: &io::Error) -> LoadError {
    let reason = format!(
        "it is compressed, and unfolding it into `{}` failed ({source}); `TMPDIR` may name a \
         directory with more room",
        directory.display()
    );
    LoadError::Io {
        file: place.to_owned(),
        source: io::Error::new(source.kind(), reason),
    }
}
