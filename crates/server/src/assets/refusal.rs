//! Why an asset is not made, taken or found.

use std::time::Duration;

use axum::http::StatusCode;
use vlmd_api::ErrorType;

/// A picture's types that assets may have. The content decides what a file is; the type is what
/// clients are told at once.
pub(super) const TYPES: [&str; 6] = [
    "image/png",
    "image/jpeg",
    "image/jpg",
    "image/webp",
    "image/gif",
    "image/bmp",
];

/// Why an asset is not made, taken or found. The texts go to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AssetRefusal {
    /// Named by a request that needs it. Those of other keys are as unknown as none.
    #[error(
        "`{field}`: there is no asset {id} of this API key: it was never uploaded with it, was \
         deleted, or has expired (`--asset-ttl`); send the picture itself, or upload it anew"
    )]
    Unknown { field: String, id: String },
    #[error("`{field}`: the bytes of asset {id} have not been uploaded: PUT them to its uploadUrl")]
    Empty { field: String, id: String },
    /// Named by the path.
    #[error("there is no asset {0} of this API key; it may have expired (`--asset-ttl`)")]
    NotFound(String),
    #[error(
        "this is no place to upload to: the asset is gone, or the address is not the uploadUrl \
         that its creation gave"
    )]
    NoUpload,
    #[error("`contentType` must be one of {}, got {given}", TYPES.join(", "))]
    Type { given: String },
    #[error("`Content-Type` must be {declared}, as the asset was made with, got {given}")]
    OtherType { declared: String, given: String },
    #[error(
        "`x-amz-meta-nvcf-asset-description` must be the description that the asset was made with, \
         or be left out"
    )]
    OtherDescription,
    #[error("an asset must have at least 1 byte, got none")]
    NoBytes,
    #[error("an asset may have at most {limit} bytes (`--max-image-bytes`), this one {given}")]
    TooLarge { limit: usize, given: String },
    #[error("{quota} would be exceeded: delete some, or wait until they expire (`--asset-ttl`)")]
    Quota {
        quota: Quota,
        /// Until the next asset expires that counts.
        retry_after: Option<Duration>,
    },
    #[error("this server takes no assets (`--asset-bytes` is 0): send pictures as `data:` URIs")]
    Disabled,
    #[error("`Host` must be the address of this server, for the uploadUrl is made of it, got {0}")]
    Host(String),
}

/// A bound on all assets, or on those of one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Quota {
    #[error("{0} bytes of all assets (`--asset-bytes`)")]
    Bytes(usize),
    #[error("{0} bytes of the assets of this API key (`--asset-owner-bytes`)")]
    OwnerBytes(usize),
    #[error("{0} assets in all (`--asset-count`)")]
    Count(usize),
    #[error("{0} assets of this API key (`--asset-owner-count`)")]
    OwnerCount(usize),
}

impl AssetRefusal {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Unknown { .. }
            | Self::Empty { .. }
            | Self::OtherDescription
            | Self::NoBytes
            | Self::Host(_) => StatusCode::BAD_REQUEST,
            Self::NotFound(_) | Self::NoUpload | Self::Disabled => StatusCode::NOT_FOUND,
            Self::Type { .. } | Self::OtherType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Quota { .. } => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    pub(crate) fn kind(&self) -> ErrorType {
        match self {
            Self::NotFound(_) | Self::NoUpload | Self::Disabled => ErrorType::NotFoundError,
            Self::Quota { .. } => ErrorType::ServiceUnavailableError,
            _ => ErrorType::InvalidRequestError,
        }
    }

    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } | Self::NotFound(_) => "unknown_asset",
            Self::Empty { .. } => "asset_not_uploaded",
            Self::NoUpload => "unknown_upload",
            Self::Type { .. } | Self::OtherType { .. } => "unsupported_content_type",
            Self::OtherDescription | Self::Host(_) => "invalid_value",
            Self::NoBytes => "empty_asset",
            Self::TooLarge { .. } => "asset_too_large",
            Self::Quota { .. } => "asset_quota_exceeded",
            Self::Disabled => "assets_disabled",
        }
    }

    pub(crate) fn param(&self) -> Option<String> {
        match self {
            Self::Unknown { field, .. } | Self::Empty { field, .. } => Some(field.clone()),
            Self::Type { .. } => Some("contentType".to_owned()),
            _ => None,
        }
    }

    /// Seconds after which the same request may do better, at least 1.
    pub(crate) fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Quota { retry_after, .. } => {
                let seconds = retry_after.as_ref()?.as_secs().saturating_add(1);
                Some(u32::try_from(seconds).unwrap_or(u32::MAX))
            }
            _ => None,
        }
    }
}
