//! What a response repeats of its request.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::RequestError;
use crate::reader::{Fields, out_of_range, wrong_type};

/// Most entries of `metadata`, as at OpenAI.
pub const MAX_METADATA: usize = 16;
/// Longest key in `metadata` in characters, as at OpenAI.
pub const MAX_METADATA_KEY: usize = 64;
/// Longest value in `metadata` in characters, as at OpenAI.
pub const MAX_METADATA_VALUE: usize = 512;

/// What a response repeats of its request, with defaults where it was silent.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Settings {
    /// The name that the request gave.
    pub model: String,
    /// What stood before the conversation. Not part of what a later response goes on from.
    pub instructions: Option<String>,
    /// Most tokens of the answer, as asked for.
    pub max_output_tokens: Option<u32>,
    /// Always null: there are no tools but the client's.
    #[schema(value_type = Option<u32>)]
    pub max_tool_calls: crate::Null,
    /// The client's notes.
    pub metadata: BTreeMap<String, String>,
    /// Whether the answer may have several calls.
    pub parallel_tool_calls: bool,
    /// The response that this one goes on from.
    pub previous_response_id: Option<String>,
    /// The client's name for prompts that begin alike. Has no effect: all are found.
    pub prompt_cache_key: Option<String>,
    /// Effort and summary, as asked for. Has no effect: no model here thinks.
    #[schema(value_type = Object)]
    pub reasoning: Value,
    /// Whom to tell apart, for the client's own records.
    pub safety_identifier: Option<String>,
    /// Always `default`.
    #[schema(value_type = String)]
    pub service_tier: &'static str,
    /// Whether the response may be asked for later. False for one that is too large to be kept.
    pub store: bool,
    /// Temperature that the answer was drawn with.
    pub temperature: f32,
    /// What the answer had to be.
    #[schema(value_type = Object)]
    pub text: Value,
    /// As given, or `auto`.
    #[schema(value_type = Object)]
    pub tool_choice: Value,
    /// As given.
    #[schema(value_type = Vec<Object>)]
    pub tools: Vec<Value>,
    /// Alternatives per token in `logprobs`.
    pub top_logprobs: u32,
    /// `top_p` that the answer was drawn with.
    pub top_p: f32,
    /// `disabled` where what is too long is refused, `auto` where it loses its beginning.
    #[schema(value_type = String)]
    pub truncation: &'static str,
    /// Who asks, for the client's own records.
    pub user: Option<String>,
    /// Whether it was made without anybody waiting for it.
    pub background: bool,
}

/// Reads `metadata`.
pub(super) fn metadata(fields: &mut Fields) -> Result<BTreeMap<String, String>, RequestError> {
    let path = fields.at("metadata");
    let given = fields.object("metadata")?.unwrap_or_default();
    if given.len() > MAX_METADATA {
        return Err(RequestError::Value {
            field: path,
            bound: format!("at most {MAX_METADATA} entries"),
            value: given.len().to_string(),
        });
    }
    let read = |(key, value): (String, Value)| {
        let shown: String = key.chars().take(MAX_METADATA_KEY).collect();
        let field = format!("{path}.{shown}");
        if shown.len() < key.len() {
            let bound = format!("a key of at most {MAX_METADATA_KEY} characters");
            return Err(out_of_range(field, bound, &key.into()));
        }
        match value {
            Value::String(text) if text.chars().count() <= MAX_METADATA_VALUE => Ok((key, text)),
            Value::String(text) => Err(RequestError::Value {
                field,
                bound: format!("a string of at most {MAX_METADATA_VALUE} characters"),
                value: format!("{} characters", text.chars().count()),
            }),
            other => Err(wrong_type(field, "a string", &other)),
        }
    };
    given.into_iter().map(read).collect()
}

/// Reads `reasoning`, of which nothing has an effect.
pub(super) fn reasoning(fields: &mut Fields) -> Result<Value, RequestError> {
    let path = fields.at("reasoning");
    let given = fields.object("reasoning")?.unwrap_or_else(Map::new);
    let mut given = Fields::new(given.into(), path)?;
    let effort = given.string("effort")?;
    let summary = given.string("summary")?;
    Ok(json!({"effort": effort, "summary": summary}))
}
