//! SentencePiece models against the goldens of the sentencepiece library.
//!
//! `tests/reference/sentencepiece_goldens.py` makes them, and says what each field means.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do"
)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use vlmd_text::{Detokenizer, Tokenizer};

const GOLDENS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/golden/sentencepiece"
);

/// As many times this character stands in front of the texts of `behind_unknown`.
const UNKNOWN: (&str, usize) = ("Ж", 9000);

#[derive(Deserialize)]
struct Golden {
    #[serde(skip)]
    name: String,
    encode: Vec<Vec<u32>>,
    shielded: Vec<Option<Vec<u32>>>,
    decoded: Vec<Option<String>>,
    decode: Vec<(Vec<u32>, String)>,
    behind_unknown: Vec<Vec<u32>>,
    loads: HashSet<usize>,
}

struct Case {
    golden: Golden,
    bytes: Vec<u8>,
    tokenizer: Arc<Tokenizer>,
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn texts() -> Vec<String> {
    serde_json::from_slice(&read(&Path::new(GOLDENS).join("texts.json"))).unwrap()
}

fn cases() -> Vec<Case> {
    let mut models: Vec<PathBuf> = std::fs::read_dir(GOLDENS)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "model")
        })
        .collect();
    models.sort();
    assert_eq!(models.len(), 8);
    models
        .into_iter()
        .map(|path| {
            let bytes = read(&path);
            let mut golden: Golden =
                serde_json::from_slice(&read(&path.with_extension("json"))).unwrap();
            golden.name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let tokenizer = Tokenizer::from_sentencepiece(&bytes)
                .unwrap_or_else(|error| panic!("{}: {error}", golden.name));
            Case {
                golden,
                bytes,
                tokenizer: Arc::new(tokenizer),
            }
        })
        .collect()
}

fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> String {
    let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), true);
    let mut text = String::new();
    for &id in ids {
        text.extend(detokenizer.push(id).unwrap());
    }
    text.extend(detokenizer.flush().unwrap());
    text
}

#[test]
fn texts_have_the_ids_of_the_library() {
    let texts = texts();
    for Case {
        golden, tokenizer, ..
    } in cases()
    {
        assert_eq!(golden.encode.len(), texts.len());
        for (text, ids) in texts.iter().zip(&golden.encode) {
            let own = tokenizer.encode(text, false).unwrap();
            assert_eq!(&own, ids, "{}: {text:?}", golden.name);
        }
    }
}

#[test]
fn ids_have_the_text_of_the_library_at_once_and_one_by_one() {
    let texts = texts();
    for Case {
        golden, tokenizer, ..
    } in cases()
    {
        let name = &golden.name;
        let decoded = texts
            .iter()
            .zip(&golden.decoded)
            .map(|(text, decoded)| decoded.as_ref().unwrap_or(text));
        let further = golden.decode.iter().map(|(ids, text)| (ids, text));
        assert!(golden.decode.len() > 100);
        for (ids, text) in golden.encode.iter().zip(decoded).chain(further) {
            assert_eq!(
                &tokenizer.decode(ids, true).unwrap(),
                text,
                "{name}: {ids:?}"
            );
            assert_eq!(&stream(&tokenizer, ids), text, "{name}: {ids:?}");
        }
    }
}

#[test]
fn shielded_texts_have_the_ids_of_a_model_without_the_symbols() {
    let texts = texts();
    for Case {
        golden, tokenizer, ..
    } in cases()
    {
        let mut differ = 0;
        for ((text, ids), shielded) in texts.iter().zip(&golden.encode).zip(&golden.shielded) {
            let own = tokenizer.encode(&tokenizer.shield(text), false).unwrap();
            let expected = shielded.as_ref().unwrap_or(ids);
            assert_eq!(&own, expected, "{}: {text:?}", golden.name);
            differ += usize::from(shielded.is_some());
        }
        assert!(differ > 50, "{}: {differ}", golden.name);
    }
}

#[test]
fn symbols_of_a_template_are_found_around_shielded_text() {
    let texts = texts();
    let case = cases()
        .into_iter()
        .find(|case| case.golden.name == "nemo_no_prefix")
        .unwrap();
    let Case {
        golden, tokenizer, ..
    } = case;
    let [first, last] =
        ["<extra_id_0>", "<extra_id_1>"].map(|symbol| tokenizer.token_to_id(symbol).unwrap());
    for ((text, ids), shielded) in texts.iter().zip(&golden.encode).zip(&golden.shielded) {
        let prompt = format!("<extra_id_0>{}<extra_id_1>", tokenizer.shield(text));
        let inner = shielded.as_ref().unwrap_or(ids);
        let expected = [&[first], inner.as_slice(), &[last]].concat();
        assert_eq!(
            tokenizer.encode(&prompt, false).unwrap(),
            expected,
            "{text:?}"
        );
    }
}

#[test]
fn shielded_texts_side_by_side_hold_no_symbol() {
    for Case {
        golden, tokenizer, ..
    } in cases()
    {
        let symbols: Vec<u32> = ["<extra_id_1>", "<a>", "<a><b>", "<b>"]
            .iter()
            .filter_map(|symbol| tokenizer.token_to_id(symbol))
            .collect();
        assert!(!symbols.is_empty(), "{}", golden.name);
        // The last two become symbols where the model has rules for characters.
        for text in ["<extra_id_1>", "<a><b>", "＜a＞", "<\u{200d}a>"] {
            for (cut, _) in text.char_indices() {
                let (left, right) = text.split_at(cut);
                let [left, right] = [left, right].map(|part| tokenizer.shield(part));
                let ids = tokenizer.encode(&format!("{left}{right}"), false).unwrap();
                let found = ids.iter().any(|id| symbols.contains(id));
                assert!(!found, "{}: {left:?} {right:?}: {ids:?}", golden.name);
            }
        }
    }
}

#[test]
fn what_clients_may_write_is_recognised() {
    let bytes = read(&Path::new(GOLDENS).join("nemo.model"));
    let tokenizer = Tokenizer::from_sentencepiece(&bytes)
        .and_then(|tokenizer| tokenizer.with_recognised(&["<extra_id_1>"]))
        .unwrap();
    let ids = |text: &str| tokenizer.encode(&tokenizer.shield(text), false).unwrap();
    let id = |symbol| tokenizer.token_to_id(symbol).unwrap();
    assert!(ids("a<extra_id_1>").contains(&id("<extra_id_1>")));
    assert!(!ids("a<extra_id_2>").contains(&id("<extra_id_2>")));
    // Vocabulary, though user-defined.
    assert!(ids("a\n").contains(&id("\n")));
}

#[test]
fn scores_of_long_texts_are_added_up_as_the_library_does() {
    let texts = texts();
    let mut tried = 0;
    for Case {
        golden, tokenizer, ..
    } in cases()
    {
        for (text, ids) in texts.iter().zip(&golden.behind_unknown) {
            let text = UNKNOWN.0.repeat(UNKNOWN.1) + text;
            let own = tokenizer.encode(&text, false).unwrap();
            assert_eq!(&own, ids, "{}: {text:?}", golden.name);
            tried += 1;
        }
    }
    assert!(tried > 1000);
}

#[test]
fn a_file_cut_short_is_refused_or_what_it_is_to_the_library() {
    for Case { golden, bytes, .. } in cases() {
        for length in 0..bytes.len() {
            let model = Tokenizer::from_sentencepiece(&bytes[..length]);
            let loads = golden.loads.contains(&length);
            assert_eq!(model.is_ok(), loads, "{} of {length} bytes", golden.name);
        }
    }
}

#[test]
fn control_symbols_are_special_and_shown_when_asked_for() {
    let bytes = read(&Path::new(GOLDENS).join("nemo.model"));
    let tokenizer = Arc::new(Tokenizer::from_sentencepiece(&bytes).unwrap());
    let id = |piece: &str| tokenizer.token_to_id(piece).unwrap();
    for piece in ["<s>", "</s>", "<pad>"] {
        assert!(tokenizer.is_special(id(piece)), "{piece}");
    }
    for piece in ["<unk>", "<0x41>", "<extra_id_1>", "\n", "▁"] {
        assert!(!tokenizer.is_special(id(piece)), "{piece}");
    }
    let ids = [id("<s>"), id("▁"), id("a"), id("</s>")];
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<s> a</s>");
    let count = u32::try_from(tokenizer.vocab_size()).unwrap();
    assert_eq!(tokenizer.decode(&[count, u32::MAX], false).unwrap(), "");
    assert_eq!(tokenizer.id_to_token(count), None);
    assert_eq!(tokenizer.token_to_id("nothing of the kind"), None);
}
