//! Answers that point at what they name: spans are as long as what is named, boxes are
//! numbers.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use vlmd_fuzz::checkpoint;
use vlmd_models::Grounded;

fuzz_target!(|answer: &str| {
    static GROUNDING: OnceLock<fn(&str) -> Grounded> = OnceLock::new();
    let find = || {
        checkpoint("kosmos2")
            .processor
            .grounding()
            .expect("it grounds")
    };
    let grounded = GROUNDING.get_or_init(find)(answer);
    for entity in grounded.entities {
        // Where tags are left open, the reference's spans go beyond the text; where cells are
        // spelled that no token stands for, its boxes beyond the picture. So do these.
        let (start, end) = entity.span;
        let letters = entity.phrase.chars().count() as i64;
        assert!(start == end || end - start == letters, "{entity:?}");
        for side in entity.boxes.into_iter().flatten() {
            assert!(side.is_finite() && side >= 0.0, "{side}");
        }
    }
});
