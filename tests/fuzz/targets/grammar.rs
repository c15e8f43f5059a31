//! Schemas, patterns and grammars of requests: compiled in bounded time or refused, and what they
//! allow can be followed.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use vlmd_fuzz::{checkpoint, choice};
use vlmd_text::constraint::{GrammarCompiler, GrammarSource};

/// Tokens of an answer that are tried.
const STEPS: usize = 24;

fuzz_target!(init: vlmd_fuzz::let_panics_be_caught(), |data: &[u8]| {
    let Some((kind, data)) = choice(data, 4) else {
        return;
    };
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let source = match kind {
        0 => match serde_json::from_str(text) {
            Ok(schema) => GrammarSource::JsonSchema(schema),
            Err(_) => return,
        },
        1 => GrammarSource::Regex(text.to_owned()),
        2 => GrammarSource::Choice(text.lines().map(str::to_owned).collect()),
        _ => GrammarSource::Lark(text.to_owned()),
    };
    static COMPILER: OnceLock<(GrammarCompiler, usize)> = OnceLock::new();
    let (compiler, vocab_size) = COMPILER.get_or_init(|| {
        let model = checkpoint("phi3_v");
        let vocab_size = model.model.spec().vocab_size;
        let (tokenizer, stops) = (model.processor.tokenizer(), model.processor.stop_ids());
        (
            GrammarCompiler::new(tokenizer, vocab_size, stops),
            vocab_size,
        )
    });
    let Ok(grammar) = compiler.compile(&source) else {
        return;
    };
    let mut matcher = grammar.start();
    for step in 0..STEPS {
        let mut logits = vec![0.0_f32; *vocab_size];
        if matcher.mask(&mut logits).is_err() {
            return;
        }
        let allowed: Vec<_> = (0_u32..)
            .zip(&logits)
            .filter(|(_, logit)| logit.is_finite())
            .collect();
        if allowed.is_empty() {
            return;
        }
        let pick = usize::from(data.get(step).copied().unwrap_or_default()) * 31 + step;
        let (id, _) = allowed[pick % allowed.len()];
        matcher.accept(id).expect("what is allowed is accepted");
        if matcher.is_complete() {
            return;
        }
    }
});
