//! Pictures on their way from a request to the model, and what is remembered of them.
//!
//! Two things are, each within its own bound on memory:
//!
//! - what the model takes of a picture, by the picture's content, so that one that comes again
//!   costs neither decoding nor resampling;
//! - files by the name (`uuid`) that a client gave them, so that it need not send them again.
//!
//! A name is never taken for content. A named file goes the way of one that was just sent: every
//! limit is held against it, and caches know it by what is in it.

mod cache;
mod keys;
mod lru;
mod named;

use std::sync::Arc;

use vlmd_api::{ImagePart, asset_in};
use vlmd_backend::ImageInput;
use vlmd_media::{MediaGate, Picture, PictureFile, Source};
use vlmd_models::{ImageError, Processor};

pub use cache::ImageCacheStats;
pub(crate) use keys::Owner;

use crate::assets::AssetStore;
use crate::error::Refusal;
use cache::{ImageCache, Known};
use keys::{FileKey, NameKey};
use named::NamedPictures;

/// How much memory remembered pictures may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureMemory {
    /// Bytes for pictures as the model takes them (`--image-cache-memory`); 0 keeps none.
    pub image_cache: usize,
    /// Bytes for files that clients gave a name (`--image-uuid-memory`); 0 keeps none.
    pub named: usize,
}

impl PictureMemory {
    /// Enough for some 390 pictures of Phi-3.5-vision, or 280 of Llama-3.2-Vision.
    pub const DEFAULT_IMAGE_CACHE: usize = 1 << 30;
    /// Enough for some hundred photographs.
    pub const DEFAULT_NAMED: usize = 256 << 20;
}

impl Default for PictureMemory {
    fn default() -> Self {
        Self {
            image_cache: Self::DEFAULT_IMAGE_CACHE,
            named: Self::DEFAULT_NAMED,
        }
    }
}

/// What is remembered of the pictures of one model's requests. Clones share it.
#[derive(Debug, Clone)]
pub struct PictureStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cache: ImageCache,
    named: NamedPictures,
}

/// The pictures of a request: each once, in the order in which they are first shown.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    parts: Vec<ImagePart>,
}

/// A picture that has arrived.
#[derive(Debug)]
pub(crate) enum Arrived {
    /// One that was met before, as the model takes it.
    Known(ImageInput),
    /// A new one, and the file that it came in, where that is of use.
    New(Picture, Option<FileKey>),
}

impl Wanted {
    /// Adds a picture, and gives its index. One that is only named is the one that was sent under
    /// this name before it in the same request, if one was.
    pub(crate) fn push(&mut self, part: ImagePart) -> usize {
        let named = |other: &ImagePart| other.uuid == part.uuid;
        match self.parts.iter().rposition(named) {
            Some(index) if part.image_url.is_none() => index,
            _ => {
                self.parts.push(part);
                self.parts.len() - 1
            }
        }
    }

    /// Where in the request the picture `index` stands, for error messages.
    pub(crate) fn field(&self, index: usize) -> &str {
        let part = self.parts.get(index);
        part.map_or("messages", |part| part.field.as_str())
    }
}

impl PictureStore {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new(memory: PictureMemory) -> Self {
        Self {
            inner: Arc::new(Inner {
                cache: ImageCache::new(memory.image_cache),
                named: NamedPictures::new(memory.named),
            }),
        }
    }

    /// How the cache of pictures as the model takes them does.
    #[must_use]
    pub fn cache_stats(&self) -> ImageCacheStats {
        self.inner.cache.stats()
    }

    /// Bytes of the files that have a name.
    #[must_use]
    pub fn named_bytes(&self) -> usize {
        self.inner.named.bytes()
    }

    /// Gets all pictures of a request, and keeps those that have a name once all are there.
    pub(crate) async fn load(
        &self,
        gate: &MediaGate,
        assets: &AssetStore,
        owner: &Owner,
        wanted: &Wanted,
    ) -> Result<Vec<Arrived>, Refusal> {
        let source = |part: &ImagePart| self.source(assets, owner, part);
        let sources = wanted.parts.iter().map(source).collect::<Result<_, _>>()?;
        let (store, opener) = (self.clone(), owner.clone());
        let open = move |file: PictureFile| {
            let arrived = store.open(&opener, &file)?;
            Ok((arrived, Arc::clone(file.bytes())))
        };
        let opened = gate.open_all(sources, open).await;
        let opened = opened.map_err(|(index, source)| Refusal::Media {
            field: wanted.field(index).to_owned(),
            source,
        })?;
        let kept = wanted
            .parts
            .iter()
            .zip(opened)
            .map(|(part, (arrived, file))| {
                if let (Some(uuid), Some(_)) = (&part.uuid, &part.image_url) {
                    self.inner.named.keep(NameKey::of(owner, uuid), file);
                }
                arrived
            });
        Ok(kept.collect())
    }

    /// Where the picture of a part comes from.
    fn source(
        &self,
        assets: &AssetStore,
        owner: &Owner,
        part: &ImagePart,
    ) -> Result<Source, Refusal> {
        if let Some(image_url) = &part.image_url {
            let Some(id) = asset_in(&image_url.url) else {
                return Ok(Source::Url(image_url.url.clone()));
            };
            let file = assets.file(owner.caller.into(), id, &part.field)?;
            return Ok(Source::File(file));
        }
        let uuid = part.uuid.as_deref().unwrap_or_default();
        let file = self.inner.named.find(&NameKey::of(owner, uuid));
        file.map(Source::File).ok_or_else(|| Refusal::UnknownImage {
            field: part.field.clone(),
            uuid: uuid.to_owned(),
        })
    }

    /// Decodes a file, unless it was met before.
    fn open(&self, owner: &Owner, file: &PictureFile) -> Result<Arrived, vlmd_media::MediaError> {
        let key = self.inner.cache.file_key(owner, file.bytes());
        if let Some(Known { image, pixels }) = key.and_then(|key| self.inner.cache.recall(&key)) {
            file.count_known(pixels)?;
            return Ok(Arrived::Known(image));
        }
        Ok(Arrived::New(file.decode()?, key))
    }

    /// What the model takes of a picture. Takes its time: not for an async worker.
    ///
    /// # Errors
    /// As [`Processor::image`].
    pub(crate) fn image(
        &self,
        processor: &dyn Processor,
        owner: &Owner,
        arrived: Arrived,
    ) -> Result<ImageInput, ImageError> {
        match arrived {
            Arrived::Known(image) => Ok(image),
            Arrived::New(picture, file) => self.inner.cache.image(processor, owner, file, &picture),
        }
    }
}

#[cfg(test)]
mod tests {
    use vlmd_api::ImageUrl;

    use super::*;

    fn part(url: Option<&str>, uuid: Option<&str>) -> ImagePart {
        ImagePart {
            image_url: url.map(|url| ImageUrl {
                url: url.to_owned(),
                detail: None,
            }),
            uuid: uuid.map(str::to_owned),
            field: String::new(),
        }
    }

    #[test]
    fn a_name_alone_is_what_was_last_sent_under_it() {
        let mut wanted = Wanted::default();
        let indices = [
            (None, Some("u")),
            (Some("a"), Some("u")),
            (None, Some("u")),
            (Some("b"), Some("u")),
            (Some("c"), None),
            (None, Some("u")),
            (None, Some("v")),
            (Some("c"), None),
        ]
        .map(|(url, uuid)| wanted.push(part(url, uuid)));
        // The first one is of an earlier request; what has no name is never taken for another.
        assert_eq!(indices, [0, 1, 1, 2, 3, 2, 4, 5]);
    }
}
