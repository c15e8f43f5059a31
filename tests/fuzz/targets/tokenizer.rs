//! `tokenizer.json` and SentencePiece models of whoever made the checkpoint.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vlmd_text::Tokenizer;

const TEXT: &str = "A cat, <s> é 你好\u{1F600} 12  <|end|>\n";

fuzz_target!(init: vlmd_fuzz::let_panics_be_caught(), |bytes: &[u8]| {
    // A JSON document is no protobuf and the other way round.
    let tokenizer = if bytes.starts_with(b"{") {
        Tokenizer::from_bytes(bytes)
    } else {
        Tokenizer::from_sentencepiece(bytes)
    };
    let Ok(tokenizer) = tokenizer else {
        return;
    };
    for text in [TEXT.into(), tokenizer.shield(TEXT)] {
        if let Ok(ids) = tokenizer.encode(&text, true) {
            let _ = tokenizer.decode(&ids, false);
            let _ = tokenizer.decode(&ids, true);
        }
    }
    let _ = tokenizer.decode(&[0, 1, u32::MAX], false);
});
