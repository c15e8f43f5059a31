//! How much may be uploaded, and for how long.

use std::time::Duration;

/// Bounds on uploaded assets, whose bytes are kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssetLimits {
    /// Bytes of all assets (`--asset-bytes`); 0 takes none.
    pub bytes: usize,
    /// Bytes of the assets of one API key (`--asset-owner-bytes`). Where the server has no keys,
    /// all clients are one.
    pub owner_bytes: usize,
    /// Number of assets (`--asset-count`), those whose bytes have not come included.
    pub count: usize,
    /// Number of assets of one API key (`--asset-owner-count`).
    pub owner_count: usize,
    /// Bytes of one asset: what the media gate takes of a picture (`--max-image-bytes`).
    pub file_bytes: usize,
    /// Life of an asset from its creation on (`--asset-ttl`).
    pub ttl: Duration,
}

impl AssetLimits {
    /// Enough for some hundred photographs.
    pub const DEFAULT_BYTES: usize = 256 << 20;
    /// Half of all, so that no one takes everything.
    pub const DEFAULT_OWNER_BYTES: usize = 128 << 20;
    /// Of a few hundred bytes each beside their own.
    pub const DEFAULT_COUNT: usize = 4096;
    /// A quarter of all.
    pub const DEFAULT_OWNER_COUNT: usize = 1024;
    /// Clients upload, ask and delete; what is left an hour later was forgotten.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);
}

impl Default for AssetLimits {
    fn default() -> Self {
        Self {
            bytes: Self::DEFAULT_BYTES,
            owner_bytes: Self::DEFAULT_OWNER_BYTES,
            count: Self::DEFAULT_COUNT,
            owner_count: Self::DEFAULT_OWNER_COUNT,
            // The gate's own default.
            file_bytes: vlmd_media::constants::MAX_IMAGE_BYTES as usize,
            ttl: Self::DEFAULT_TTL,
        }
    }
}
