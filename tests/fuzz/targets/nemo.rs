//! Archives of NeMo: tars, compressed or not, with a configuration and pickles in them.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use vlmd_fuzz::{read_all, scratch};
use vlmd_models::nemo::{CONFIG_FILE, NemoArchive};

/// The unit of a tar.
const BLOCK: usize = 512;

thread_local! {
    static FOLDER: tempfile::TempDir = scratch();
}

fuzz_target!(init: vlmd_fuzz::let_panics_be_caught(), |bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    sum(&mut bytes);
    FOLDER.with(|folder| {
        let path = folder.path().join("model.nemo");
        fs::write(&path, &bytes).expect("there is room");
        if let Ok(archive) = NemoArchive::open(&path) {
            let _ = archive.read(CONFIG_FILE);
            if let Ok(weights) = archive.weights() {
                read_all(&weights);
            }
        }
    });
});

/// Makes the sums of a tar's headers right, which no chance would. Members begin on blocks.
fn sum(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = bytes.get_mut(at..at + BLOCK) {
        if header.starts_with(&[0x1f, 0x8b]) || header.iter().all(|byte| *byte == 0) {
            return;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = |byte: &&u8| (b'0'..=b'7').contains(*byte);
        let size = header[124..136].iter().take_while(digits);
        let size = size.fold(0_usize, |all, digit| all * 8 + usize::from(digit - b'0'));
        at += BLOCK + size.min(bytes.len()).next_multiple_of(BLOCK);
    }
}
