//! Files of pictures: decoded within the limits, or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vlmd_media::{DecodeLimits, decode};

/// Small, so that the time goes into variety.
const LIMITS: DecodeLimits = DecodeLimits {
    max_bytes: 1 << 20,
    max_pixels: 1 << 18,
    max_side: 1 << 12,
};

fuzz_target!(init: vlmd_fuzz::let_panics_be_caught(), |bytes: &[u8]| {
    if let Ok(picture) = decode(bytes, &LIMITS) {
        let (width, height) = (u64::from(picture.width()), u64::from(picture.height()));
        // Turned pictures are as large as they lay.
        assert!(width * height <= LIMITS.max_pixels);
        assert!(width.max(height) <= u64::from(LIMITS.max_side));
        assert_eq!(picture.rgb().len() as u64, width * height * 3);
    }
});
