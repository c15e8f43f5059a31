//! Streams: whatever a model says, a client reads whole frames, and the words as they were.

#![no_main]

use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|texts: Vec<String>| {
    let said = texts.concat();
    let model = texts.first().cloned().unwrap_or_default();
    let body = block_on(vlmd_server::fuzzing::stream(texts));
    let body = String::from_utf8(body).expect("a stream is UTF-8");
    let frames = body
        .strip_suffix("data: [DONE]\n\n")
        .expect("it ends with the last frame");
    let mut read = String::new();
    for frame in frames.split_terminator("\n\n") {
        // Clients end lines at a carriage return as well.
        assert!(!frame.contains(['\r', '\n']), "{frame}");
        let data = frame.strip_prefix("data: ").expect("a frame is data");
        let chunk: Value = serde_json::from_str(data).expect("and JSON");
        assert_eq!(chunk["model"], model);
        read.push_str(
            chunk["choices"][0]["delta"]["content"]
                .as_str()
                .expect("with text"),
        );
    }
    assert_eq!(read, said);
});
