//! Decoding against what Pillow makes of the same files (`tests/reference/decode.py`), and of
//! files that are broken on purpose (`tests/reference/broken.py`).

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::path::PathBuf;

use serde_json::Value;
use vlmd_media::{DecodeLimits, ErrorKind, MediaError, Picture, decode};

fn golden(folder: &str) -> PathBuf {
    let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
    PathBuf::from(goldens).join(folder)
}

/// The entries of a folder's manifest, each with the bytes of its file.
fn files(folder: &str) -> Vec<(Value, Vec<u8>)> {
    let manifest = std::fs::read(golden(folder).join("manifest.json")).unwrap();
    let entries: Vec<Value> = serde_json::from_slice(&manifest).unwrap();
    assert!(entries.len() > 20, "{} entries", entries.len());
    let read = |entry: Value| {
        let file = entry["file"].as_str().unwrap();
        let bytes = std::fs::read(golden(folder).join(file)).unwrap();
        (entry, bytes)
    };
    entries.into_iter().map(read).collect()
}

/// Greatest and mean difference between two pictures of the same size.
fn difference(a: &Picture, b: &image::RgbImage) -> (u8, f64) {
    assert_eq!((a.width(), a.height()), b.dimensions());
    let differences = a.rgb().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b));
    let greatest = differences.clone().max().unwrap_or_default();
    let sum: f64 = differences.map(f64::from).sum();
    (greatest, sum / a.rgb().len() as f64)
}

/// Lossless formats are equal to the last bit. JPEG and VP8 leave the inverse transform and the
/// upsampling of colour to the decoder, and the manifest says how far decoders lie apart.
#[test]
fn pictures_decode_as_pillow_decodes_them() {
    let mut wrong = Vec::new();
    for (entry, bytes) in files("decode") {
        let expected = entry["expected"].as_str().unwrap();
        let expected = image::open(golden("decode").join(expected))
            .unwrap()
            .into_rgb8();
        let found = match decode(&bytes, &DecodeLimits::default()) {
            Ok(found) => found,
            Err(error) => {
                wrong.push(format!("{}: {error}", entry["file"]));
                continue;
            }
        };
        let (greatest, mean) = difference(&found, &expected);
        let (allowed, allowed_mean) = (&entry["tolerance"], &entry["mean_tolerance"]);
        if u64::from(greatest) > allowed.as_u64().unwrap() || mean > allowed_mean.as_f64().unwrap()
        {
            wrong.push(format!(
                "{}: off by {greatest}, {mean:.2} on average",
                entry["file"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn outcome(result: &Result<Picture, MediaError>) -> &'static str {
    match result.as_ref().map_err(MediaError::kind) {
        Ok(_) => "ok",
        Err(ErrorKind::TooLarge) => "too_large",
        Err(ErrorKind::InvalidImage) => "bad_image",
        Err(ErrorKind::UnsupportedFormat) => "unsupported",
        Err(_) => "another error",
    }
}

#[test]
fn broken_files_are_refused_for_the_right_reason() {
    let mut wrong = Vec::new();
    for (entry, bytes) in files("broken") {
        let result = decode(&bytes, &DecodeLimits::default());
        let outcome = outcome(&result);
        if !entry["outcomes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|allowed| allowed == outcome)
        {
            wrong.push(format!("{}: {outcome} ({:?})", entry["file"], result.err()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_file_cut_anywhere_never_panics() {
    for (entry, bytes) in files("decode") {
        let step = (bytes.len() / 40).max(1);
        for end in (0..bytes.len()).step_by(step) {
            if let Err(error) = decode(&bytes[..end], &DecodeLimits::default()) {
                assert_ne!(error.kind(), ErrorKind::Internal, "{} {end}", entry["file"]);
            }
        }
    }
}

#[test]
fn a_file_with_a_damaged_byte_never_panics() {
    for (entry, mut bytes) in files("decode") {
        let step = (bytes.len() / 60).max(1);
        for at in (0..bytes.len()).step_by(step) {
            bytes[at] ^= 0x55;
            if let Err(error) = decode(&bytes, &DecodeLimits::default()) {
                assert_ne!(error.kind(), ErrorKind::Internal, "{} {at}", entry["file"]);
            }
            bytes[at] ^= 0x55;
        }
    }
}

#[test]
fn the_pixel_limit_holds_for_every_format() {
    let limits = DecodeLimits {
        max_pixels: 15,
        ..DecodeLimits::default()
    };
    let limited = [
        "rgb.png",
        "baseline.jpg",
        "lossless.webp",
        "static.gif",
        "24_bit.bmp",
    ];
    for (entry, bytes) in files("decode") {
        if limited.contains(&entry["file"].as_str().unwrap()) {
            let error = decode(&bytes, &limits).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("at most 15 pixels (`--max-image-pixels`)"),
                "{}: {error}",
                entry["file"]
            );
        }
    }
}
