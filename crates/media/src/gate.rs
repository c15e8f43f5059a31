//! From what a request names to pictures: the front of the crate.

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
        self.load_within(url, &self.budget()).await
    }

    /// Loads the pictures of one request, several at a time, in the order of `urls`.
    ///
    /// # Errors
    /// The first of `urls` that fails and why. The rest is given up.
    pub async fn load_all(&self, urls: &[String]) -> Result<Vec<Picture>, (usize, MediaError)> {
        let budget = self.budget();
        let loads = urls.iter().enumerate().map(|(index, url)| {
            let budget = &budget;
            async move {
                let loaded = self.load_within(url, budget).await;
                loaded.map_err(|error| (index, error))
            }
        });
        // Collected first: a lazily mapped stream is not `Send` for every lifetime.
        let loads: Vec<_> = loads.collect();
        stream::iter(loads)
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

    async fn load_within(&self, url: &str, budget: &Arc<Budget>) -> Result<Picture, MediaError> {
        let limits = self.shared.image;
        let encoded = if DataUri::matches(url) {
            let bytes = DataUri::parse(url)?.decoded_len();
            limits.check_bytes(bytes)?;
            budget.take_bytes(bytes)?;
            Source::Inline(url.to_owned())
        } else {
            Source::Fetched(self.shared.fetcher.fetch(url, budget).await?)
        };
        let slot = Arc::clone(&self.shared.decoders).acquire_owned().await;
        let slot = slot.map_err(|_| MediaError::Internal)?;
        let budget = Arc::clone(budget);
        let decoding = spawn_blocking(move || {
            let _slot = slot;
            let bytes = match encoded {
                Source::Inline(url) => DataUri::parse(&url)?.decode()?,
                Source::Fetched(bytes) => bytes,
            };
            let picture = Encoded::open(&bytes, &limits)?;
            budget.pixels.take(picture.pixels())?;
            picture.decode()
        });
        decoding.await.unwrap_or_else(|error| {
            tracing::error!(%error, "decoding an image was given up");
            Err(MediaError::Internal)
        })
    }
}

/// An encoded picture on its way to a blocking thread.
enum Source {
    /// A data URI, whose payload is decoded there too.
    Inline(String),
    Fetched(Vec<u8>),
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
