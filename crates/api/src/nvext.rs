//! NVIDIA's own fields of a request.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::RequestError;
use crate::agent_hints::AgentHints;
use crate::reader::{Bounds, Fields};
use crate::request::MAX_COUNT;
use crate::structured::Guided;

/// NIM 1.x's extensions, each of which is also a field at the top level.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct NvExt {
    /// See the field of the same name at the top level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_eos: Option<bool>,
    /// See the field of the same name at the top level.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0, maximum = 2)]
    pub repetition_penalty: Option<f32>,
    /// See the field of the same name at the top level.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// What an agent tells about its requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_hints: Option<AgentHints>,
    /// See the field of the same name at the top level.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    pub guided_json: Option<Value>,
    /// See the field of the same name at the top level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guided_regex: Option<String>,
    /// See the field of the same name at the top level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guided_choice: Option<Vec<String>>,
    /// See the field of the same name at the top level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guided_grammar: Option<String>,
}

impl NvExt {
    pub(crate) fn read(fields: &mut Fields) -> Result<Option<Self>, RequestError> {
        let Some(value) = fields.take("nvext") else {
            return Ok(None);
        };
        let mut fields = Fields::new(value, fields.at("nvext"))?;
        let hints = fields.take("agent_hints");
        let hints = hints.map(|hints| AgentHints::read(hints, fields.at("agent_hints")));
        let guided = Guided::read(&mut fields)?;
        Ok(Some(Self {
            ignore_eos: fields.boolean("ignore_eos")?,
            repetition_penalty: fields.number("repetition_penalty", Bounds::Above(0.0, 2.0))?,
            top_k: fields.integer("top_k", -1..=MAX_COUNT)?,
            agent_hints: hints.transpose()?,
            guided_json: guided.json,
            guided_regex: guided.regex,
            guided_choice: guided.choice,
            guided_grammar: guided.grammar,
        }))
    }
}
