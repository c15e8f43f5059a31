//! What ends an answer, beside the model's own end of it.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::RequestError;
use crate::reader::{Fields, integer, wrong_type};
use crate::request::MAX_COUNT;

/// Most stop strings. OpenAI allows 4, vLLM sets no bound.
pub const MAX_STOPS: usize = 16;
/// Longest stop string in bytes. That much of an answer may be held back.
pub const MAX_STOP_BYTES: usize = 1024;
/// Most extra stop tokens.
pub const MAX_STOP_TOKEN_IDS: usize = 128;

/// One stop string, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum StopSequences {
    /// One.
    One(String),
    /// At most 16.
    Many(Vec<String>),
}

/// Reads `stop`.
pub(crate) fn read(fields: &mut Fields) -> Result<Option<StopSequences>, RequestError> {
    match fields.take("stop") {
        None => Ok(None),
        Some(Value::Array(stops)) => {
            at_most("stop", "strings", MAX_STOPS, stops.len())?;
            stops
                .into_iter()
                .enumerate()
                .map(|(index, stop)| stop_string(stop, format!("stop[{index}]")))
                .collect::<Result<_, _>>()
                .map(|stops| Some(StopSequences::Many(stops)))
        }
        Some(stop @ Value::String(_)) => {
            stop_string(stop, "stop".to_owned()).map(|stop| Some(StopSequences::One(stop)))
        }
        Some(other) => Err(wrong_type(
            "stop".to_owned(),
            "a string or an array of strings",
            &other,
        )),
    }
}

fn stop_string(value: Value, field: String) -> Result<String, RequestError> {
    match value {
        Value::String(stop) if (1..=MAX_STOP_BYTES).contains(&stop.len()) => Ok(stop),
        Value::String(stop) => Err(RequestError::Value {
            field,
            bound: format!("a string of 1 to {MAX_STOP_BYTES} bytes"),
            value: format!("{} bytes", stop.len()),
        }),
        other => Err(wrong_type(field, "a string", &other)),
    }
}

/// Reads `stop_token_ids`. Whether the model has these tokens is not known here.
pub(crate) fn token_ids(fields: &mut Fields) -> Result<Vec<u32>, RequestError> {
    let ids = fields.array("stop_token_ids")?.unwrap_or_default();
    at_most("stop_token_ids", "tokens", MAX_STOP_TOKEN_IDS, ids.len())?;
    ids.iter()
        .enumerate()
        .map(|(index, id)| integer(&format!("stop_token_ids[{index}]"), id, 0..=MAX_COUNT))
        .collect()
}

/// Refuses more of something than there may be.
pub(crate) fn at_most(
    field: &str,
    what: &str,
    most: usize,
    given: usize,
) -> Result<(), RequestError> {
    if given <= most {
        return Ok(());
    }
    Err(RequestError::Value {
        field: field.to_owned(),
        bound: format!("at most {most} {what}"),
        value: given.to_string(),
    })
}
