use proptest::prelude::*;

use super::proto::{NormalizerSpec, PieceProto, TrainerSpec};
use super::*;
use crate::shield::SENTINEL;
use crate::testing::text;

fn piece(piece: &str, kind: Kind) -> PieceProto {
    PieceProto {
        piece: piece.to_owned(),
        score: -1.0,
        kind: Some(kind.into()),
    }
}

/// `<unk>`, `<s>`, a symbol, some letters; BPE.
fn small() -> ModelProto {
    let mut pieces = vec![
        piece("<unk>", Kind::Unknown),
        piece("<s>", Kind::Control),
        piece("<|end|>", Kind::UserDefined),
    ];
    pieces.extend(
        ["▁", "a", "b", "ab", "<", "|", "e", "n", "d", ">"].map(|text| piece(text, Kind::Normal)),
    );
    ModelProto {
        pieces,
        trainer_spec: Some(TrainerSpec {
            model_type: Some(ModelType::Bpe.into()),
            ..TrainerSpec::default()
        }),
        ..ModelProto::default()
    }
}

fn with_bytes() -> ModelProto {
    let mut model = small();
    model.trainer_spec.get_or_insert_default().byte_fallback = true;
    let bytes = (0..=255u8).map(|byte| piece(&format!("<0x{byte:02X}>"), Kind::Byte));
    model.pieces.extend(bytes);
    model
}

fn load(model: &ModelProto) -> Result<SentencePiece, String> {
    SentencePiece::from_bytes(&model.encode_to_vec()).map_err(|error| error.to_string())
}

/// Asserts that the model is refused with a reason that holds `reason`.
#[track_caller]
fn refused(reason: &str, change: impl FnOnce(&mut ModelProto)) {
    let mut model = small();
    change(&mut model);
    let error = load(&model).expect_err(reason);
    assert!(
        error.starts_with("the tokenizer cannot be loaded: "),
        "{error}"
    );
    assert!(error.contains(reason), "{error}");
}

fn with_charsmap(blob: Vec<u8>) -> ModelProto {
    ModelProto {
        normalizer_spec: Some(NormalizerSpec {
            precompiled_charsmap: blob,
            ..NormalizerSpec::default()
        }),
        ..small()
    }
}

/// A trie of one block for the rule from `byte` to the replacement at `value`.
fn trie(byte: u8, value: u32) -> Vec<u32> {
    // No byte leads to a unit that is a value.
    let mut units = vec![0x8000_0000; 256];
    // The children of the root are 1 away by exclusive or, the value of the key 2 from there.
    let child = 1 ^ usize::from(byte);
    units[0] = 1 << 10;
    units[child] = 2 << 10 | 1 << 8 | u32::from(byte);
    units[child ^ 2] = 0x8000_0000 | value;
    units
}

fn blob(units: &[u32], replacements: &[u8]) -> Vec<u8> {
    let trie: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let size = u32::try_from(trie.len()).expect("a small trie");
    [&size.to_le_bytes(), trie.as_slice(), replacements].concat()
}

#[test]
fn a_sound_model_loads() {
    let model = load(&small()).expect("sound");
    assert_eq!(model.encode("ab<|end|>c<s>"), [3, 6, 2, 0, 7, 0, 12]);
    assert_eq!(model.decode(&[3, 6, 2, 0], true), "ab<|end|> \u{2047} ");
    let model = load(&with_bytes()).expect("sound");
    assert_eq!(model.encode("é"), [3, 13 + 0xc3, 13 + 0xa9]);
    assert_eq!(model.decode(&[3, 13 + 0xc3, 13 + 0xa9], true), "é");
}

#[test]
fn damaged_pieces_are_refused() {
    refused("it has no unknown piece", |model| {
        model.pieces.remove(0);
    });
    refused("piece 13 is a second unknown piece", |model| {
        model.pieces.push(piece("<unknown>", Kind::Unknown));
    });
    refused("piece 13 is a second `ab`", |model| {
        model.pieces.push(piece("ab", Kind::Control));
    });
    refused("piece 3 is empty", |model| model.pieces[3].piece.clear());
    refused("piece 3 holds a NUL", |model| {
        model.pieces[3].piece.push('\0');
    });
    refused("piece 3 has more than 1024 bytes", |model| {
        model.pieces[3].piece = "a".repeat(1025);
    });
    refused("piece 3 is of no known type", |model| {
        model.pieces[3].kind = Some(7);
    });
    for score in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        refused("piece 5 has a score", |model| model.pieces[5].score = score);
    }
    refused("it has no unknown piece", |model| model.pieces.clear());
}

#[test]
fn bytes_must_be_complete_and_announced() {
    refused("piece 13 is a byte, and `byte_fallback` is off", |model| {
        model.pieces.push(piece("<0x41>", Kind::Byte));
    });
    refused("the piece `<0x00>` is missing", |model| {
        model.trainer_spec.get_or_insert_default().byte_fallback = true;
    });
    for text in ["<0xaf>", "<0x1>", "<0x+1>", "<0x001>", "0x41", "<0xÄ>"] {
        refused("piece 13 is a byte, and not spelt like one", |model| {
            *model = ModelProto {
                pieces: model
                    .pieces
                    .drain(..)
                    .chain([piece(text, Kind::Byte)])
                    .collect(),
                ..with_bytes()
            };
        });
    }
    // Some converters write a NUL as well.
    let mut model = with_bytes();
    model.pieces.push(piece("\0", Kind::Normal));
    model.pieces.push(piece("\0", Kind::Normal));
    let model = load(&model).expect("sound");
    assert_eq!(model.encode("\0"), [3, 13]);
}

#[test]
fn models_of_other_kinds_are_refused() {
    for kind in [ModelType::Word, ModelType::Char] {
        refused("words or characters", |model| {
            model.trainer_spec.get_or_insert_default().model_type = Some(kind.into());
        });
    }
    refused("`model_type` is none that is known", |model| {
        model.trainer_spec.get_or_insert_default().model_type = Some(0);
    });
    refused("`denormalizer_spec` is not supported", |model| {
        model.denormalizer_spec = Some(NormalizerSpec {
            precompiled_charsmap: blob(&trie(b'a', 0), b"b\0"),
            ..NormalizerSpec::default()
        });
    });
    refused("it has no piece for any text", |model| {
        model.pieces.truncate(2);
        model.trainer_spec = None;
    });
}

#[test]
fn files_beyond_the_limits_are_refused() {
    refused("it has 1048577 pieces, more than 1048576", |model| {
        model.pieces = vec![PieceProto::default(); (1 << 20) + 1];
    });
    let error = SentencePiece::from_bytes(&vec![0; MAX_FILE + 1]).expect_err("too large");
    assert!(
        error
            .to_string()
            .contains("it has 16777217 bytes, more than 16777216")
    );
}

#[test]
fn files_that_are_no_protocol_buffer_are_refused() {
    let good = small().encode_to_vec();
    for tail in [
        &[0][..],
        &[0xff],
        &[0x0a],
        &[0x0a, 5, 1],
        &[0x0b],
        &[0x08, 1],
    ] {
        let bytes = [good.as_slice(), tail].concat();
        let error = SentencePiece::from_bytes(&bytes)
            .expect_err("garbage")
            .to_string();
        assert!(error.contains("it is not a SentencePiece model"), "{error}");
    }
    // A piece that is not UTF-8.
    let bytes = [good.as_slice(), &[0x0a, 3, 0x0a, 1, 0xff]].concat();
    let error = SentencePiece::from_bytes(&bytes)
        .expect_err("no text")
        .to_string();
    assert!(error.contains("piece"), "{error}");
}

#[test]
fn rules_for_characters_are_checked() {
    let sound = with_charsmap(blob(&trie(b'a', 2), "b\0é\0".as_bytes()));
    let model = load(&sound).expect("sound");
    assert_eq!(model.encode("ab"), [3, 0, 5]);

    let unsound = |reason: &str, blob: Vec<u8>| {
        let error = load(&with_charsmap(blob)).expect_err(reason);
        assert!(error.contains(reason), "{error}");
    };
    unsound("`precompiled_charsmap` is too short", vec![0; 3]);
    unsound("is shorter than its trie", vec![0, 4, 0, 0, 0]);
    unsound("not made of whole blocks", blob(&[], b"b\0"));
    unsound(
        "not made of whole blocks",
        blob(&trie(b'a', 0)[..255], b"b\0"),
    );
    unsound("not UTF-8", blob(&trie(b'a', 0), b"\xff\0"));
    unsound("without an end", blob(&trie(b'a', 0), b"b"));
    unsound("without an end", blob(&trie(b'a', 0), b""));
    let long = ["b".repeat(257).as_bytes(), b"\0"].concat();
    unsound("more than 256 bytes", blob(&trie(b'a', 0), &long));
    let outside = "has a trie that leads out of itself";
    unsound(outside, blob(&trie(b'a', 2), b"b\0"));
    // In the middle of a character.
    unsound(outside, blob(&trie(b'a', 1), "é\0".as_bytes()));
    let mut units = trie(b'a', 0);
    units[7] = 256 << 10;
    unsound(outside, blob(&units, b"b\0"));
    // A value that is none.
    let mut units = trie(b'a', 0);
    units[usize::from(b'a') ^ 3] = 0;
    unsound(outside, blob(&units, b"b\0"));
    for root in [0x8000_0000, 0, 1 << 10 | 1 << 8, 1 << 10 | 1] {
        let mut units = trie(b'a', 0);
        units[0] = root;
        unsound(outside, blob(&units, b"b\0"));
    }
}

#[test]
fn work_grows_with_the_text() {
    let mut model = small();
    let longest: String = "ab".repeat(512);
    for length in (4..=longest.len()).step_by(2) {
        model.pieces.push(piece(&longest[..length], Kind::Normal));
    }
    for model_type in [ModelType::Bpe, ModelType::Unigram] {
        model.trainer_spec.get_or_insert_default().model_type = Some(model_type.into());
        let model = load(&model).expect("sound");
        let ids = model.encode(&"ab".repeat(50_000));
        assert!(ids.len() > 90 && ids.len() < 50_000, "{}", ids.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_load_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = SentencePiece::from_bytes(&bytes);
    }

    #[test]
    fn a_changed_file_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        text in text(),
    ) {
        let mut bytes = with_charsmap(blob(&trie(b'a', 2), "b\0é\0".as_bytes())).encode_to_vec();
        for (place, byte) in changes {
            *place.get_mut(&mut bytes) = byte;
        }
        if let Ok(model) = SentencePiece::from_bytes(&bytes) {
            let ids = model.encode(&text);
            model.decode(&ids, true);
        }
    }

    #[test]
    fn pieces_cover_the_text(text in text()) {
        // Bytes spell everything, and nothing is trimmed.
        let mut model = with_bytes();
        model.normalizer_spec.get_or_insert_default().remove_extra_whitespaces = Some(false);
        for model_type in [ModelType::Bpe, ModelType::Unigram] {
            model.trainer_spec.get_or_insert_default().model_type = Some(model_type.into());
            let model = load(&model).expect("sound");
            prop_assert_eq!(model.decode(&model.encode(&text), true), text.clone());
        }
    }

    #[test]
    fn sentinels_are_no_text(text in text(), places in prop::collection::vec(any::<prop::sample::Index>(), 0..4)) {
        // Nothing is shielded, so nothing changes.
        let model = load(&small()).expect("sound");
        let mut marked: Vec<char> = text.chars().collect();
        for place in places {
            marked.insert(place.index(marked.len() + 1), SENTINEL);
        }
        let marked: String = marked.into_iter().collect();
        prop_assert_eq!(model.encode(&marked), model.encode(&text));
    }
}
