//! Answers with calls of tools: taken apart the same however they come, whatever a model writes.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vlmd_text::{ToolFamily, ToolParser, ToolPiece};

const FAMILIES: [ToolFamily; 3] = [
    ToolFamily::Llama3Json,
    ToolFamily::Hermes,
    ToolFamily::Mistral,
];

fuzz_target!(|input: (u8, Vec<&str>)| {
    let (family, pieces) = input;
    let family = FAMILIES[usize::from(family) % FAMILIES.len()];
    let whole = run(family, &[&pieces.concat()]);
    assert_eq!(run(family, &pieces), whole);
    let mut within = false;
    for piece in whole {
        match piece {
            ToolPiece::Text(text) => assert!(!text.is_empty() && !within),
            ToolPiece::CallStart { name } => {
                assert!(name == "look" && !within);
                within = true;
            }
            ToolPiece::Arguments(_) => assert!(within),
            ToolPiece::CallEnd => {
                assert!(within);
                within = false;
            }
        }
    }
    assert!(!within, "a call has no end");
});

/// All pieces, those of a kind that touch joined.
fn run(family: ToolFamily, pieces: &[&str]) -> Vec<ToolPiece> {
    let names = Arc::new(["look".to_owned()].into());
    let mut parser = ToolParser::new(family, names);
    let mut found: Vec<_> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    found.extend(parser.finish());
    let mut joined: Vec<ToolPiece> = Vec::new();
    for piece in found {
        match (joined.last_mut(), piece) {
            (Some(ToolPiece::Text(all)), ToolPiece::Text(more))
            | (Some(ToolPiece::Arguments(all)), ToolPiece::Arguments(more)) => all.push_str(&more),
            (_, piece) => joined.push(piece),
        }
    }
    joined
}
