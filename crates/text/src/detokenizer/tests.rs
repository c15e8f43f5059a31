use proptest::prelude::*;

use super::*;
use crate::testing::{BYTE_LEVEL, SENTENCE_PIECE, kits};

fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip_special: bool) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), skip_special);
    let mut pieces = Vec::new();
    for &id in ids {
        pieces.extend(detokenizer.push(id).expect("decodable"));
    }
    pieces.extend(detokenizer.flush().expect("decodable"));
    pieces
}

fn ids_of(tokenizer: &Tokenizer, tokens: &[&str]) -> Vec<u32> {
    tokens
        .iter()
        .map(|token| tokenizer.token_to_id(token).expect(token))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn pieces_make_up_the_decoded_whole(
        ids in prop::collection::vec(0u32..330, 0..40),
        skip_special in any::<bool>(),
    ) {
        for kit in kits() {
            let tokenizer = &kit.tokenizer;
            let whole = tokenizer.decode(&ids, skip_special).expect("decodable");
            prop_assert_eq!(stream(tokenizer, &ids, skip_special).concat(), whole, "{}", kit.name);
        }
    }

    #[test]
    fn pieces_of_encoded_text_make_up_its_decoded_whole(text in crate::testing::text()) {
        for kit in kits() {
            let tokenizer = &kit.tokenizer;
            let ids = tokenizer.encode(&text, false).expect("encodable");
            let whole = tokenizer.decode(&ids, true).expect("decodable");
            prop_assert_eq!(stream(tokenizer, &ids, true).concat(), whole, "{}", kit.name);
        }
    }

    #[test]
    fn an_answer_continues_the_text_before_it(
        before in "[a-z]{1,8}( [a-z]{1,8}){0,12}",
        more in "( [a-z]{1,8}){1,4}",
    ) {
        for kit in kits() {
            let tokenizer = &kit.tokenizer;
            let before = tokenizer.encode(&before, false).expect("encodable");
            let all = tokenizer.encode(&more, false).expect("encodable");
            let all: Vec<u32> = before.iter().chain(&all).copied().collect();
            let whole = tokenizer.decode(&all, true).expect("decodable");
            let first = tokenizer.decode(&before, true).expect("decodable");
            let mut detokenizer =
                Detokenizer::after(Arc::clone(tokenizer), true, &before).expect("decodable");
            let mut text = first;
            for &id in &all[before.len()..] {
                text.extend(detokenizer.push(id).expect("decodable"));
            }
            text.extend(detokenizer.flush().expect("decodable"));
            prop_assert_eq!(text, whole, "{}", kit.name);
        }
    }

    #[test]
    fn runs_of_bytes_are_decoded_as_one(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
        let tokenizer = &SENTENCE_PIECE.tokenizer;
        let ids: Vec<u32> = bytes.iter().map(|&byte| 3 + u32::from(byte)).collect();
        let whole = tokenizer.decode(&ids, true).expect("decodable");
        prop_assert_eq!(stream(tokenizer, &ids, true).concat(), whole);
    }
}

#[test]
fn no_piece_ends_within_a_character() {
    for kit in kits() {
        let tokenizer = &kit.tokenizer;
        let ids = tokenizer.encode("é你😀 the 😀", false).expect("encodable");
        let pieces = stream(tokenizer, &ids, true);
        if !ids.contains(&tokenizer.token_to_id("<unk>").unwrap_or(u32::MAX)) {
            assert!(
                !pieces.concat().contains(char::REPLACEMENT_CHARACTER),
                "{}",
                kit.name
            );
        }
    }
}

#[test]
fn text_goes_out_with_the_token_that_completes_it() {
    let tokenizer = &BYTE_LEVEL.tokenizer;
    let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), true);
    let ids = ids_of(tokenizer, &["a", "ä½", "ł", "Ã", "b"]);
    let pieces: Vec<Option<String>> = ids
        .iter()
        .map(|&id| detokenizer.push(id).expect("decodable"))
        .collect();
    let expected = ["a", "", "你", "", "\u{FFFD}b"];
    assert_eq!(
        pieces,
        expected.map(|text| Some(text.to_owned()).filter(|text| !text.is_empty()))
    );
    assert_eq!(detokenizer.flush().expect("decodable"), None);
}

#[test]
fn a_leading_space_is_stripped_from_the_answer_but_not_within_it() {
    let tokenizer = &SENTENCE_PIECE.tokenizer;
    let ids = ids_of(tokenizer, &["▁the", "▁", "▁the", "▁t", "he"]);
    assert_eq!(
        stream(tokenizer, &ids, true),
        ["the", " ", " the", " t", "he"]
    );
}

#[test]
fn an_unfinished_character_at_the_end_becomes_replacement_characters() {
    let tokenizer = &SENTENCE_PIECE.tokenizer;
    let ids = ids_of(tokenizer, &["a", "<0xE4>", "<0xBD>"]);
    assert_eq!(stream(tokenizer, &ids, true), ["a", "\u{FFFD}\u{FFFD}"]);
    let tokenizer = &BYTE_LEVEL.tokenizer;
    let ids = ids_of(tokenizer, &["a", "ä½"]);
    assert_eq!(stream(tokenizer, &ids, true), ["a", "\u{FFFD}"]);
}

#[test]
fn special_and_unknown_tokens_have_no_text() {
    for kit in kits() {
        let tokenizer = &kit.tokenizer;
        let end = tokenizer.token_to_id("<|end|>").expect("a token");
        assert_eq!(
            stream(tokenizer, &[end, u32::MAX], true),
            Vec::<String>::new()
        );
        let shown = stream(tokenizer, &[end, u32::MAX], false).concat();
        assert_eq!(shown.trim(), "<|end|>", "{}", kit.name);
    }
}

#[test]
fn work_per_token_does_not_grow_with_the_answer() {
    for kit in kits() {
        let tokenizer = &kit.tokenizer;
        for token in ["▁", "Ġ", "a", "the", "\u{ff}", "<|end|>"] {
            let Some(id) = tokenizer.token_to_id(token) else {
                continue;
            };
            let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), false);
            for _ in 0..5000 {
                detokenizer.push(id).expect("decodable");
                let kept = match &detokenizer.state {
                    State::SentencePiece(_) => panic!("{} is no tokenizer.json", kit.name),
                    State::Bytes(bytes) => bytes.len(),
                    State::Window(window) => window.context.len() + window.pending.len(),
                };
                assert!(kept <= MAX_CONTEXT, "{}: {token:?} keeps {kept}", kit.name);
            }
        }
    }
}
