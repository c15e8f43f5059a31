//! Files that the command line names.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::BenchError;

/// The content of a file of at most `limit` bytes.
///
/// # Errors
/// [`BenchError::File`] with `flag`, the path, and why.
pub(crate) fn read(flag: &'static str, path: &Path, limit: usize) -> Result<Vec<u8>, BenchError> {
    let failed = |reason: String| BenchError::File {
        flag,
        path: path.to_owned(),
        reason,
    };
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut content = Vec::new();
    // One byte more than allowed tells a file that is too long, whatever length it announces.
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(bound)
        .read_to_end(&mut content)
        .map_err(|error| failed(error.to_string()))?;
    if content.len() > limit {
        return Err(failed(format!("holds more than {limit} bytes")));
    }
    Ok(content)
}

/// Writes a report.
///
/// # Errors
/// [`BenchError::File`] with `flag`, the path, and why.
pub(crate) fn write(flag: &'static str, path: &Path, content: &str) -> Result<(), BenchError> {
    std::fs::write(path, content).map_err(|error| BenchError::File {
        flag,
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
