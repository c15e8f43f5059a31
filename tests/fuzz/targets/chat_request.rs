//! Bodies of chat requests: whatever a client posts is read or refused by field.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vlmd_api::{ChatRequest, MAX_STOPS};

fuzz_target!(|body: &[u8]| {
    match ChatRequest::from_slice(body) {
        Ok(request) => {
            assert!(request.stops().len() <= MAX_STOPS);
            assert!(!request.messages.is_empty());
            // What is derived from the fields.
            let _ = (
                request.constraint(),
                request.max_new_tokens(),
                request.top_k(),
                request.usable_tools(),
                request.must_call(),
                request.repetition_penalty(),
                request.wanted_logprobs(),
                request.priority(),
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
