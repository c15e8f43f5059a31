//! Every limit of the gate, with its default.

use std::time::Duration;

use crate::address::AllowHost;
use crate::error::{Bound, MediaError};

/// Defaults, and the bounds that no flag moves.
pub mod constants {
    use std::time::Duration;

    /// Encoded bytes of one picture (`--max-image-bytes`): 20 MiB, what a camera's largest JPEG
    /// needs.
    pub const MAX_IMAGE_BYTES: u64 = 20 << 20;

    /// Width times height of one picture (`--max-image-pixels`). No model looks at more than a
    /// few megapixels; 40 leave room for what people's cameras make.
    pub const MAX_IMAGE_PIXELS: u64 = 40_000_000;

    /// The longer side of one picture (`--max-image-side`), which is the most that JPEG and GIF
    /// can express. It bounds resampling, whose horizontal pass gives output width times *input*
    /// height: without it one column of 40 million pixels would cost a hundred times as much as
    /// a photograph of as many.
    pub const MAX_IMAGE_SIDE: u32 = 65_535;

    /// Encoded bytes of all pictures of a request (`--max-request-image-bytes`).
    pub const MAX_REQUEST_BYTES: u64 = 100 << 20;

    /// Pixels of all pictures of a request (`--max-request-image-pixels`).
    pub const MAX_REQUEST_PIXELS: u64 = 100_000_000;

    /// Time for one picture's names, connections, redirects and body together
    /// (`--media-fetch-timeout`).
    pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

    /// Redirects that one fetch follows.
    pub const MAX_REDIRECTS: u32 = 3;

    /// Fetches under way at a time, over all requests (`--media-fetch-concurrency`).
    pub const FETCH_CONCURRENCY: usize = 32;

    /// Fetches under way at a time from one host (`--media-fetch-concurrency-per-host`): half of
    /// all, so that one that is slow leaves room for others.
    pub const FETCH_CONCURRENCY_PER_HOST: usize = 16;

    /// Time that a fetch waits for its place, beside its own time.
    pub const FETCH_PATIENCE: Duration = Duration::from_secs(10);

    /// Names looked up at a time. A look-up takes one of the runtime's blocking threads, which
    /// decoding needs too, for as long as the system's resolver has patience, whatever the
    /// fetch's own deadline is.
    pub const LOOKUP_CONCURRENCY: usize = 32;

    /// Most pictures decoded at a time (`--media-decode-concurrency`; fewer on machines with
    /// fewer cores). A decoder takes up to 12 bytes a pixel, so the defaults bound decoding to
    /// 8 x 40 million x 12 bytes, under 4 GB, at the very worst.
    pub const MAX_DECODE_CONCURRENCY: usize = 8;

    /// Pictures of one request that are fetched or decoded at a time.
    pub const REQUEST_CONCURRENCY: usize = 8;

    /// Length of an `http(s):` URL. Every browser and proxy takes this much, few take more.
    pub const MAX_URL_BYTES: usize = 8192;
}

/// What one picture may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Encoded bytes; see [`constants::MAX_IMAGE_BYTES`].
    pub max_bytes: u64,
    /// Width times height; see [`constants::MAX_IMAGE_PIXELS`].
    pub max_pixels: u64,
    /// The longer side; see [`constants::MAX_IMAGE_SIDE`].
    pub max_side: u32,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            max_bytes: constants::MAX_IMAGE_BYTES,
            max_pixels: constants::MAX_IMAGE_PIXELS,
            max_side: constants::MAX_IMAGE_SIDE,
        }
    }
}

impl DecodeLimits {
    /// # Errors
    /// [`MediaError::TooLarge`].
    pub(crate) fn check_bytes(&self, bytes: u64) -> Result<(), MediaError> {
        check(Bound::ImageBytes, bytes, self.max_bytes)
    }

    /// # Errors
    /// [`MediaError::TooLarge`].
    pub(crate) fn check_size(&self, width: u32, height: u32) -> Result<(), MediaError> {
        // The product of two u32 fits into a u64.
        let pixels = u64::from(width) * u64::from(height);
        check(Bound::ImagePixels, pixels, self.max_pixels)?;
        let side = u64::from(width.max(height));
        check(Bound::ImageSide, side, u64::from(self.max_side))
    }
}

pub(crate) fn check(bound: Bound, given: u64, limit: u64) -> Result<(), MediaError> {
    if given > limit {
        return Err(MediaError::TooLarge {
            bound,
            given,
            limit,
        });
    }
    Ok(())
}

/// How a [`MediaGate`](crate::MediaGate) is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaConfig {
    /// Limits on each picture.
    pub image: DecodeLimits,
    /// See [`constants::MAX_REQUEST_BYTES`].
    pub max_request_bytes: u64,
    /// See [`constants::MAX_REQUEST_PIXELS`].
    pub max_request_pixels: u64,
    /// See [`constants::FETCH_TIMEOUT`].
    pub fetch_timeout: Duration,
    /// See [`constants::MAX_REDIRECTS`].
    pub max_redirects: u32,
    /// At least 1; see [`constants::FETCH_CONCURRENCY`].
    pub fetch_concurrency: usize,
    /// At least 1; see [`constants::FETCH_CONCURRENCY_PER_HOST`].
    pub fetch_concurrency_per_host: usize,
    /// See [`constants::FETCH_PATIENCE`].
    pub fetch_patience: Duration,
    /// At least 1; see [`constants::MAX_DECODE_CONCURRENCY`].
    pub decode_concurrency: usize,
    /// Hosts that may be fetched from although their addresses are not public.
    pub allow_hosts: Vec<AllowHost>,
    /// Whether pictures are fetched at all; those in `data:` URIs always are read.
    pub fetch_urls: bool,
}

impl Default for MediaConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            image: DecodeLimits::default(),
            max_request_bytes: constants::MAX_REQUEST_BYTES,
            max_request_pixels: constants::MAX_REQUEST_PIXELS,
            fetch_timeout: constants::FETCH_TIMEOUT,
            max_redirects: constants::MAX_REDIRECTS,
            fetch_concurrency: constants::FETCH_CONCURRENCY,
            fetch_concurrency_per_host: constants::FETCH_CONCURRENCY_PER_HOST,
            fetch_patience: constants::FETCH_PATIENCE,
            decode_concurrency: cores.min(constants::MAX_DECODE_CONCURRENCY),
            allow_hosts: Vec::new(),
            fetch_urls: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_held_against_area_and_side() {
        let limits = DecodeLimits {
            max_bytes: 1,
            max_pixels: 100,
            max_side: 50,
        };
        for (width, height, exceeded) in [
            (10, 10, None),
            (50, 2, None),
            (51, 1, Some(Bound::ImageSide)),
            (1, 51, Some(Bound::ImageSide)),
            (11, 10, Some(Bound::ImagePixels)),
            (u32::MAX, u32::MAX, Some(Bound::ImagePixels)),
        ] {
            let found = match limits.check_size(width, height) {
                Err(MediaError::TooLarge { bound, .. }) => Some(bound),
                _ => None,
            };
            assert_eq!(found, exceeded, "{width}x{height}");
        }
    }
}
