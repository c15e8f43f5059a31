//! Checkpoints that torch wrote (`tests/reference/torch_files.py`), whole and damaged.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

/// What torch wrote, and what it stands for.
fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/torch_files")
}

#[derive(Deserialize)]
struct Case {
    file: String,
    tensors: Option<BTreeMap<String, Stored>>,
    refused: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Stored {
    dtype: String,
    shape: Vec<usize>,
    /// In hexadecimal.
    bytes: String,
}

fn cases() -> Vec<Case> {
    let manifest = std::fs::read(goldens().join("manifest.json")).unwrap();
    serde_json::from_slice(&manifest).unwrap()
}

fn read(file: &str) -> Vec<u8> {
    std::fs::read(goldens().join(file)).unwrap()
}

fn stored(bytes: &[u8], tensors: Vec<RawTensor>) -> BTreeMap<String, Stored> {
    let one = |tensor: RawTensor| {
        let mut hex = String::new();
        for byte in &bytes[tensor.range] {
            write!(hex, "{byte:02x}").unwrap();
        }
        let stored = Stored {
            dtype: tensor.dtype.to_string(),
            shape: tensor.shape,
            bytes: hex,
        };
        (tensor.name, stored)
    };
    tensors.into_iter().map(one).collect()
}

#[test]
fn every_checkpoint_holds_what_torch_put_into_it() {
    let mut read_files = 0;
    for case in cases() {
        let Some(expected) = case.tensors else {
            continue;
        };
        let bytes = read(&case.file);
        let tensors = tensors(&case.file, &bytes, 0..bytes.len());
        let found = stored(&bytes, tensors.unwrap_or_else(|error| panic!("{error}")));
        assert_eq!(found, expected, "{}", case.file);
        read_files += 1;
    }
    assert_eq!(read_files, 12);
}

#[test]
fn what_is_not_read_is_refused_with_file_and_reason() {
    let mut refused_files = 0;
    for case in cases() {
        let Some(words) = case.refused else {
            continue;
        };
        let bytes = read(&case.file);
        let error = tensors(&case.file, &bytes, 0..bytes.len()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(&case.file), "{}: {message}", case.file);
        assert!(message.contains(&words), "{}: {message}", case.file);
        assert!(!message.contains('\n'), "{}: {message}", case.file);
        refused_files += 1;
    }
    assert_eq!(refused_files, 11);
}

#[test]
fn a_checkpoint_is_read_where_it_lies() {
    let whole = read("types.pt");
    let bytes = [&[7; 1001][..], &whole, &[9; 500]].concat();
    let inside = tensors("file", &bytes, 1001..1001 + whole.len()).unwrap();
    let alone = tensors("file", &whole, 0..whole.len()).unwrap();
    assert_eq!(stored(&bytes, inside), stored(&whole, alone));
    tensors("file", &whole, 0..whole.len() + 1).unwrap_err();
}

#[test]
fn a_checkpoint_cut_anywhere_is_refused() {
    let whole = read("types.pt");
    for len in 0..whole.len() {
        tensors("file", &whole[..len], 0..len).unwrap_err();
    }
}

/// The `.metadata` of a distributed checkpoint.
fn metadata() -> Vec<u8> {
    let path = goldens().join("../nemo_distributed/torch_dist.nemo");
    let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().ends_with(".metadata") {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            return bytes;
        }
    }
    panic!("no metadata");
}

#[test]
fn metadata_cut_anywhere_is_refused() {
    let whole = metadata();
    assert_eq!(distributed::saved_tensors("file", &whole).unwrap().len(), 5);
    for len in 0..whole.len() {
        distributed::saved_tensors("file", &whole[..len]).unwrap_err();
    }
}

proptest! {
    #[test]
    fn damage_to_metadata_ends_in_a_refusal_or_in_as_many_tensors(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = metadata();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(tensors) = distributed::saved_tensors("file", &bytes) {
            prop_assert!(tensors.len() <= 5);
        }
    }

    #[test]
    fn damage_ends_in_a_refusal_or_in_tensors_within_the_file(
        file in prop::sample::select(vec!["types.pt", "views.pt", "lightning.pt", "zip64.pt"]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = read(file);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(tensors) = tensors(file, &bytes, 0..bytes.len()) {
            for tensor in tensors {
                let bits = tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize();
                prop_assert!(tensor.range.end <= bytes.len());
                prop_assert_eq!(tensor.range.len() * 8, bits);
            }
        }
    }
}
