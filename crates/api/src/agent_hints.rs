//! What an agent tells a server about its requests (`nvext.agent_hints`), as NVIDIA Dynamo's
//! clients send it.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::RequestError;
use crate::nvext::NvExt;
use crate::reader::{Bounds, Fields};
use crate::request::MAX_PRIORITY;

/// Hints, of which `priority` has an effect. The others are checked and left alone: `osl` (tokens
/// of the answer), `iat` (milliseconds to the next request), `latency_sensitivity`, `prefix_id`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct AgentHints {
    /// Larger is more urgent, unlike the `priority` of the request itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1000, maximum = 1000)]
    pub priority: Option<i32>,
}

impl AgentHints {
    pub(crate) fn read(value: Value, path: String) -> Result<Self, RequestError> {
        const ANY: Bounds = Bounds::Closed(0.0, 1e9);
        let mut fields = Fields::new(value, path)?;
        for name in ["osl", "iat", "latency_sensitivity"] {
            fields.number(name, ANY)?;
        }
        fields.string("prefix_id")?;
        Ok(Self {
            priority: fields.integer("priority", -MAX_PRIORITY..=MAX_PRIORITY)?,
        })
    }
}

impl NvExt {
    /// The priority that the hints stand for, smaller being more urgent.
    pub(crate) fn priority(&self) -> Option<i32> {
        let urgency = self.agent_hints.and_then(|hints| hints.priority)?;
        Some(-urgency)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::ChatRequest;

    fn request(more: &serde_json::Value) -> Result<ChatRequest, crate::RequestError> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        ChatRequest::from_value(body)
    }

    #[test]
    fn the_requests_own_priority_wins_over_the_agents_urgency() {
        let hints = json!({"agent_hints": {"priority": 5, "osl": 100, "iat": 2.5,
            "latency_sensitivity": 1, "prefix_id": "p"}});
        for (more, priority) in [
            (json!({}), 0),
            (json!({"priority": 3}), 3),
            (json!({ "nvext": hints }), -5),
            (json!({"priority": 3, "nvext": hints}), 3),
        ] {
            assert_eq!(request(&more).unwrap().priority(), priority, "{more}");
        }
    }

    #[test]
    fn what_is_no_hint_is_refused_by_name() {
        for (hints, field) in [
            (json!({"priority": 1001}), "nvext.agent_hints.priority"),
            (json!({"osl": "many"}), "nvext.agent_hints.osl"),
            (json!({"prefix_id": 7}), "nvext.agent_hints.prefix_id"),
            (json!([]), "nvext.agent_hints"),
        ] {
            let error = request(&json!({"nvext": {"agent_hints": hints}})).unwrap_err();
            assert_eq!(error.param(), Some(field), "{error}");
        }
    }
}
