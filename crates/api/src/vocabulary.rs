//! What an answer may be made of: texts and tokens that a request rules out or allows.

use serde_json::Value;

use crate::RequestError;
use crate::reader::{Fields, integer, wrong_type};
use crate::request::MAX_COUNT;

/// Most texts in `bad_words`. Each is looked for before every token.
pub const MAX_BAD_WORDS: usize = 128;
/// Longest of `bad_words` in bytes.
pub const MAX_BAD_WORD_BYTES: usize = 256;
/// Most of `allowed_token_ids`, more than any model's vocabulary.
pub const MAX_ALLOWED_TOKEN_IDS: usize = 1 << 19;

/// Reads `bad_words`.
pub(crate) fn bad_words(fields: &mut Fields) -> Result<Vec<String>, RequestError> {
    let words = fields.array("bad_words")?.unwrap_or_default();
    if words.len() > MAX_BAD_WORDS {
        return Err(RequestError::Value {
            field: fields.at("bad_words"),
            bound: format!("at most {MAX_BAD_WORDS} strings"),
            value: words.len().to_string(),
        });
    }
    let word = |(index, word)| bad_word(word, format!("{}[{index}]", fields.at("bad_words")));
    words.into_iter().enumerate().map(word).collect()
}

fn bad_word(value: Value, field: String) -> Result<String, RequestError> {
    let Value::String(word) = value else {
        return Err(wrong_type(field, "a string", &value));
    };
    // A blank is part of every answer.
    let problem = if word.trim().is_empty() {
        "nothing but blanks".to_owned()
    } else if word.len() > MAX_BAD_WORD_BYTES {
        format!("{} bytes", word.len())
    } else {
        return Ok(word);
    };
    Err(RequestError::Value {
        field,
        bound: format!("a string of 1 to {MAX_BAD_WORD_BYTES} bytes that is not blank"),
        value: problem,
    })
}

/// Reads `allowed_token_ids`. Whether the model has these tokens is not known here.
pub(crate) fn allowed_token_ids(fields: &mut Fields) -> Result<Option<Vec<u32>>, RequestError> {
    let Some(ids) = fields.array("allowed_token_ids")? else {
        return Ok(None);
    };
    let field = fields.at("allowed_token_ids");
    if !(1..=MAX_ALLOWED_TOKEN_IDS).contains(&ids.len()) {
        return Err(RequestError::Value {
            field,
            bound: format!("an array of 1 to {MAX_ALLOWED_TOKEN_IDS} token ids"),
            value: format!("an array of {}", ids.len()),
        });
    }
    let id = |(index, id)| integer(&format!("{field}[{index}]"), id, 0..=MAX_COUNT);
    ids.iter()
        .enumerate()
        .map(id)
        .collect::<Result<_, _>>()
        .map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn fields(name: &str, value: Value) -> Fields {
        Fields::new(
            Value::Object(Map::from_iter([(name.to_owned(), value)])),
            String::new(),
        )
        .unwrap()
    }

    #[test]
    fn words_and_tokens_are_read() {
        let words = |value| bad_words(&mut fields("bad_words", value));
        assert_eq!(words(json!(["a b", " c"])).unwrap(), ["a b", " c"]);
        assert!(words(json!([])).unwrap().is_empty() && words(json!(null)).unwrap().is_empty());
        let tokens = |value| allowed_token_ids(&mut fields("allowed_token_ids", value));
        assert_eq!(tokens(json!([7, 0, 7.0])).unwrap(), Some(vec![7, 0, 7]));
        assert_eq!(tokens(json!(null)).unwrap(), None);
    }

    #[test]
    fn what_is_at_fault_is_named() {
        for (name, value, field) in [
            ("bad_words", json!("a"), "bad_words"),
            ("bad_words", json!(["a", ""]), "bad_words[1]"),
            ("bad_words", json!([" \n"]), "bad_words[0]"),
            ("bad_words", json!([7]), "bad_words[0]"),
            (
                "bad_words",
                json!(["x".repeat(MAX_BAD_WORD_BYTES + 1)]),
                "bad_words[0]",
            ),
            (
                "bad_words",
                json!(vec!["x"; MAX_BAD_WORDS + 1]),
                "bad_words",
            ),
            ("allowed_token_ids", json!([]), "allowed_token_ids"),
            ("allowed_token_ids", json!(3), "allowed_token_ids"),
            ("allowed_token_ids", json!([0, -1]), "allowed_token_ids[1]"),
            ("allowed_token_ids", json!(["0"]), "allowed_token_ids[0]"),
            (
                "allowed_token_ids",
                json!([u64::MAX]),
                "allowed_token_ids[0]",
            ),
        ] {
            let mut given = fields(name, value.clone());
            let error = bad_words(&mut given)
                .map(drop)
                .and_then(|()| allowed_token_ids(&mut given).map(drop))
                .unwrap_err();
            assert_eq!(error.param(), Some(field), "{value}: {error}");
        }
    }
}
