//! Text of clients through the tokenizers of every architecture: never a control token, and no
//! text that cannot be written.

#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use vlmd_fuzz::{CHECKPOINTS, checkpoint, is_control};
use vlmd_text::{Detokenizer, Tokenizer};

fuzz_target!(|input: (u8, &str)| {
    static TOKENIZERS: OnceLock<Vec<Arc<Tokenizer>>> = OnceLock::new();
    let load = |name| Arc::clone(checkpoint(name).processor.tokenizer());
    let tokenizers = TOKENIZERS.get_or_init(|| CHECKPOINTS.map(load).into());
    let (which, text) = input;
    let tokenizer = &tokenizers[usize::from(which) % tokenizers.len()];
    let ids = tokenizer
        .encode(&tokenizer.shield(text), false)
        .expect("text is encoded");
    for id in &ids {
        assert!(
            !is_control(tokenizer, *id),
            "{:?}",
            tokenizer.id_to_token(*id)
        );
    }
    // Written token by token, it is what it is as a whole.
    let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), false);
    let mut written = String::new();
    for id in &ids {
        written.extend(detokenizer.push(*id).expect("its own tokens decode"));
    }
    written.extend(detokenizer.flush().expect("its own tokens decode"));
    assert_eq!(
        written,
        tokenizer
            .decode(&ids, false)
            .expect("its own tokens decode")
    );
});
