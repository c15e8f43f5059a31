//! A reader that gives up.

use std::cell::Cell;
use std::io::{Error, Read, Result, Seek, SeekFrom};

/// Reads at most as many bytes as are left, to bound what a parser of foreign files takes in.
/// Seeking is free.
#[derive(Debug)]
pub(crate) struct Budget<'a, R> {
    inner: R,
    /// Bytes that may still be read. Whoever owns it may add to it.
    left: &'a Cell<u64>,
}

impl<'a, R> Budget<'a, R> {
    pub(crate) fn new(inner: R, left: &'a Cell<u64>) -> Self {
        Self { inner, left }
    }
}

impl<R: Read> Read for Budget<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.get().checked_sub(read as u64) {
            Some(left) => self.left.set(left),
            None => {
                return Err(Error::other(
                    "its headers are larger than those of real files",
                ));
            }
        }
        Ok(read)
    }
}

impl<R: Seek> Seek for Budget<'_, R> {
    fn seek(&mut self, position: SeekFrom) -> Result<u64> {
        self.inner.seek(position)
    }
}
