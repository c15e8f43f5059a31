//! One message of a conversation.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::reader::{Fields, out_of_range};
use crate::unsupported::{self, MESSAGE_FIELDS};
use crate::{MessageContent, PastCall, RequestError, tools};

/// Most of an attribute under `labels`.
const MAX_LABEL: u8 = 9;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Who runs the conversation. `developer` is read as this.
    System,
    /// Who asks.
    User,
    /// The model.
    Assistant,
    /// What a tool answered. `function` is read as this.
    Tool,
}

impl Role {
    /// The name under which chat templates know it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        match name {
            "system" | "developer" => Some(Self::System),
            "user" => Some(Self::User),
            "assistant" => Some(Self::Assistant),
            "tool" | "function" => Some(Self::Tool),
            _ => None,
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What they say and show. May be null for `assistant`.
    pub content: MessageContent,
    /// How an assistant's message was or is to be: attributes such as `helpfulness`, each from 0
    /// to 9. NeVA's alone; see the hosted API's `labels`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, u8>,
    /// What an assistant's message calls. A single call may stand in `function_call` in its place,
    /// without an id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub tool_calls: Vec<PastCall>,
    /// Id of the call that a message of `tool` answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Name of the function, in a message of `tool`. Ignored in others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Message {
    pub(crate) fn read(value: Value, path: &str) -> Result<Self, RequestError> {
        let mut fields = Fields::new(value, path.to_owned())?;
        let name = fields
            .string("role")?
            .ok_or_else(|| fields.missing("role"))?;
        let role = Role::from_name(&name).ok_or_else(|| {
            out_of_range(
                fields.at("role"),
                "one of `system`, `developer`, `user`, `assistant`, `tool` or `function`",
                &Value::from(name),
            )
        })?;
        let content = MessageContent::read(fields.take("content"), role, path)?;
        let labels = labels(fields.take("labels"), role, &fields.at("labels"))?;
        let tool_calls = tools::read_calls(&mut fields)?;
        if !tool_calls.is_empty() && role != Role::Assistant {
            return Err(RequestError::Conflict {
                field: fields.at("tool_calls"),
                problem: "must be absent: only messages of `assistant` call tools".into(),
            });
        }
        let (tool_call_id, name) = match role {
            Role::Tool => (fields.string("tool_call_id")?, fields.string("name")?),
            _ => (None, None),
        };
        unsupported::check(&fields, MESSAGE_FIELDS)?;
        Ok(Self {
            role,
            content,
            labels,
            tool_calls,
            tool_call_id,
            name,
        })
    }
}

/// Reads `labels`, which stood at `path`.
fn labels(
    value: Option<Value>,
    role: Role,
    path: &str,
) -> Result<BTreeMap<String, u8>, RequestError> {
    let given = match value {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(given)) if role == Role::Assistant => given,
        Some(Value::Object(given)) => {
            let bound = "absent: only messages of `assistant` have labels";
            return Err(out_of_range(path.to_owned(), bound, &Value::Object(given)));
        }
        Some(other) => return Err(out_of_range(path.to_owned(), "an object", &other)),
    };
    given
        .into_iter()
        .map(|(name, value)| {
            let level = value.as_u64().and_then(|level| u8::try_from(level).ok());
            match level {
                Some(level @ 0..=MAX_LABEL) => Ok((name, level)),
                _ => Err(out_of_range(
                    format!("{path}.{name}"),
                    "an integer from 0 to 9",
                    &value,
                )),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Message, RequestError> {
        Message::read(value, "messages[0]")
    }

    #[test]
    fn every_role_is_read() {
        for (name, role) in [
            ("system", Role::System),
            ("developer", Role::System),
            ("user", Role::User),
            ("assistant", Role::Assistant),
            ("tool", Role::Tool),
            ("function", Role::Tool),
        ] {
            let message = read(json!({"role": name, "content": "x", "name": "n"})).unwrap();
            assert_eq!(message.role, role);
        }
    }

    #[test]
    fn unknown_roles_are_named_with_their_value() {
        let error = read(json!({"role": "wizard", "content": "x"})).unwrap_err();
        assert_eq!(error.param(), Some("messages[0].role"));
        assert!(error.to_string().ends_with("got \"wizard\""), "{error}");
    }

    #[test]
    fn labels_are_digits_of_an_assistants_message() {
        let labelled = |role: &str, labels: Value| {
            read(json!({"role": role, "content": "x", "labels": labels}))
        };
        let labels = labelled("assistant", json!({"humor": 0, "quality": 9}))
            .unwrap()
            .labels;
        assert_eq!(
            labels.into_iter().collect::<Vec<_>>(),
            [("humor".into(), 0), ("quality".into(), 9)]
        );
        assert!(labelled("user", Value::Null).unwrap().labels.is_empty());
        for (role, labels, field) in [
            (
                "assistant",
                json!({"quality": 10}),
                "messages[0].labels.quality",
            ),
            (
                "assistant",
                json!({"quality": -1}),
                "messages[0].labels.quality",
            ),
            (
                "assistant",
                json!({"quality": 1.5}),
                "messages[0].labels.quality",
            ),
            ("assistant", json!("quality:4"), "messages[0].labels"),
            ("user", json!({"quality": 1}), "messages[0].labels"),
        ] {
            let error = labelled(role, labels).unwrap_err();
            assert_eq!(error.param(), Some(field), "{error}");
        }
    }

    #[test]
    fn only_assistants_may_be_silent() {
        assert!(read(json!({"role": "assistant", "content": null, "tool_calls": []})).is_ok());
        let error = read(json!({"role": "user"})).unwrap_err();
        assert_eq!(error.to_string(), "`messages[0].content` is required");
    }

    #[test]
    fn calls_and_their_results_are_read() {
        let call = json!({"id": "c1", "type": "function",
            "function": {"name": "look", "arguments": "{}"}});
        let calling = json!({"role": "assistant", "content": null, "tool_calls": [call]});
        assert_eq!(read(calling).unwrap().tool_calls[0].function.name, "look");
        let result = json!({"role": "tool", "content": "a cat", "tool_call_id": "c1"});
        assert_eq!(read(result).unwrap().tool_call_id.as_deref(), Some("c1"));

        for (message, field) in [
            (
                json!({"role": "user", "content": "x", "tool_calls": [call]}),
                "messages[0].tool_calls",
            ),
            (
                json!({"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]}),
                "messages[0].tool_calls[0].function",
            ),
            (
                json!({"role": "tool", "content": "x", "tool_call_id": 7}),
                "messages[0].tool_call_id",
            ),
        ] {
            assert_eq!(read(message).unwrap_err().param(), Some(field));
        }
    }
}
