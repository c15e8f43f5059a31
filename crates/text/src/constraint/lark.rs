//! Grammars in Lark's syntax, as llguidance reads it.

use serde_json::Value;

use super::error::GrammarError;
use super::limits::MAX_NESTING;
use super::schema;

/// A string literal.
pub(crate) fn literal(text: &str) -> String {
    // JSON's escapes are Lark's, but for one control character that JSON lets stand.
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// Checks brackets, and prepares the schemas after `%json` as any other schema.
pub(super) fn prepare(grammar: &str) -> Result<String, GrammarError> {
    let mut prepared = String::with_capacity(grammar.len());
    let mut depth = 0_usize;
    let mut rest = grammar;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("%json") {
            let (schema, length) = first_value(after)?;
            prepared.push_str("%json ");
            prepared.push_str(&schema::prepare(&schema)?.to_string());
            rest = after.get(length..).unwrap_or_default();
            continue;
        }
        match first {
            '(' | '[' | '{' => depth = depth.saturating_add(1),
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_NESTING {
            return Err(GrammarError::TooDeep {
                what: "the grammar",
                bound: MAX_NESTING,
            });
        }
        let (piece, after) = rest.split_at(piece_length(rest, first));
        if first == '/' && !piece.starts_with("//") {
            schema::check_pattern(piece, "a regular expression of the grammar")?;
        }
        prepared.push_str(piece);
        rest = after;
    }
    Ok(prepared)
}

/// Length of the comment, string or regular expression that `text` begins with, else of its first
/// character.
fn piece_length(text: &str, first: char) -> usize {
    let line = text.find('\n').unwrap_or(text.len());
    match first {
        '#' => line,
        '/' if text.starts_with("//") => line,
        // Neither may go over the end of a line; one without an end is for the parser to refuse.
        '"' | '/' => closing(text.get(..line).unwrap_or_default(), first),
        _ => first.len_utf8(),
    }
}

/// Length of what begins and ends with `quote`, or of the whole line.
fn closing(line: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in line.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at.saturating_add(c.len_utf8()),
            _ => {}
        }
    }
    line.len()
}

/// The JSON value that `text` begins with, and where it ends.
fn first_value(text: &str) -> Result<(Value, usize), GrammarError> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => Ok((value, values.byte_offset())),
        Some(Err(error)) => Err(GrammarError::Invalid(format!(
            "what follows `%json` in the grammar is not JSON: {error}"
        ))),
        None => Err(GrammarError::Invalid(
            "a schema must follow `%json` in the grammar".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_within_a_grammar_are_checked_like_others() {
        let grammar = "start: \"call \" args\nargs: %json {\"not\": {}}\n";
        assert!(matches!(
            prepare(grammar),
            Err(GrammarError::Keyword { keyword, .. }) if keyword == "not"
        ));
        let grammar = "start: %json {\"type\": \"integer\"} \"!\"";
        let prepared = prepare(grammar).unwrap();
        let schema = schema::prepare(&json!({"type": "integer"})).unwrap();
        assert_eq!(prepared, format!("start: %json {schema} \"!\""));
    }

    #[test]
    fn what_only_looks_like_a_schema_stays() {
        for grammar in [
            "start: \"%json\"",
            "start: \"a\\\"%json {\"",
            "start: /%json[{]\\/%json/",
            "start: \"a\" // %json {",
            "# %json {\nstart: \"a\"",
        ] {
            assert_eq!(prepare(grammar).unwrap(), grammar);
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested =
            |depth: usize| format!("start: {}\"a\"{}", "(".repeat(depth), ")".repeat(depth));
        assert!(prepare(&nested(MAX_NESTING)).is_ok());
        assert!(matches!(
            prepare(&nested(MAX_NESTING + 1)),
            Err(GrammarError::TooDeep { .. })
        ));
    }

    #[test]
    fn every_character_can_stand_in_a_literal() {
        assert_eq!(literal("a\"\\\n\u{7f}é"), "\"a\\\"\\\\\\n\\u007fé\"");
    }
}
