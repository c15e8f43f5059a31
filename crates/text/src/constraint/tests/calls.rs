//! Answers that must be calls are calls to the parser of the model's family.

use super::*;
use crate::{CallGrammar, ToolFamily, ToolParser, ToolPiece};

const FAMILIES: [ToolFamily; 3] = [
    ToolFamily::Llama3Json,
    ToolFamily::Hermes,
    ToolFamily::Mistral,
];

fn functions() -> Vec<(String, Value)> {
    let sized = json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 1,
        "maximum": 99}, "of": {"enum": ["a \"b\" {c}", "ü"]}}, "required": ["of"],
        "additionalProperties": false});
    let plain = json!({"type": "object", "properties": {}, "additionalProperties": false});
    vec![("size_of".into(), sized), ("now".into(), plain)]
}

fn grammar(family: ToolFamily) -> CallGrammar {
    CallGrammar {
        family,
        functions: functions(),
        parallel: true,
        mark: None,
        otherwise: None,
    }
}

/// Text and calls of an answer.
fn parse(family: ToolFamily, answer: &str) -> (String, Vec<(String, Value)>) {
    let names = functions().into_iter().map(|(name, _)| name).collect();
    let mut parser = ToolParser::new(family, Arc::new(names));
    let mut pieces = parser.push(answer);
    pieces.extend(parser.finish());
    let (mut text, mut calls) = (String::new(), Vec::new());
    for piece in pieces {
        match piece {
            ToolPiece::Text(more) => text.push_str(&more),
            ToolPiece::CallStart { name } => calls.push((name, String::new())),
            ToolPiece::Arguments(more) => calls.last_mut().unwrap().1.push_str(&more),
            ToolPiece::CallEnd => {}
        }
    }
    let calls = calls.into_iter();
    let calls = calls.map(|(name, text)| (name, serde_json::from_str(&text).unwrap()));
    (text, calls.collect())
}

fn check(name: &str, arguments: &Value) {
    let fields = arguments.as_object().unwrap();
    match name {
        "now" => assert!(fields.is_empty()),
        "size_of" => {
            assert!(["a \"b\" {c}", "ü"].contains(&arguments["of"].as_str().unwrap()));
            let number = fields.get("n").map(|n| n.as_u64().unwrap());
            assert!(number.is_none_or(|n| (1..=99).contains(&n)));
            assert_eq!(fields.len(), 1 + usize::from(number.is_some()));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn answers_of_the_grammar_are_calls_that_fit_the_schemas() {
    for family in FAMILIES {
        let source = grammar(family).source();
        let mut counts = Vec::new();
        for model in MODELS.iter() {
            for seed in 1..8 {
                let answer = model.walk(&source, seed);
                let (text, calls) = parse(family, &answer);
                assert_eq!(text, "", "{}: {answer}", model.name);
                assert!(!calls.is_empty(), "{}: {answer}", model.name);
                calls
                    .iter()
                    .for_each(|(name, arguments)| check(name, arguments));
                counts.push(calls.len());
            }
        }
        // Llama's models are made for one call at a time.
        let several = counts.iter().any(|count| *count > 1);
        assert_eq!(several, family != ToolFamily::Llama3Json, "{family:?}");
    }
}

#[test]
fn one_call_is_one() {
    for family in FAMILIES {
        let one = CallGrammar {
            parallel: false,
            ..grammar(family)
        };
        for seed in 1..8 {
            let answer = MODELS[0].walk(&one.source(), seed);
            assert_eq!(parse(family, &answer).1.len(), 1, "{answer}");
        }
    }
}

#[test]
fn an_answer_may_be_a_document_instead() {
    for family in FAMILIES {
        let either = CallGrammar {
            otherwise: Some(
                json!({"type": "object", "properties": {"ok": {"type": "boolean"}},
                "required": ["ok"], "additionalProperties": false}),
            ),
            ..grammar(family)
        };
        let mut seen = [false; 2];
        for seed in 1..40 {
            let answer = MODELS[0].walk(&either.source(), seed);
            let (text, calls) = parse(family, &answer);
            seen[usize::from(calls.is_empty())] = true;
            if calls.is_empty() {
                let document: Value = serde_json::from_str(&text).unwrap();
                assert!(document["ok"].is_boolean(), "{answer}");
            } else {
                assert_eq!(text, "");
            }
        }
        assert_eq!(seen, [true; 2], "{family:?}");
    }
}

#[test]
fn a_mark_that_is_a_special_token_is_that_token() {
    let llama = &MODELS[3];
    let mark = llama.tokenizer.token_to_id("<|python_tag|>").unwrap();
    let marked = CallGrammar {
        mark: Some(mark),
        ..grammar(ToolFamily::Mistral)
    };
    let mut matcher = llama.start(&marked.source());
    assert_eq!(llama.allowed(&mut matcher), [mark]);
}
