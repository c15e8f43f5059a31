//! Whole checkpoints with one file that is not what it was: loaded, or refused with the reason.

#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use vlmd_backend::KvDtype;
use vlmd_fuzz::{choice, copy_files, golden, scratch};
use vlmd_models::{LoadOptions, ModelFiles, Need, load};

/// Those in the layout of Hugging Face.
const CHECKPOINTS: [&str; 5] = ["phi3_v", "llava", "llava_next", "mllama", "kosmos2"];

/// What is exchanged. Tokenizers and weights have targets of their own.
const FILES: [&str; 7] = [
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.json",
];

/// More than any of these needs: a device has an end.
const MOST_BYTES: u64 = 1 << 28;

thread_local! {
    static FOLDERS: Vec<tempfile::TempDir> = CHECKPOINTS.map(copy).into();
}

fuzz_target!(init: vlmd_fuzz::let_panics_be_caught(), |data: &[u8]| {
    let Some((checkpoint, data)) = choice(data, CHECKPOINTS.len()) else {
        return;
    };
    let Some((file, content)) = choice(data, FILES.len()) else {
        return;
    };
    FOLDERS.with(|folders| exchange(folders[checkpoint].path(), FILES[file], content));
});

fn copy(name: &str) -> tempfile::TempDir {
    let folder = scratch();
    copy_files(&golden(name), folder.path(), |file| {
        !file.starts_with("golden.")
    });
    folder
}

fn exchange(folder: &Path, file: &str, content: &[u8]) {
    let path = folder.join(file);
    let before = fs::read(&path).ok();
    fs::write(&path, content).expect("there is room");
    let options = LoadOptions {
        admit: Some(Box::new(|need: &Need| {
            let block = need.spec.block_bytes(KvDtype::F32) as u64;
            let fits = need.weight_bytes.max(block) <= MOST_BYTES;
            fits.then_some(()).ok_or_else(|| "too large".to_owned())
        })),
        ..LoadOptions::default()
    };
    let loaded = load(&ModelFiles::Directory(folder.to_owned()), &options);
    match before {
        Some(before) => fs::write(&path, before),
        None => fs::remove_file(&path),
    }
    .expect("it was written before");
    if let Err(error) = loaded {
        assert!(!error.to_string().is_empty());
    }
}
