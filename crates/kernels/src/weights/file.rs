//! One file of weights, mapped into memory.

#![expect(
    unsafe_code,
    reason = "mapping a file into memory is unsafe: see `map`"
)]

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::WeightsError;

/// The bytes of a file and what it is called in messages. Clones share the bytes.
#[derive(Clone)]
pub struct WeightFile {
    name: Arc<str>,
    bytes: Bytes,
}

#[derive(Clone)]
enum Bytes {
    Mapped(Arc<Mmap>),
    Static(&'static [u8]),
}

impl WeightFile {
    /// Maps the file at `path`; nothing of it is read yet.
    ///
    /// # Errors
    /// [`WeightsError::Read`].
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Self::from_file(name, &file),
            Err(source) => Err(read_error(&name, source)),
        }
    }

    /// Maps a file that is already open, for files that have no path. `name` stands for it in
    /// messages.
    ///
    /// # Errors
    /// [`WeightsError::Read`].
    pub fn from_file(name: String, file: &File) -> Result<Self, WeightsError> {
        let map = map(file).map_err(|source| read_error(&name, source))?;
        Ok(Self {
            name: name.into(),
            bytes: Bytes::Mapped(Arc::new(map)),
        })
    }

    /// A file that is part of the program.
    #[must_use]
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Self {
        Self {
            name: name.into(),
            bytes: Bytes::Static(bytes),
        }
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All of its bytes.
    ///
    /// Should another process write to the file, its writes may show: interpret a copy.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
        }
    }
}

impl fmt::Debug for WeightFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeightFile")
            .field("name", &self.name)
            .field("bytes", &self.bytes().len())
            .finish()
    }
}

fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is private and read-only, and lives as long as its owner. What the
    // language cannot promise is that no one changes the file meanwhile: a write would show
    // through a `&[u8]`, a truncation would end the process with SIGBUS. Weights are files that
    // are replaced, never edited; they are read through here only while a model loads, every
    // tensor is copied out, and any bit pattern is a valid number, so a change can at worst give
    // wrong numbers or end the start-up of a process whose files were destroyed.
    unsafe { Mmap::map(file) }
}

fn read_error(name: &str, source: std::io::Error) -> WeightsError {
    WeightsError::Read {
        file: name.into(),
        source,
    }
}
