//! What PyTorch pickled: read without being executed, whatever it asks for.

#![no_main]

use std::fs;
use std::io::{Cursor, Write as _};

use libfuzzer_sys::fuzz_target;
use vlmd_fuzz::{read_all, scratch};
use vlmd_models::{ModelFiles, TORCH_WEIGHTS_FILE};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

thread_local! {
    static FOLDER: tempfile::TempDir = scratch();
}

fuzz_target!(|pickle: &[u8]| {
    FOLDER.with(|folder| {
        let path = folder.path().join(TORCH_WEIGHTS_FILE);
        fs::write(&path, archive(pickle)).expect("there is room");
        let files = ModelFiles::Directory(folder.path().to_owned());
        if let Ok(weights) = files.weights() {
            read_all(&weights);
        }
    });
});

/// The zip around it, with a few storages of zeros.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let zeros: &[u8] = &[0; 256];
    let mut add = |name: &str, bytes: &[u8]| {
        zip.start_file(name, stored).expect("the name is new");
        zip.write_all(bytes).expect("memory takes it");
    };
    add("archive/data.pkl", pickle);
    add("archive/byteorder", b"little");
    for storage in 0..4 {
        add(&format!("archive/data/{storage}"), zeros);
    }
    zip.finish().expect("memory takes it").into_inner()
}
