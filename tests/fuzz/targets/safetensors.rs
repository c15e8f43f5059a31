//! Weights in safetensors: headers that lie about what follows.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use vlmd_fuzz::{read_all, scratch};
use vlmd_kernels::weights::Weights;

thread_local! {
    static FOLDER: tempfile::TempDir = scratch();
}

fuzz_target!(|bytes: &[u8]| {
    FOLDER.with(|folder| {
        let path = folder.path().join("model.safetensors");
        fs::write(&path, bytes).expect("there is room");
        if let Ok(weights) = Weights::open(&[path]) {
            assert!(weights.total_bytes() <= bytes.len());
            read_all(&weights);
        }
    });
});
