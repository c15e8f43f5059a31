//! From what a request names to pictures: the front of the crate.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::data_uri::DataUri;
use crate::decode::Encoded;
use crate::error::{Bound, MediaError};
use crate::fetch::Fetcher;
use crate::limits::{DecodeLimits, MediaConfig, constants};
use crate::picture::Picture;

/// Loads pictures by URL, within the limits of its [`MediaConfig`].
///
/// One gate serves all requests of a process; clones share its limits on concurrency. Fetches
/// run on the async runtime, decoding on its blocking threads. Dropping a returned future drops
/// the fetches under way; a decoding that has begun runs to its end and its result is dropped.
#[derive(Debug, Clone)]
pub struct MediaGate {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    fetcher: Fetcher,
    image: DecodeLimits,
    max_request_bytes: u64,
    max_request_pixels: u64,
    fetch_urls: bool,
    /// Behind its own `Arc`, for a slot goes with the work onto a blocking thread.
    decoders: Arc<Semaphore>,
}

impl MediaGate {
    /// Sets up TLS and the pools.
    ///
    /// # Errors
    /// [`MediaError::Internal`] if there is no TLS.
    pub fn new(config: MediaConfig) -> Result<Self, MediaError> {
        let decoders = config.decode_concurrency.clamp(1, Semaphore::MAX_PERMITS);
        let shared = Shared {
            image: config.image,
            max_request_bytes: config.max_request_bytes,
            max_request_pixels: config.max_request_pixels,
            fetch_urls: config.fetch_urls,
            decoders: Arc::new(Semaphore::new(decoders)),
            fetcher: Fetcher::new(config)?,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Loads the picture behind a `data:`, `http:` or `https:` URL.
    ///
    /// # Errors
    /// See [`MediaError`].
    pub async fn load(&self, url: &str) -> Result<Picture, MediaError> {
        let source = Source::Url(url.to_owned());
        let decode = |file: PictureFile| file.decode();
        self.open(source, &self.budget(), decode).await
    }

    /// Loads the pictures of one request, several at a time, in the order of `urls`.
    ///
    /// # Errors
    /// The first of `urls` that fails and why. The rest is given up.
    pub async fn load_all(&self, urls: &[String]) -> Result<Vec<Picture>, (usize, MediaError)> {
        let sources = urls.iter().cloned().map(Source::Url).collect();
        self.open_all(sources, |file| file.decode()).await
    }

    /// Gets the files of one request's pictures, several at a time, and gives what `open` makes of
    /// each, in the order of `sources`. `open` runs on a blocking thread, in one of the places
    /// for decoding.
    ///
    /// # Errors
    /// The first of `sources` that fails and why. The rest is given up.
    pub async fn open_all<T: Send + 'static>(
        &self,
        sources: Vec<Source>,
        open: impl Fn(PictureFile) -> Result<T, MediaError> + Clone + Send + 'static,
    ) -> Result<Vec<T>, (usize, MediaError)> {
        let budget = self.budget();
        let opened = sources.into_iter().enumerate().map(|(index, source)| {
            let (budget, open) = (&budget, open.clone());
            async move {
                let opened = self.open(source, budget, open).await;
                opened.map_err(|error| (index, error))
            }
        });
        // Collected first: a lazily mapped stream is not `Send` for every lifetime.
        let opened: Vec<_> = opened.collect();
        stream::iter(opened)
            .buffered(constants::REQUEST_CONCURRENCY)
            .try_collect()
            .await
    }

    fn budget(&self) -> Arc<Budget> {
        Arc::new(Budget {
            bytes: Allowance::new(Bound::RequestBytes, self.shared.max_request_bytes),
            pixels: Allowance::new(Bound::RequestPixels, self.shared.max_request_pixels),
        })
    }

    async fn open<T: Send + 'static>(
        &self,
        source: Source,
        budget: &Arc<Budget>,
        open: impl FnOnce(PictureFile) -> Result<T, MediaError> + Send + 'static,
    ) -> Result<T, MediaError> {
        let limits = self.shared.image;
        let arrived = match source {
            Source::Url(url) if DataUri::matches(&url) => {
                let bytes = DataUri::parse(&url)?.decoded_len();
                limits.check_bytes(bytes)?;
                budget.take_bytes(bytes)?;
                Arrived::Inline(url)
            }
            Source::Url(_) if !self.shared.fetch_urls => {
                return Err(MediaError::InvalidUrl(
                    "this server fetches no images (`--no-media-urls`); send the image as a `data:` URI"
                        .to_owned(),
                ));
            }
            Source::Url(url) => Arrived::Bytes(self.shared.fetcher.fetch(&url, budget).await?),
            Source::File(bytes) => {
                limits.check_bytes(bytes.len() as u64)?;
                budget.take_bytes(bytes.len() as u64)?;
                Arrived::File(bytes)
            }
        };
        let slot = Arc::clone(&self.shared.decoders).acquire_owned().await;
        let slot = slot.map_err(|_| MediaError::Internal)?;
        let budget = Arc::clone(budget);
        let opening = spawn_blocking(move || {
            let _slot = slot;
            let bytes = match arrived {
                Arrived::Inline(url) => DataUri::parse(&url)?.decode()?.into(),
                Arrived::Bytes(bytes) => bytes.into(),
                Arrived::File(bytes) => bytes,
            };
            open(PictureFile {
                bytes,
                limits,
                budget,
            })
        });
        opening.await.unwrap_or_else(|error| {
            tracing::error!(%error, "decoding an image was given up");
            Err(MediaError::Internal)
        })
    }
}

/// Where a picture comes from.
#[derive(Clone)]
pub enum Source {
    /// A `data:`, `http:` or `https:` URL.
    Url(String),
    /// A file that came with an earlier request.
    File(Arc<[u8]>),
}

/// Lengths only: pictures belong into no log.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(f, "Url({} bytes)", url.len()),
            Self::File(bytes) => write!(f, "File({} bytes)", bytes.len()),
        }
    }
}

/// A picture on its way to a blocking thread.
enum Arrived {
    /// A data URI, whose payload is decoded there too.
    Inline(String),
    Bytes(Vec<u8>),
    File(Arc<[u8]>),
}

/// A picture as it was sent: PNG, JPEG or whatever it may be, within the limits on bytes.
pub struct PictureFile {
    bytes: Arc<[u8]>,
    limits: DecodeLimits,
    budget: Arc<Budget>,
}

impl PictureFile {
    /// The file's content.
    #[must_use]
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// Decodes it; see [`decode`](crate::decode()).
    ///
    /// # Errors
    /// [`MediaError::TooLarge`] for one that exceeds a limit, by itself or together with the other
    /// pictures of its request, and as [`decode`](crate::decode()).
    pub fn decode(&self) -> Result<Picture, MediaError> {
        let picture = Encoded::open(&self.bytes, &self.limits)?;
        self.budget.pixels.take(picture.pixels())?;
        picture.decode()
    }

    /// Counts a file that has been decoded before and gave `pixels`, so that a request's limit
    /// holds whatever is remembered of its pictures.
    ///
    /// # Errors
    /// [`MediaError::TooLarge`] if they exceed the limit together with the request's others.
    pub fn count_known(&self, pixels: u64) -> Result<(), MediaError> {
        self.budget.pixels.take(pixels)
    }
}

impl fmt::Debug for PictureFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PictureFile({} bytes)", self.bytes.len())
    }
}

/// What the pictures of one request may still take, all together.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes: Allowance,
    pixels: Allowance,
}

impl Budget {
    /// # Errors
    /// [`MediaError::TooLarge`].
    pub(crate) fn take_bytes(&self, bytes: u64) -> Result<(), MediaError> {
        self.bytes.take(bytes)
    }
}

#[derive(Debug)]
struct Allowance {
    bound: Bound,
    limit: u64,
    used: AtomicU64,
}

impl Allowance {
    fn new(bound: Bound, limit: u64) -> Self {
        Self {
            bound,
            limit,
            used: AtomicU64::new(0),
        }
    }

    fn take(&self, amount: u64) -> Result<(), MediaError> {
        // What was refused stays counted: the request has failed.
        let before = self.used.fetch_add(amount, Ordering::Relaxed);
        crate::limits::check(self.bound, before.saturating_add(amount), self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_used_up_to_its_limit() {
        let allowance = Allowance::new(Bound::RequestPixels, 10);
        assert_eq!(allowance.take(4), Ok(()));
        assert_eq!(allowance.take(6), Ok(()));
        let expected = MediaError::TooLarge {
            bound: Bound::RequestPixels,
            given: 11,
            limit: 10,
        };
        assert_eq!(allowance.take(1), Err(expected));
    }
}
