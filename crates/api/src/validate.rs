//! Checks that go beyond one field's own type and range.

use serde_json::{Map, Value};

use crate::reader::{Fields, integer, wrong_type};
use crate::{ChatRequest, RequestError, beams};

/// Variables that the server itself hands to a chat template.
///
/// Who could set these could put words into a prompt that look like the template's own.
const RESERVED_TEMPLATE_KWARGS: [&str; 12] = [
    "add_generation_prompt",
    "bos_token",
    "chat_template",
    "continue_final_message",
    "documents",
    "eos_token",
    "messages",
    "pad_token",
    "tokenize",
    "tools",
    "unk_token",
    "template",
];

/// What a field that has no effect must look like.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Boolean,
    Text,
    Object,
    Integer(i64, i64),
}

/// Fields that cannot change an answer of the models served here: notes of the client, hints to
/// schedulers, and settings for reasoning that these models do not have. They are
/// checked, so that a mistake shows, and then dropped.
const INERT: [(&str, Kind); 14] = [
    ("include_reasoning", Kind::Boolean),
    ("metadata", Kind::Object),
    ("num_frames_per_inference", Kind::Integer(1, 32)),
    ("prompt_cache_key", Kind::Text),
    ("reasoning_budget", Kind::Integer(-1, 32_768)),
    ("reasoning_effort", Kind::Text),
    ("reasoning_format", Kind::Text),
    ("request_id", Kind::Text),
    ("safety_identifier", Kind::Text),
    ("service_tier", Kind::Text),
    ("store", Kind::Boolean),
    ("thinking_token_budget", Kind::Integer(-1, 32_768)),
    ("verbosity", Kind::Text),
    ("prediction", Kind::Object),
];

/// Checks the fields that have no effect.
pub(crate) fn inert_fields(fields: &mut Fields) -> Result<(), RequestError> {
    for (name, kind) in INERT {
        let Some(value) = fields.take(name) else {
            continue;
        };
        let expected = match (kind, &value) {
            (Kind::Boolean, Value::Bool(_))
            | (Kind::Text, Value::String(_))
            | (Kind::Object, Value::Object(_)) => continue,
            (Kind::Integer(min, max), _) => {
                integer::<i64>(name, &value, min..=max)?;
                continue;
            }
            (Kind::Boolean, _) => "true or false",
            (Kind::Text, _) => "a string",
            (Kind::Object, _) => "an object",
        };
        return Err(wrong_type(fields.at(name), expected, &value));
    }
    Ok(())
}

/// Longest `cache_salt` in bytes.
pub(crate) const MAX_CACHE_SALT_BYTES: usize = 256;

/// Reads `cache_salt`.
pub(crate) fn cache_salt(fields: &mut Fields) -> Result<Option<String>, RequestError> {
    match fields.string("cache_salt")? {
        Some(salt) if salt.len() > MAX_CACHE_SALT_BYTES => Err(RequestError::Value {
            field: fields.at("cache_salt"),
            bound: format!("a string of at most {MAX_CACHE_SALT_BYTES} bytes"),
            value: format!("{} bytes", salt.len()),
        }),
        salt => Ok(salt),
    }
}

/// Reads `chat_template_kwargs`.
pub(crate) fn template_kwargs(fields: &mut Fields) -> Result<Map<String, Value>, RequestError> {
    let kwargs = fields.object("chat_template_kwargs")?.unwrap_or_default();
    let reserved = RESERVED_TEMPLATE_KWARGS
        .into_iter()
        .find(|name| kwargs.contains_key(*name));
    match reserved {
        None => Ok(kwargs),
        Some(name) => Err(RequestError::Conflict {
            field: format!("chat_template_kwargs.{name}"),
            problem: "is set by the server".into(),
        }),
    }
}

/// Checks where the prompt is to end.
pub(crate) fn ending(request: &ChatRequest) -> Result<(), RequestError> {
    if !request.continues() {
        return Ok(());
    }
    let conflict = |field: &str, problem: String| {
        Err(RequestError::Conflict {
            field: field.to_owned(),
            problem,
        })
    };
    if request.add_generation_prompt == Some(true) {
        return conflict(
            "continue_final_message",
            "and `add_generation_prompt` cannot both be true: the one goes on in the last message, \
             the other begins the next"
                .into(),
        );
    }
    let Some(last) = request.messages.last() else {
        return Ok(());
    };
    let at = request.messages.len().saturating_sub(1);
    let problem = if !last.tool_calls.is_empty() {
        format!("needs a text to go on from, but `messages[{at}]` calls tools")
    } else if !last.content.ends_with_text() {
        format!("needs a text to go on from, but `messages[{at}].content` ends with a picture")
    } else {
        return Ok(());
    };
    conflict("continue_final_message", problem)
}

/// Checks fields against each other.
pub(crate) fn relations(request: &ChatRequest) -> Result<(), RequestError> {
    let conflict = |field: &str, problem: String| {
        Err(RequestError::Conflict {
            field: field.to_owned(),
            problem,
        })
    };
    if request.top_logprobs.unwrap_or(0) > 0 && request.logprobs != Some(true) {
        return conflict("top_logprobs", "needs `logprobs` to be true".into());
    }
    if request.prompt_logprobs.is_some() && request.stream == Some(true) {
        return conflict(
            "prompt_logprobs",
            "cannot be streamed: `stream` is true".into(),
        );
    }
    if request.stream_options.is_some() && request.stream != Some(true) {
        return conflict("stream_options", "needs `stream` to be true".into());
    }
    if let (Some(min), Some(max)) = (request.min_tokens, request.max_new_tokens())
        && min > max
    {
        let name = request.max_new_tokens_field();
        return conflict(
            "min_tokens",
            format!("must be at most `{name}`, which is {max}, got {min}"),
        );
    }
    beams::check(request)
}
