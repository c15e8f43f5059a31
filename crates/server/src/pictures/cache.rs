//! What the model takes of pictures that were met before.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vlmd_backend::ImageInput;
use vlmd_media::Picture;
use vlmd_models::{ImageError, Processor};

use super::keys::{FileKey, Owner, PictureKey};
use super::lru::ByteLru;

/// What an entry takes beside its pixels, generously.
const ENTRY_BYTES: usize = 2048;

/// Files that one picture is known by. Whoever sends it in more of them has it decoded again.
const FILES_PER_PICTURE: usize = 8;

/// Resampled pictures, by the content of what they were made of.
///
/// A picture that comes again is not resampled again, and if it comes in the same file it is not
/// even decoded. No lock is held while anything is computed: two requests that bring the same new
/// picture both compute it, and the later one then takes what the earlier one left.
///
/// Owners share nothing: how soon an answer comes would tell one what another has sent. The entries
/// are one processor's; a cache must not be shared by two.
#[derive(Debug)]
pub(super) struct ImageCache {
    /// Whether anything can be kept. Where not, nothing is digested.
    enabled: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    images: ByteLru<PictureKey, Entry>,
    /// Each leads to an entry that is there, which lists it.
    files: HashMap<FileKey, PictureKey>,
    queries: u64,
    hits: u64,
}

#[derive(Debug)]
struct Entry {
    known: Known,
    /// Files that it came in, oldest first.
    files: Vec<FileKey>,
}

/// A picture that was met before.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) image: ImageInput,
    /// Width times height of the decoded picture, which counts towards a request's limit.
    pub(super) pixels: u64,
}

/// What a cache has done, and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImageCacheStats {
    /// Pictures that were looked for.
    pub queries: u64,
    /// Those that were found.
    pub hits: u64,
    /// Pictures that are held.
    pub images: usize,
    /// Bytes that they take.
    pub bytes: usize,
}

impl ImageCache {
    /// Holds `limit` bytes; none switches it off.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            enabled: limit > 0,
            inner: Mutex::new(Inner {
                images: ByteLru::new(limit),
                files: HashMap::new(),
                queries: 0,
                hits: 0,
            }),
        }
    }

    /// The key of a file, where there is use for one. Reads all of it.
    pub(super) fn file_key(&self, owner: &Owner, file: &[u8]) -> Option<FileKey> {
        self.enabled.then(|| FileKey::of(owner, file))
    }

    /// The picture that came in this file before.
    pub(super) fn recall(&self, file: &FileKey) -> Option<Known> {
        let mut inner = self.lock();
        let Inner { images, files, .. } = &mut *inner;
        let known = images.get(files.get(file)?)?.known.clone();
        inner.queries += 1;
        inner.hits += 1;
        Some(known)
    }

    /// What the model takes of `picture`, which came in `file`.
    ///
    /// # Errors
    /// As [`Processor::image`].
    pub(super) fn image(
        &self,
        processor: &dyn Processor,
        owner: &Owner,
        file: Option<FileKey>,
        picture: &Picture,
    ) -> Result<ImageInput, ImageError> {
        let Some(file) = file.filter(|_| self.enabled) else {
            return processor.image(picture);
        };
        let key = PictureKey::of(owner, picture);
        if let Some(image) = self.query(key, file) {
            return Ok(image);
        }
        let image = processor.image(picture)?;
        let known = Known {
            image,
            pixels: u64::from(picture.width()) * u64::from(picture.height()),
        };
        Ok(self.keep(key, file, known))
    }

    /// Looks for a picture, and notes the file where it is there.
    fn query(&self, key: PictureKey, file: FileKey) -> Option<ImageInput> {
        let mut inner = self.lock();
        inner.queries += 1;
        let image = inner.note(key, file)?;
        inner.hits += 1;
        Some(image)
    }

    /// Keeps a picture. If somebody else was faster, theirs is kept and given.
    fn keep(&self, key: PictureKey, file: FileKey, known: Known) -> ImageInput {
        let gone;
        let image = {
            let mut inner = self.lock();
            if let Some(image) = inner.note(key, file) {
                return image;
            }
            let image = known.image.clone();
            let entry = Entry {
                known,
                files: Vec::new(),
            };
            gone = inner
                .images
                .insert(key, entry, image.bytes().saturating_add(ENTRY_BYTES));
            for file in gone.iter().flat_map(|(_, entry)| &entry.files) {
                inner.files.remove(file);
            }
            inner.note(key, file);
            image
        };
        drop(gone);
        image
    }

    /// How it does.
    pub(super) fn stats(&self) -> ImageCacheStats {
        let inner = self.lock();
        ImageCacheStats {
            queries: inner.queries,
            hits: inner.hits,
            images: inner.images.len(),
            bytes: inner.images.bytes(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that can panic stands between two changes that belong together.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Notes that `file` has this picture, and gives it if it is there.
    fn note(&mut self, key: PictureKey, file: FileKey) -> Option<ImageInput> {
        let entry = self.images.get(&key)?;
        if !entry.files.contains(&file) {
            if entry.files.len() == FILES_PER_PICTURE {
                self.files.remove(&entry.files.remove(0));
            }
            entry.files.push(file);
            self.files.insert(file, key);
        }
        Some(entry.known.image.clone())
    }
}

#[cfg(test)]
mod tests;
