//! What can go wrong between a URL and a picture.

use std::fmt;

/// Why a picture could not be had.
///
/// The texts are meant for the client: they never hold an address that the client did not send,
/// nor the words of a decoder or of the network stack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// The URL is malformed or of a kind that is not supported.
    #[error("the image URL is not usable: {0}")]
    InvalidUrl(String),

    /// The URL, or one that it redirects to, names a host outside the public Internet.
    #[error(
        "the image host `{host}` is not a public address; the operator of this server can permit \
         it with `--allow-media-host`"
    )]
    ForbiddenAddress {
        /// As the URL spells it.
        host: String,
    },

    /// The URL was tried and gave nothing.
    #[error("the image could not be fetched: {0}")]
    FetchFailed(FetchFailure),

    /// Others wait to be fetched, and for too long.
    #[error(
        "too many images are being fetched at the moment (`--media-fetch-concurrency`, \
         `--media-fetch-concurrency-per-host`)"
    )]
    Busy,

    /// A limit on size is exceeded.
    #[error(
        "{} may have at most {limit} {} (`{}`), {} {given}",
        bound.subject(), bound.unit(), bound.flag(), bound.verb()
    )]
    TooLarge {
        /// Which limit.
        bound: Bound,
        /// What was sent. For bytes of a body whose end was not awaited, what had arrived.
        given: u64,
        /// The most that is allowed.
        limit: u64,
    },

    /// The bytes are of none of the formats that are decoded here.
    #[error("the data is not a PNG, JPEG, WebP, GIF or BMP image")]
    UnsupportedFormat,

    /// The bytes begin like a picture and are none.
    #[error("the {format} image is invalid: {reason}")]
    InvalidImage {
        /// `PNG`, `JPEG`, ...
        format: &'static str,
        /// In our words.
        reason: &'static str,
    },

    /// There are no bytes at all.
    #[error("the image is empty")]
    EmptyImage,

    /// The server's own fault: a TLS stack without roots, an executor that shuts down.
    #[error("the image could not be processed because of an internal error")]
    Internal,
}

impl MediaError {
    /// The class of the error, for choosing a status and a code.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidUrl(_) => ErrorKind::InvalidUrl,
            Self::ForbiddenAddress { .. } => ErrorKind::ForbiddenAddress,
            Self::FetchFailed(_) => ErrorKind::FetchFailed,
            Self::Busy => ErrorKind::Busy,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::UnsupportedFormat => ErrorKind::UnsupportedFormat,
            Self::InvalidImage { .. } | Self::EmptyImage => ErrorKind::InvalidImage,
            Self::Internal => ErrorKind::Internal,
        }
    }
}

/// The class of a [`MediaError`]. All but [`Busy`](Self::Busy), which passes, and
/// [`Internal`](Self::Internal) are the client's to mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// See [`MediaError::InvalidUrl`].
    InvalidUrl,
    /// See [`MediaError::ForbiddenAddress`].
    ForbiddenAddress,
    /// See [`MediaError::FetchFailed`].
    FetchFailed,
    /// See [`MediaError::Busy`].
    Busy,
    /// See [`MediaError::TooLarge`].
    TooLarge,
    /// See [`MediaError::UnsupportedFormat`].
    UnsupportedFormat,
    /// See [`MediaError::InvalidImage`] and [`MediaError::EmptyImage`].
    InvalidImage,
    /// See [`MediaError::Internal`].
    Internal,
}

/// How a fetch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchFailure {
    /// The name has no address.
    #[error("its host name does not resolve")]
    Resolve,
    /// No connection, or no TLS session that the roots vouch for.
    #[error("its host does not accept the connection")]
    Connect,
    /// Neither a success nor a redirect that can be followed.
    #[error("its host answered with status {0}")]
    Status(u16),
    /// The deadline for resolving, connecting, redirects and body together has passed.
    #[error("it did not arrive within {0} ms (`--media-fetch-timeout`)")]
    Timeout(u64),
    /// More hops than allowed.
    #[error("it redirects more than {0} times")]
    TooManyRedirects(u32),
    /// A hop from `https` to `http`.
    #[error("it redirects from https to http")]
    Downgrade,
    /// The connection broke, or its other end does not speak HTTP.
    #[error("the transfer broke off")]
    Transfer,
}

/// A limit on size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Bound {
    /// Encoded bytes of one picture.
    ImageBytes,
    /// Width times height of one picture.
    ImagePixels,
    /// The longer side of one picture.
    ImageSide,
    /// Encoded bytes of all pictures of a request.
    RequestBytes,
    /// Width times height, summed over the pictures of a request.
    RequestPixels,
}

impl Bound {
    /// The command-line flag that moves the limit.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Self::ImageBytes => "--max-image-bytes",
            Self::ImagePixels => "--max-image-pixels",
            Self::ImageSide => "--max-image-side",
            Self::RequestBytes => "--max-request-image-bytes",
            Self::RequestPixels => "--max-request-image-pixels",
        }
    }

    fn subject(self) -> &'static str {
        match self {
            Self::ImageBytes | Self::ImagePixels => "an image",
            Self::ImageSide => "a side of an image",
            Self::RequestBytes | Self::RequestPixels => "the images of a request",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::ImageBytes | Self::RequestBytes => "bytes",
            Self::ImagePixels | Self::ImageSide | Self::RequestPixels => "pixels",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::ImagePixels | Self::ImageSide => "this one has",
            Self::ImageBytes => "this one has at least",
            Self::RequestBytes | Self::RequestPixels => "these have at least",
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.flag())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_told_with_its_value_and_its_flag() {
        let error = MediaError::TooLarge {
            bound: Bound::ImagePixels,
            given: 50,
            limit: 40,
        };
        assert_eq!(
            error.to_string(),
            "an image may have at most 40 pixels (`--max-image-pixels`), this one has 50"
        );
        let error = MediaError::TooLarge {
            bound: Bound::RequestBytes,
            given: 9,
            limit: 8,
        };
        assert_eq!(
            error.to_string(),
            "the images of a request may have at most 8 bytes (`--max-request-image-bytes`), \
             these have at least 9"
        );
    }
}
