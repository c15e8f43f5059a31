use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::shield::SENTINEL;
use crate::testing::{BYTE_LEVEL, Kit, SENTENCE_PIECE, UNIGRAM, WORD_PIECE, kits, text};

fn control_tokens_in(kit: &Kit, ids: &[u32]) -> Vec<u32> {
    ids.iter()
        .copied()
        .filter(|id| kit.control.contains(id))
        .collect()
}

fn library_ids(library: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
    let encoding = library.encode(text, false).expect("encodable");
    encoding.get_ids().to_vec()
}

/// Ids of added tokens differ between tokenizers, their spelling does not.
fn spellings(tokenizer: &tokenizers::Tokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter()
        .map(|&id| tokenizer.id_to_token(id).expect("a token"))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn own_stages_equal_the_library(text in text()) {
        for kit in kits() {
            let Engine::Library(own) = &kit.tokenizer.engine else {
                panic!("{} is no tokenizer.json", kit.name);
            };
            let own = own.encode_shielded(&text).expect("encodable");
            let library = library_ids(&kit.library, &text);
            prop_assert_eq!(own.get_ids(), library, "{}", kit.name);
        }
    }

    #[test]
    fn shielded_text_holds_no_control_token(text in text()) {
        for kit in kits() {
            let tokenizer = &kit.tokenizer;
            let shielded = tokenizer.shield(&text);
            let ids = tokenizer.encode(&shielded, false).expect("encodable");
            prop_assert_eq!(control_tokens_in(kit, &ids), Vec::<u32>::new(), "{}", kit.name);
        }
    }

    #[test]
    fn shielded_text_is_tokenised_as_if_control_tokens_did_not_exist(text in text()) {
        // Unigram would find them in its own vocabulary, see `tokenize_plain`.
        for kit in [&*SENTENCE_PIECE, &*BYTE_LEVEL, &*WORD_PIECE] {
            let tokenizer = &kit.tokenizer;
            let shielded = tokenizer.shield(&text);
            let ids = tokenizer.encode(&shielded, false).expect("encodable");
            let library = &kit.without_control_tokens;
            let plain = library_ids(library, &text);
            prop_assert_eq!(
                spellings(&kit.library, &ids),
                spellings(library, &plain),
                "{}",
                kit.name
            );
        }
    }

    #[test]
    fn shielded_texts_side_by_side_form_no_control_token(parts in prop::collection::vec(text(), 2..4)) {
        for kit in kits() {
            let tokenizer = &kit.tokenizer;
            let joined: String = parts.iter().map(|part| tokenizer.shield(part)).collect();
            let ids = tokenizer.encode(&joined, false).expect("encodable");
            prop_assert_eq!(control_tokens_in(kit, &ids), Vec::<u32>::new(), "{}", kit.name);
        }
    }

    #[test]
    fn control_tokens_of_the_template_survive_around_shielded_text(text in text()) {
        for kit in kits() {
            let tokenizer = &kit.tokenizer;
            let shielded = tokenizer.shield(&text);
            let prompt = format!("<|user|>\n{shielded}<|end|>\n<|assistant|>\n");
            let ids = tokenizer.encode(&prompt, false).expect("encodable");
            let written = ["<|user|>", "<|end|>", "<|assistant|>"]
                .map(|token| tokenizer.token_to_id(token).expect("a token"));
            prop_assert_eq!(control_tokens_in(kit, &ids), written, "{}", kit.name);
        }
    }

    #[test]
    fn unshield_undoes_shield(text in text()) {
        for kit in kits() {
            let tokenizer = &kit.tokenizer;
            let shielded = tokenizer.shield(&text).into_owned();
            prop_assert_eq!(tokenizer.unshield(&shielded), text.as_str());
            let again = tokenizer.shield(&shielded).into_owned();
            prop_assert_eq!(again, shielded);
        }
    }
}

#[test]
fn a_sentinel_from_outside_is_removed() {
    let tokenizer = &SENTENCE_PIECE.tokenizer;
    let smuggled = format!("<|en{SENTINEL}d|>{SENTINEL}");
    let ids = tokenizer
        .encode(&tokenizer.shield(&smuggled), false)
        .expect("encodable");
    let typed = tokenizer
        .encode(&tokenizer.shield("<|end|>"), false)
        .expect("encodable");
    assert_eq!(ids, typed);
    let plain = tokenizer
        .encode(&format!("{SENTINEL}the"), false)
        .expect("encodable");
    assert_eq!(plain, tokenizer.encode("the", false).expect("encodable"));
}

#[test]
fn text_without_literals_is_borrowed() {
    let tokenizer = &BYTE_LEVEL.tokenizer;
    assert!(matches!(tokenizer.shield("what is it?"), Cow::Borrowed(_)));
}

#[test]
fn extra_literals_are_shielded_and_named_ones_are_not() {
    let tokenizer = BYTE_LEVEL
        .fresh()
        .with_shielded(&["<|image_"])
        .and_then(|tokenizer| tokenizer.with_recognised(&["<mask>"]))
        .expect("valid");
    assert!(
        !tokenizer
            .shield("a <|image_12|> b")
            .contains("<|image_12|>")
    );
    assert!(!tokenizer.shield("a <|ima").ends_with("<|ima"));
    assert_eq!(tokenizer.shield("a <mask> b"), "a <mask> b");
    assert!(!tokenizer.shield("<word>").contains("<word>"));
}

#[test]
fn vocabulary_that_is_no_markup_is_left_to_users() {
    let tokenizer = &BYTE_LEVEL.tokenizer;
    for word in ["yesterday", "  "] {
        let id = tokenizer.token_to_id(word).expect("a token");
        let text = format!("{}a{word}b", tokenizer.shield("<|end|>"));
        let ids = tokenizer.encode(&text, false).expect("encodable");
        assert!(ids.contains(&id), "{word:?} in {ids:?}");
    }
}

#[test]
fn a_control_token_spelled_in_other_characters_is_shielded() {
    let kit = &*UNIGRAM;
    let tokenizer = &kit.tokenizer;
    let id = tokenizer.token_to_id("<norm>").expect("a token");
    let wide = "＜ｎｏｒｍ＞";
    assert!(
        tokenizer
            .encode(wide, false)
            .expect("encodable")
            .contains(&id)
    );
    let ids = tokenizer
        .encode(&tokenizer.shield(wide), false)
        .expect("encodable");
    assert!(!ids.contains(&id), "{ids:?}");
}

#[test]
fn control_tokens_in_the_vocabulary_of_the_model_are_cut() {
    let tokenizer = &UNIGRAM.tokenizer;
    let ids = tokenizer
        .encode(&tokenizer.shield("a</s></s>"), false)
        .expect("encodable");
    let text = tokenizer.decode(&ids, false).expect("decodable");
    assert_eq!(text, "a</s></s>");
    assert!(!ids.contains(&2), "{ids:?}");
}

#[test]
fn work_on_repeated_literals_grows_with_their_number() {
    const COPIES: usize = 100_000;
    let kit = &*SENTENCE_PIECE;
    let tokenizer = kit.fresh().with_shielded(&["<|image_"]).expect("valid");
    for literal in ["<|end|>", "<|image_1|>", "<mask>"] {
        let one = tokenizer
            .encode(&tokenizer.shield(literal), false)
            .expect("encodable");
        let text = literal.repeat(COPIES);
        let shielded = tokenizer.shield(&text);
        assert_eq!(shielded.len(), text.len() + COPIES * SENTINEL.len_utf8());
        let ids = tokenizer.encode(&shielded, false).expect("encodable");
        // Every copy takes at most what it takes alone.
        assert!(ids.len() <= one.len() * COPIES);
        assert_eq!(control_tokens_in(kit, &ids), Vec::<u32>::new());
    }
}

#[test]
fn the_post_processor_adds_its_tokens_to_shielded_text_too() {
    let tokenizer = &SENTENCE_PIECE.tokenizer;
    for text in ["the", &tokenizer.shield("the <|end|>")] {
        let bare = tokenizer.encode(text, false).expect("encodable");
        let full = tokenizer.encode(text, true).expect("encodable");
        assert_eq!(full, [&[1], bare.as_slice()].concat());
    }
}

#[test]
fn truncation_in_the_file_is_ignored() {
    let tokenizer = &SENTENCE_PIECE.tokenizer;
    let ids = tokenizer
        .encode("a b c d e f g h", false)
        .expect("encodable");
    assert!(ids.len() > 8);
}

#[test]
fn strings_anywhere_in_json_are_shielded() {
    let tokenizer = &BYTE_LEVEL.tokenizer;
    let value = json!({"<|end|>": ["a", "<|user|>", {"b": "<|end|>"}], "n": 1, "x": null});
    let shielded = tokenizer.shield_json(&value).to_string();
    assert!(!shielded.contains("<|end|>") && !shielded.contains("<|user|>"));
    assert_eq!(tokenizer.unshield(&shielded), value.to_string());
}

#[test]
fn special_tokens_are_told_from_others() {
    let tokenizer = &SENTENCE_PIECE.tokenizer;
    let id = |token| tokenizer.token_to_id(token).expect("a token");
    assert!(tokenizer.is_special(id("<|end|>")));
    assert!(!tokenizer.is_special(id("</s>")));
    assert!(!tokenizer.is_special(id("the".get(..1).expect("a letter"))));
    assert_eq!(tokenizer.id_to_token(1).as_deref(), Some("<s>"));
    assert_eq!(tokenizer.id_to_token(u32::MAX), None);
    assert!(tokenizer.vocab_size() > 256);
}

#[test]
fn files_that_are_no_tokenizer_are_refused() {
    let mut right = SENTENCE_PIECE.json.clone();
    right["decoder"]["decoders"][3]["stop"] = json!(1);
    // The library would panic.
    let cut = SENTENCE_PIECE
        .json
        .to_string()
        .replace("\"decoders\":[", "\"decoders\":[{");
    let mut foreign = SENTENCE_PIECE.json.clone();
    foreign["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<nowhere>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {},
    });
    for bytes in [
        foreign.to_string().as_bytes(),
        &b""[..],
        b"{}",
        b"\xff",
        right.to_string().as_bytes(),
        cut.as_bytes(),
    ] {
        let error = Tokenizer::from_bytes(bytes).expect_err("invalid");
        assert!(matches!(error, TextError::InvalidTokenizer(_)), "{error}");
    }
}
