//! `data:` URIs: what is counted against the limits is never less than what is decoded.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|url: &str| {
    if let Some(Ok((counted, bytes))) = vlmd_media::fuzzing::data_uri(url) {
        assert!(counted >= bytes.len() as u64, "{counted} < {}", bytes.len());
    }
});
