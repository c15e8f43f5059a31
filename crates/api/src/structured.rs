//! What a request says its answer must be.
//!
//! There are four generations of it: OpenAI's `response_format`, vLLM's `guided_*`, the same in
//! NIM's `nvext`, and vLLM's `structured_outputs`. All say one of five things ([`Constraint`]),
//! and a request may say one thing once.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::RequestError;
use crate::reader::{Fields, wrong_type};
use crate::unsupported::{self, Unsupported};

/// What an answer must be, with the field that says so.
#[derive(Debug, Clone, PartialEq)]
pub struct Constraint {
    /// Path of the field, for error messages.
    pub field: String,
    /// What it says.
    pub kind: ConstraintKind,
}

/// What an answer must be.
#[derive(Debug, Clone, PartialEq)]
pub enum ConstraintKind {
    /// Any JSON object.
    JsonObject,
    /// A JSON document that this schema allows.
    JsonSchema(Value),
    /// A text that this regular expression matches as a whole.
    Regex(String),
    /// One of these strings.
    Choice(Vec<String>),
    /// A text of this grammar.
    Grammar(String),
}

/// OpenAI's form.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Anything.
    Text,
    /// Any JSON object.
    JsonObject,
    /// A JSON document.
    JsonSchema {
        /// What it must be like.
        json_schema: JsonSchemaFormat,
    },
}

/// A JSON schema with a name.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct JsonSchemaFormat {
    /// What to call it. Has no effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is for. Has no effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The schema.
    #[schema(value_type = Object)]
    pub schema: Value,
    /// Has no effect: the answer follows the schema in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// vLLM's form; one of its fields.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct StructuredOutputs {
    /// See `guided_json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    pub json: Option<Value>,
    /// See `guided_regex`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// See `guided_choice`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice: Option<Vec<String>>,
    /// See `guided_grammar`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grammar: Option<String>,
    /// Whether the answer must be a JSON object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json_object: Option<bool>,
}

/// Fields of `structured_outputs` that are refused where they matter.
const STRUCTURED_FIELDS: &[Unsupported] = &[
    unsupported::off("disable_additional_properties"),
    unsupported::off("disable_any_whitespace"),
    unsupported::null_only("structural_tag"),
    unsupported::null_only("whitespace_pattern"),
];

/// The `guided_*` fields of a request, or of its `nvext`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Guided {
    pub(crate) json: Option<Value>,
    pub(crate) regex: Option<String>,
    pub(crate) choice: Option<Vec<String>>,
    pub(crate) grammar: Option<String>,
}

impl Guided {
    /// Takes them, and what goes with them.
    pub(crate) fn read(fields: &mut Fields) -> Result<Self, RequestError> {
        let guided = Self {
            json: read_schema(fields, "guided_json")?,
            regex: fields.string("guided_regex")?,
            choice: read_choice(fields, "guided_choice")?,
            grammar: fields.string("guided_grammar")?,
        };
        // There is one backend, whatever it is called.
        fields.string("guided_decoding_backend")?;
        if let Some(pattern) = fields.string("guided_whitespace_pattern")?
            && guided.json.is_some()
        {
            return Err(RequestError::Unsupported {
                field: fields.at("guided_whitespace_pattern"),
                neutral: "null",
                value: crate::reader::show(&Value::from(pattern)),
            });
        }
        Ok(guided)
    }

    /// What they say, in `path`.
    pub(crate) fn constraints(&self, path: &str) -> impl Iterator<Item = Constraint> {
        let found = [
            (
                "guided_json",
                self.json.clone().map(ConstraintKind::JsonSchema),
            ),
            (
                "guided_regex",
                self.regex.clone().map(ConstraintKind::Regex),
            ),
            (
                "guided_choice",
                self.choice.clone().map(ConstraintKind::Choice),
            ),
            (
                "guided_grammar",
                self.grammar.clone().map(ConstraintKind::Grammar),
            ),
        ];
        named(path, found)
    }
}

fn named<const N: usize>(
    path: &str,
    found: [(&str, Option<ConstraintKind>); N],
) -> impl Iterator<Item = Constraint> {
    let named = found.map(|(name, kind)| {
        let field = format!("{path}{name}");
        kind.map(|kind| Constraint { field, kind })
    });
    named.into_iter().flatten()
}

impl ResponseFormat {
    pub(crate) fn read(fields: &mut Fields) -> Result<Option<Self>, RequestError> {
        let Some(value) = fields.take("response_format") else {
            return Ok(None);
        };
        let mut fields = Fields::new(value, fields.at("response_format"))?;
        let kind = fields
            .string("type")?
            .ok_or_else(|| fields.missing("type"))?;
        let format = match kind.as_str() {
            "text" => Self::Text,
            "json_object" => Self::JsonObject,
            "json_schema" => {
                let value = fields
                    .take("json_schema")
                    .ok_or_else(|| fields.missing("json_schema"))?;
                let mut fields = Fields::new(value, fields.at("json_schema"))?;
                Self::JsonSchema {
                    json_schema: JsonSchemaFormat {
                        name: fields.string("name")?,
                        description: fields.string("description")?,
                        schema: fields
                            .object("schema")?
                            .map(Value::Object)
                            .ok_or_else(|| fields.missing("schema"))?,
                        strict: fields.boolean("strict")?,
                    },
                }
            }
            _ => {
                return Err(RequestError::Value {
                    field: fields.at("type"),
                    bound: "`text`, `json_object` or `json_schema`".into(),
                    value: crate::reader::show(&Value::from(kind)),
                });
            }
        };
        Ok(Some(format))
    }

    pub(crate) fn constraint(&self) -> Option<Constraint> {
        let (field, kind) = match self {
            Self::Text => return None,
            Self::JsonObject => ("response_format", ConstraintKind::JsonObject),
            Self::JsonSchema { json_schema } => (
                "response_format.json_schema.schema",
                ConstraintKind::JsonSchema(json_schema.schema.clone()),
            ),
        };
        Some(Constraint {
            field: field.to_owned(),
            kind,
        })
    }
}

impl StructuredOutputs {
    pub(crate) fn read(fields: &mut Fields) -> Result<Option<Self>, RequestError> {
        let Some(value) = fields.take("structured_outputs") else {
            return Ok(None);
        };
        let mut fields = Fields::new(value, fields.at("structured_outputs"))?;
        let outputs = Self {
            json: read_schema(&mut fields, "json")?,
            regex: fields.string("regex")?,
            choice: read_choice(&mut fields, "choice")?,
            grammar: fields.string("grammar")?,
            json_object: fields.boolean("json_object")?,
        };
        unsupported::check(&fields, STRUCTURED_FIELDS)?;
        Ok(Some(outputs))
    }

    pub(crate) fn constraints(&self) -> impl Iterator<Item = Constraint> {
        let object = self.json_object == Some(true);
        let found = [
            ("json", self.json.clone().map(ConstraintKind::JsonSchema)),
            ("regex", self.regex.clone().map(ConstraintKind::Regex)),
            ("choice", self.choice.clone().map(ConstraintKind::Choice)),
            ("grammar", self.grammar.clone().map(ConstraintKind::Grammar)),
            ("json_object", object.then_some(ConstraintKind::JsonObject)),
        ];
        named("structured_outputs.", found)
    }
}

/// A schema, as an object or as JSON in a string.
fn read_schema(fields: &mut Fields, name: &str) -> Result<Option<Value>, RequestError> {
    let expected = "a JSON schema: an object, or JSON in a string";
    match fields.take(name) {
        None => Ok(None),
        Some(Value::Object(schema)) => Ok(Some(Value::Object(schema))),
        Some(Value::String(text)) => match serde_json::from_str::<Map<String, Value>>(&text) {
            Ok(schema) => Ok(Some(Value::Object(schema))),
            Err(error) => Err(RequestError::Value {
                field: fields.at(name),
                bound: expected.into(),
                value: format!("a string that is not ({error})"),
            }),
        },
        Some(other) => Err(wrong_type(fields.at(name), expected, &other)),
    }
}

fn read_choice(fields: &mut Fields, name: &str) -> Result<Option<Vec<String>>, RequestError> {
    let Some(choices) = fields.array(name)? else {
        return Ok(None);
    };
    choices
        .into_iter()
        .enumerate()
        .map(|(index, choice)| match choice {
            Value::String(choice) => Ok(choice),
            other => Err(wrong_type(
                format!("{}[{index}]", fields.at(name)),
                "a string",
                &other,
            )),
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

/// The one thing that is said.
pub(crate) fn only(
    constraints: impl IntoIterator<Item = Constraint>,
) -> Result<Option<Constraint>, RequestError> {
    let mut constraints = constraints.into_iter();
    let first = constraints.next();
    match (&first, constraints.next()) {
        (Some(first), Some(second)) => Err(RequestError::Conflict {
            field: second.field,
            problem: format!(
                "cannot be given together with `{}`: an answer can be held to one of them",
                first.field
            ),
        }),
        _ => Ok(first),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ChatRequest;

    fn constraint(extra: &Value) -> Option<Constraint> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        let fields = body.as_object_mut().unwrap();
        fields.extend(extra.as_object().unwrap().clone());
        ChatRequest::from_value(body).unwrap().constraint()
    }

    #[test]
    fn every_form_says_the_same() {
        use ConstraintKind::{Choice, Grammar, JsonObject, JsonSchema, Regex};
        let schema = json!({"type": "null"});
        let text = schema.to_string();
        let is_schema = JsonSchema(schema.clone());
        let is_choice = Choice(vec!["a".into(), "b".into()]);
        for (extra, field, kind) in [
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}),
                "response_format.json_schema.schema",
                &is_schema,
            ),
            (
                json!({"response_format": {"type": "json_object"}}),
                "response_format",
                &JsonObject,
            ),
            (json!({"guided_json": schema}), "guided_json", &is_schema),
            (json!({"guided_json": text}), "guided_json", &is_schema),
            (
                json!({"nvext": {"guided_json": text}}),
                "nvext.guided_json",
                &is_schema,
            ),
            (
                json!({"structured_outputs": {"json": text}}),
                "structured_outputs.json",
                &is_schema,
            ),
            (
                json!({"guided_choice": ["a", "b"]}),
                "guided_choice",
                &is_choice,
            ),
            (
                json!({"structured_outputs": {"choice": ["a", "b"], "disable_any_whitespace": false}}),
                "structured_outputs.choice",
                &is_choice,
            ),
            (
                json!({"nvext": {"guided_regex": "a"}}),
                "nvext.guided_regex",
                &Regex("a".into()),
            ),
            (
                json!({"guided_grammar": "g"}),
                "guided_grammar",
                &Grammar("g".into()),
            ),
            (
                json!({"structured_outputs": {"json_object": true}}),
                "structured_outputs.json_object",
                &JsonObject,
            ),
        ] {
            let found = constraint(&extra).unwrap();
            assert_eq!(
                (found.field.as_str(), &found.kind),
                (field, kind),
                "{extra}"
            );
        }
    }

    #[test]
    fn what_asks_for_nothing_is_no_constraint() {
        for extra in [
            json!({"response_format": {"type": "text"}}),
            json!({"structured_outputs": {"json_object": false}}),
            json!({"guided_decoding_backend": "auto", "guided_whitespace_pattern": " ?"}),
        ] {
            assert_eq!(constraint(&extra), None, "{extra}");
        }
    }
}
