//! Chat templates of whoever made the checkpoint: rendered within their limits, or refused.

#![no_main]

use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, json};
use vlmd_text::{ChatTemplate, SpecialTokens, TemplateLimits};

const LIMITS: TemplateLimits = TemplateLimits {
    fuel: 20_000,
    output_bytes: 1 << 16,
};

fuzz_target!(|source: &str| {
    let specials = br#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}}"#;
    let specials = SpecialTokens::from_json(specials).expect("it is such a file");
    let clock = || SystemTime::UNIX_EPOCH;
    let Ok(template) = ChatTemplate::compile_with(source, &specials, LIMITS, clock) else {
        return;
    };
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "look", "arguments": {"at": 1}}}]},
        {"role": "tool", "content": "{}", "tool_call_id": "c"},
        {"role": "user", "content": "And now?"},
    ]);
    let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {}}}]);
    let mut kwargs = Map::new();
    kwargs.insert("tools".to_owned(), tools);
    for kwargs in [Map::new(), kwargs] {
        if let Ok(text) = template.render(&messages, &kwargs, true) {
            assert!(text.len() <= LIMITS.output_bytes);
        }
    }
});
