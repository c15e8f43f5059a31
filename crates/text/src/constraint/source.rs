//! The languages that an answer may be held to.

use std::collections::HashSet;

use llguidance::api::TopLevelGrammar;
use llguidance::regex_to_lark;
use serde_json::{Value, json};

use super::error::GrammarError;
use super::limits::{MAX_CHOICES, MAX_SOURCE_BYTES};
use super::{gbnf, lark, schema};

/// What an answer must be.
#[derive(Debug, Clone, PartialEq)]
pub enum GrammarSource {
    /// Any JSON object.
    JsonObject,
    /// A JSON document that is valid by this schema, draft 2020-12 where it does not name another.
    /// Fields come in the order of `properties`. Between tokens of JSON there may be one blank, or
    /// a line break and an indentation: no endless blanks.
    JsonSchema(Value),
    /// A text that this regular expression matches as a whole, in Rust's syntax. `\d`, `\w` and
    /// `\s` are of ASCII, as JSON Schema has it; `^` in front and `$` at the end say nothing.
    Regex(String),
    /// One of these strings.
    Choice(Vec<String>),
    /// A text of this grammar, whose first rule is `start` in Lark's syntax, as llguidance reads
    /// it, or `root` in llama.cpp's (GBNF), which is told by its `::=`.
    Lark(String),
}

impl GrammarSource {
    /// The same for equal sources only. Order counts: properties are written as the schema has
    /// them.
    pub(super) fn key(&self) -> String {
        match self {
            Self::JsonObject => "object".to_owned(),
            Self::JsonSchema(schema) => format!("schema {schema}"),
            Self::Regex(regex) => format!("regex {regex}"),
            Self::Choice(choices) => format!("choice {}", json!(choices)),
            Self::Lark(grammar) => format!("lark {grammar}"),
        }
    }

    /// What llguidance takes for it.
    pub(super) fn grammar(&self) -> Result<TopLevelGrammar, GrammarError> {
        match self {
            Self::JsonObject => json_schema(&json!({"type": "object"})),
            Self::JsonSchema(schema) => json_schema(schema),
            Self::Regex(regex) => self::regex(regex),
            Self::Choice(choices) => choice(choices),
            Self::Lark(grammar) => {
                at_most("the grammar", "bytes", MAX_SOURCE_BYTES, grammar.len())?;
                let grammar = if gbnf::is_gbnf(grammar) {
                    gbnf::to_lark(grammar)?
                } else {
                    lark::prepare(grammar)?
                };
                Ok(TopLevelGrammar::from_lark(grammar))
            }
        }
    }
}

pub(super) fn at_most(
    what: &'static str,
    unit: &'static str,
    bound: usize,
    given: usize,
) -> Result<(), GrammarError> {
    if given <= bound {
        return Ok(());
    }
    Err(GrammarError::TooLarge {
        what,
        unit,
        bound,
        given,
    })
}

fn json_schema(schema: &Value) -> Result<TopLevelGrammar, GrammarError> {
    schema::prepare(schema).map(TopLevelGrammar::from_json_schema)
}

fn regex(regex: &str) -> Result<TopLevelGrammar, GrammarError> {
    at_most(
        "the regular expression",
        "bytes",
        MAX_SOURCE_BYTES,
        regex.len(),
    )?;
    let body = regex.strip_prefix('^').unwrap_or(regex);
    let body = match body.strip_suffix('$') {
        Some(rest) if !ends_in_escape(rest) => rest,
        _ => body,
    };
    if body.is_empty() {
        return Err(GrammarError::Invalid(
            "the regular expression must not be empty".into(),
        ));
    }
    schema::check_pattern(body, "the regular expression")?;
    let rule = format!("start: /{}/", regex_to_lark(body, "dws"));
    Ok(TopLevelGrammar::from_lark(rule))
}

/// Whether an odd number of backslashes stands at the end.
fn ends_in_escape(text: &str) -> bool {
    (text.len() - text.trim_end_matches('\\').len()) % 2 == 1
}

fn choice(choices: &[String]) -> Result<TopLevelGrammar, GrammarError> {
    at_most("the choice", "strings", MAX_CHOICES, choices.len())?;
    let bytes = choices.iter().map(String::len).sum();
    at_most("the choice", "bytes", MAX_SOURCE_BYTES, bytes)?;
    if choices.is_empty() {
        return Err(GrammarError::Invalid(
            "the choice must have at least one string".into(),
        ));
    }
    if let Some(index) = choices.iter().position(String::is_empty) {
        return Err(GrammarError::Invalid(format!(
            "the strings of the choice must not be empty, string {index} is"
        )));
    }
    let mut seen = HashSet::new();
    let literals: Vec<String> = choices
        .iter()
        .filter(|choice| seen.insert(*choice))
        .map(|choice| lark::literal(choice))
        .collect();
    let rule = format!("start: CHOICE\nCHOICE: {}", literals.join(" | "));
    Ok(TopLevelGrammar::from_lark(rule))
}
