//! JSON schemas: what is enforced, what is refused.
//!
//! llguidance ignores what its draft of JSON Schema does not know, and leaves out the rest with an
//! error at best. Here every keyword that restricts documents and is not enforced is refused by
//! name, with the place where it stands, before the parser sees the schema.

use std::collections::BTreeSet;

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, HirKind};
use serde_json::{Map, Value, json};

use super::error::GrammarError;
use super::limits::{MAX_NESTING, MAX_REPEAT, MAX_SOURCE_BYTES};
use super::source::at_most;

/// What may stand between tokens of JSON: a blank, or a line break with an indentation. A model
/// that likes blanks cannot go on with them for ever.
const WHITESPACE: &str = r"\x20|\n[\x20\t]{0,32}";

/// What may follow a backslash in a string. Not `u`: with it, the name of a property could be
/// spelt in a second way, and pass for one that the schema does not have.
const ESCAPES: &str = "nrbtf\\\"";

/// Largest count of a pattern once nested counts are multiplied: `(a{50}){50}` has 2500.
const MAX_UNFOLDED: u64 = 16_384;

/// Largest product of all different `multipleOf` of a schema, without their decimal points: the
/// lexer has a state for each remainder.
const MAX_MULTIPLE: u64 = 10_000;

/// Most digits behind the decimal point of `multipleOf`.
const MAX_PLACES: usize = 4;

/// Keywords that are not enforced, with what to do instead.
const REFUSED: [(&str, &str); 21] = [
    ("$dynamicRef", "use `$ref`"),
    ("$recursiveRef", "use `$ref`"),
    ("contains", "say what all `items` are"),
    ("contentSchema", "leave it out"),
    ("dependencies", "write the cases as options of `anyOf`"),
    ("dependentRequired", "write the cases as options of `anyOf`"),
    ("dependentSchemas", "write the cases as options of `anyOf`"),
    ("disallow", "say what is allowed"),
    ("divisibleBy", "use `multipleOf`"),
    ("else", "write the cases as options of `anyOf`"),
    ("extends", "use `allOf`"),
    ("if", "write the cases as options of `anyOf`"),
    ("maxContains", "use `maxItems`"),
    ("minContains", "use `minItems`"),
    ("not", "say what is allowed"),
    ("propertyNames", "use `patternProperties`"),
    ("then", "write the cases as options of `anyOf`"),
    ("unevaluatedItems", "use `items` after `prefixItems`"),
    ("unevaluatedProperties", "use `additionalProperties`"),
    ("uniqueItems", "leave it out or set it to false"),
    ("x-guidance", "leave it out"),
];

/// Keywords whose value is a schema.
const SCHEMA: [&str; 3] = ["additionalItems", "additionalProperties", "items"];
/// Keywords whose value is an object of schemas.
const NAMED_SCHEMAS: [&str; 4] = ["$defs", "definitions", "patternProperties", "properties"];
/// Keywords whose value is an array of schemas.
const SCHEMAS: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
/// Keywords whose value is a count.
const COUNTS: [&str; 6] = [
    "maxItems",
    "maxLength",
    "maxProperties",
    "minItems",
    "minLength",
    "minProperties",
];

/// The schema as llguidance is to take it: checked, and with the rule for whitespace.
pub(super) fn prepare(schema: &Value) -> Result<Value, GrammarError> {
    let bytes = schema.to_string().len();
    at_most("the JSON schema", "bytes", MAX_SOURCE_BYTES, bytes)?;
    let mut fields = match schema {
        Value::Object(fields) => fields.clone(),
        Value::Bool(true) => Map::new(),
        _ => {
            return Err(GrammarError::Invalid(
                "the JSON schema must be an object".into(),
            ));
        }
    };
    check_fields(&mut fields, &mut Place::default())?;
    fields.insert(
        "x-guidance".to_owned(),
        json!({"whitespace_pattern": WHITESPACE, "json_allowed_escapes": ESCAPES}),
    );
    Ok(Value::Object(fields))
}

/// Where in a schema, and what has been seen of it.
#[derive(Debug, Default)]
struct Place {
    steps: Vec<String>,
    multiples: BTreeSet<u64>,
}

impl Place {
    fn pointer(&self) -> String {
        self.steps.iter().fold("#".to_owned(), |pointer, step| {
            format!("{pointer}/{}", step.replace('~', "~0").replace('/', "~1"))
        })
    }

    fn at(&self, keyword: &str) -> String {
        format!("{}/{keyword}", self.pointer())
    }

    /// Checks what stands further in.
    fn within(
        &mut self,
        step: &str,
        check: impl FnOnce(&mut Self) -> Result<(), GrammarError>,
    ) -> Result<(), GrammarError> {
        if self.steps.len() >= 2 * MAX_NESTING {
            return Err(GrammarError::TooDeep {
                what: "the JSON schema",
                bound: MAX_NESTING,
            });
        }
        self.steps.push(step.to_owned());
        check(self)?;
        self.steps.pop();
        Ok(())
    }
}

fn check(schema: &mut Value, place: &mut Place) -> Result<(), GrammarError> {
    match schema {
        Value::Object(fields) => check_fields(fields, place),
        // `true` and `false` are schemas; the rest is refused by the parser, with its own words.
        _ => Ok(()),
    }
}

/// Checks a schema, and takes out what says nothing.
fn check_fields(fields: &mut Map<String, Value>, place: &mut Place) -> Result<(), GrammarError> {
    if fields.get("uniqueItems") == Some(&Value::Bool(false)) {
        fields.shift_remove("uniqueItems");
    }
    for (keyword, value) in fields.iter_mut() {
        let keyword = keyword.as_str();
        if let Some((_, advice)) = REFUSED.iter().find(|(refused, _)| *refused == keyword) {
            return Err(GrammarError::Keyword {
                keyword: keyword.to_owned(),
                at: place.pointer(),
                advice,
            });
        }
        match value {
            Value::String(target) if keyword == "$ref" && !target.starts_with('#') => {
                return Err(GrammarError::Keyword {
                    keyword: "$ref".to_owned(),
                    at: place.pointer(),
                    advice: "it must begin with `#`: other documents are not looked up",
                });
            }
            Value::String(pattern) if keyword == "pattern" => {
                check_pattern(pattern, &place.at(keyword))?;
            }
            Value::Number(_) if COUNTS.contains(&keyword) => check_count(value, place, keyword)?,
            Value::Number(_) if keyword == "multipleOf" => check_multiple(value, place)?,
            Value::Object(_) if SCHEMA.contains(&keyword) => {
                place.within(keyword, |place| check(value, place))?;
            }
            Value::Object(schemas) if NAMED_SCHEMAS.contains(&keyword) => {
                place.within(keyword, |place| check_named(schemas, keyword, place))?;
            }
            // An array of `items` is the older spelling of `prefixItems`.
            Value::Array(schemas) if SCHEMAS.contains(&keyword) || keyword == "items" => {
                place.within(keyword, |place| {
                    schemas
                        .iter_mut()
                        .enumerate()
                        .try_for_each(|(index, schema)| {
                            place.within(&index.to_string(), |place| check(schema, place))
                        })
                })?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_named(
    schemas: &mut Map<String, Value>,
    keyword: &str,
    place: &mut Place,
) -> Result<(), GrammarError> {
    for (name, schema) in schemas {
        if keyword == "patternProperties" {
            check_pattern(name, &place.pointer())?;
            // The parser would drop it and allow such names.
            if *schema == Value::Bool(false) {
                return Err(GrammarError::Keyword {
                    keyword: keyword.to_owned(),
                    at: place.pointer(),
                    advice: "a pattern cannot forbid names; write one for those that are allowed",
                });
            }
        }
        place.within(name, |place| check(schema, place))?;
    }
    Ok(())
}

fn check_count(count: &Value, place: &Place, keyword: &str) -> Result<(), GrammarError> {
    // Drafts since 6 let `3.0` count as 3.
    let given = count.as_u64().or_else(|| {
        count
            .as_f64()
            .filter(|c| *c >= 0.0 && c.fract() == 0.0)
            .map(|c| c as u64)
    });
    match given {
        Some(given) if given <= MAX_REPEAT => Ok(()),
        _ => Err(GrammarError::Number {
            at: place.at(keyword),
            bound: format!("an integer between 0 and {MAX_REPEAT}"),
            given: count.to_string(),
        }),
    }
}

fn check_multiple(step: &Value, place: &mut Place) -> Result<(), GrammarError> {
    let given = step.to_string();
    let (whole, places) = given.split_once('.').unwrap_or((&given, ""));
    let places = places.trim_end_matches('0');
    // What has an exponent is too large or too small.
    let digits = format!("{whole}{places}").parse::<u64>().ok();
    let digits = digits.filter(|digits| *digits > 0 && places.len() <= MAX_PLACES);
    let product = digits.and_then(|digits| {
        place.multiples.insert(digits);
        let steps = place.multiples.iter();
        steps.copied().try_fold(1, u64::checked_mul)
    });
    if product.is_some_and(|product| product <= MAX_MULTIPLE) {
        return Ok(());
    }
    Err(GrammarError::Number {
        at: place.at("multipleOf"),
        bound: format!(
            "a positive number with at most {MAX_PLACES} decimal places, and the product of the \
             digits of all of them at most {MAX_MULTIPLE}"
        ),
        given,
    })
}

/// Checks the nesting and the counts of a regular expression. `what` names it.
pub(super) fn check_pattern(pattern: &str, what: &str) -> Result<(), GrammarError> {
    let nest = u32::try_from(MAX_NESTING).unwrap_or(u32::MAX);
    let parsed = ParserBuilder::new().nest_limit(nest).build().parse(pattern);
    let hir = match parsed {
        Ok(hir) => hir,
        Err(error) => {
            // The library draws the pattern with an arrow below; its last line is the reason.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default();
            let reason = reason.strip_prefix("error: ").unwrap_or(reason);
            return Err(GrammarError::Invalid(format!(
                "{what} is no regular expression that is supported: {reason}"
            )));
        }
    };
    let unfolded = unfolded(&hir);
    if unfolded > MAX_UNFOLDED {
        return Err(GrammarError::Number {
            at: what.to_owned(),
            bound: format!("of at most {MAX_UNFOLDED} parts with all repetitions written out"),
            given: unfolded.to_string(),
        });
    }
    Ok(())
}

/// How many parts there are when bounded repetitions are written out.
fn unfolded(hir: &Hir) -> u64 {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 0,
        HirKind::Literal(literal) => literal.0.len() as u64,
        HirKind::Class(_) => 1,
        HirKind::Capture(capture) => unfolded(&capture.sub),
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min).max(1);
            unfolded(&repetition.sub).saturating_mul(u64::from(times))
        }
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts
            .iter()
            .fold(0, |sum, part| sum.saturating_add(unfolded(part))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(schema: &Value) -> String {
        prepare(schema).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_enforced_is_refused_with_its_place() {
        for (keyword, _) in REFUSED {
            let schema = json!({"properties": {"a/b": {"items": {keyword: true}}}});
            let message = refusal(&schema);
            assert!(message.contains(&format!("`{keyword}`")), "{message}");
            assert!(message.contains("`#/properties/a~1b/items`"), "{message}");
        }
    }

    #[test]
    fn properties_may_be_called_like_keywords() {
        let names: Map<String, Value> = REFUSED
            .iter()
            .map(|(keyword, _)| ((*keyword).to_owned(), json!({"type": "null"})))
            .collect();
        prepare(&json!({"properties": names, "const": {"not": 1}, "uniqueItems": false})).unwrap();
    }

    #[test]
    fn other_documents_are_not_looked_up() {
        for target in ["http://127.0.0.1/a", "file:///etc/passwd", "other.json#/a"] {
            let message = refusal(&json!({"properties": {"a": {"$ref": target}}}));
            assert!(message.contains("`$ref`"), "{message}");
        }
    }

    #[test]
    fn counts_are_bounded() {
        for keyword in COUNTS {
            prepare(&json!({keyword: MAX_REPEAT})).unwrap();
            for bad in [json!(MAX_REPEAT + 1), json!(-1), json!(1.5), json!(1e300)] {
                let message = refusal(&json!({"items": {keyword: bad}}));
                assert!(
                    message.contains(&format!("`#/items/{keyword}`")),
                    "{message}"
                );
                assert!(message.contains(&bad.to_string()), "{message}");
            }
        }
    }

    #[test]
    fn multiples_are_bounded_all_together() {
        for good in [json!(7), json!(0.01), json!(2.50), json!(10_000)] {
            prepare(&json!({"items": {"multipleOf": good}, "multipleOf": good})).unwrap();
        }
        for bad in [
            json!(0),
            json!(-2),
            json!(10_001),
            json!(1e-9),
            json!(1e300),
        ] {
            assert!(
                refusal(&json!({"multipleOf": bad})).contains("`#/multipleOf`"),
                "{bad}"
            );
        }
        let both = json!({"allOf": [{"multipleOf": 101}, {"multipleOf": 103}]});
        assert!(refusal(&both).contains("`#/allOf/1/multipleOf`"));
    }

    #[test]
    fn repetitions_within_repetitions_are_multiplied() {
        let pattern = json!({"pattern": "^((a{50}){50}){50}$"});
        assert!(refusal(&pattern).contains("125000"));
        prepare(&json!({"pattern": "^[a-z]{3,40}(-[0-9]{2}){0,9}$"})).unwrap();
        assert!(refusal(&json!({"pattern": "(?=a)b"})).contains("#/pattern"));
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth| (0..depth).fold(json!({}), |inner, _| json!({"items": inner}));
        prepare(&nested(MAX_NESTING)).unwrap();
        assert!(refusal(&nested(2 * MAX_NESTING + 1)).contains("64 levels"));
    }
}
