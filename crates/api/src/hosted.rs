//! The dialect of NVIDIA's hosted vision models, `POST /v1/vlm/{org}/{model}`.
//!
//! It is the chat dialect with the model in the path. Answers say less: they have neither
//! `object` nor `created` nor `model`. Kosmos-2 has two fields of its own, which become arguments
//! of its template: `task` and `response_mode`.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::reader::{out_of_range, wrong_type};
use crate::{
    ChatChunk, ChatCompletion, ChatRequest, ChoiceLogprobs, Delta, Entity, FinishReason,
    FunctionCall, RequestError, ToolCall, Usage,
};

/// What a field of Kosmos-2 may be.
struct Choices {
    name: &'static str,
    values: [&'static str; 2],
    bound: &'static str,
}

/// Fields of Kosmos-2 alone.
const KOSMOS: [Choices; 2] = [
    Choices {
        name: "task",
        values: ["VQA", "image captioning"],
        bound: "`VQA` or `image captioning`",
    },
    Choices {
        name: "response_mode",
        values: ["brief", "detailed"],
        bound: "`brief` or `detailed`",
    },
];

/// A request in the hosted dialect.
#[derive(Debug, Clone, PartialEq)]
pub struct HostedRequest {
    /// What is asked. `model` is the path's where the body has none.
    pub chat: ChatRequest,
    /// The first field that the body has of Kosmos-2's own. Other models have to refuse it.
    pub kosmos_field: Option<&'static str>,
}

impl HostedRequest {
    /// Reads and checks the body of a request for `model`.
    ///
    /// # Errors
    /// As [`ChatRequest::from_slice`], and for fields of Kosmos-2 that have other values than
    /// theirs.
    pub fn from_slice(body: &[u8], model: String) -> Result<Self, RequestError> {
        let mut value: Value = serde_json::from_slice(body)
            .map_err(|error| RequestError::Syntax(error.to_string()))?;
        let mut arguments = Map::new();
        if let Value::Object(fields) = &mut value {
            name_model(fields, model);
            for choices in &KOSMOS {
                arguments.extend(choices.take(fields)?);
            }
        }
        let mut chat = ChatRequest::from_value(value)?;
        let given = |choices: &&Choices| arguments.contains_key(choices.name);
        let kosmos_field = KOSMOS.iter().find(given).map(|choices| choices.name);
        chat.chat_template_kwargs.extend(arguments);
        Ok(Self { chat, kosmos_field })
    }
}

/// Names the model that the path names, unless the body does.
fn name_model(fields: &mut Map<String, Value>, model: String) {
    if fields.get("model").is_none_or(Value::is_null) {
        fields.insert("model".to_owned(), model.into());
    }
}

impl ChatRequest {
    /// Reads and checks a request body for a model that the path names; the body may name it, too.
    ///
    /// # Errors
    /// As [`Self::from_slice`].
    pub fn from_slice_for(body: &[u8], model: String) -> Result<Self, RequestError> {
        let mut value: Value = serde_json::from_slice(body)
            .map_err(|error| RequestError::Syntax(error.to_string()))?;
        if let Value::Object(fields) = &mut value {
            name_model(fields, model);
        }
        Self::from_value(value)
    }
}

impl Choices {
    fn take(
        &self,
        fields: &mut Map<String, Value>,
    ) -> Result<Option<(String, Value)>, RequestError> {
        match fields.shift_remove(self.name) {
            None | Some(Value::Null) => Ok(None),
            Some(value @ Value::String(_)) if self.values.iter().any(|known| value == *known) => {
                Ok(Some((self.name.to_owned(), value)))
            }
            Some(value @ Value::String(_)) => Err(out_of_range(self.name, self.bound, &value)),
            Some(other) => Err(wrong_type(self.name.to_owned(), "a string", &other)),
        }
    }
}

/// A whole answer of the hosted dialect.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HostedCompletion {
    /// See [`crate::completion_id`].
    pub id: String,
    /// As many as `n`.
    pub choices: Vec<HostedChoice>,
    /// Tokens read and written.
    pub usage: Usage,
}

/// One answer of a [`HostedCompletion`].
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HostedChoice {
    /// From 0.
    pub index: u32,
    /// What the model says.
    pub message: HostedMessage,
    /// Why the answer ended.
    pub finish_reason: FinishReason,
    /// If the request asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<ChoiceLogprobs>,
}

/// What the model says.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HostedMessage {
    /// Always `assistant`.
    #[schema(value_type = String)]
    pub role: &'static str,
    /// The text; null where the model says nothing and calls tools.
    pub content: Option<String>,
    /// What the text names in the picture, from Kosmos-2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entities: Option<Vec<Entity>>,
    /// What it calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub tool_calls: Vec<ToolCall>,
    /// What it calls in their place, where the request has `functions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionCall>,
}

/// A piece of a streamed answer of the hosted dialect.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HostedChunk {
    /// The same in all chunks.
    pub id: String,
    /// One, or none in the chunk that carries the usage at the end.
    pub choices: Vec<HostedChunkChoice>,
    /// As `stream_options` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// What a [`HostedChunk`] adds to one answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HostedChunkChoice {
    /// Of the answer, from 0.
    pub index: u32,
    /// The addition.
    pub delta: Delta,
    /// In the answer's last chunk only.
    pub finish_reason: Option<FinishReason>,
    /// Of the tokens since the last chunk, if the request asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<ChoiceLogprobs>,
}

impl From<ChatCompletion> for HostedCompletion {
    fn from(answer: ChatCompletion) -> Self {
        let choice = |choice: crate::Choice| HostedChoice {
            index: choice.index,
            message: HostedMessage {
                role: choice.message.role,
                content: choice.message.content,
                entities: choice.message.entities,
                tool_calls: choice.message.tool_calls,
                function_call: choice.message.function_call,
            },
            finish_reason: choice.finish_reason,
            logprobs: choice.logprobs,
        };
        Self {
            id: answer.id,
            choices: answer.choices.into_iter().map(choice).collect(),
            usage: answer.usage,
        }
    }
}

impl From<ChatChunk> for HostedChunk {
    fn from(chunk: ChatChunk) -> Self {
        let choice = |choice: crate::ChunkChoice| HostedChunkChoice {
            index: choice.index,
            delta: choice.delta,
            finish_reason: choice.finish_reason,
            logprobs: choice.logprobs,
        };
        Self {
            id: chunk.id,
            choices: chunk.choices.into_iter().map(choice).collect(),
            usage: chunk.usage,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{AnswerMessage, Choice, ChunkChoice, Null};

    fn read(extra: &Value) -> Result<HostedRequest, RequestError> {
        let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
        let fields = extra.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(fields);
        HostedRequest::from_slice(body.to_string().as_bytes(), "org/name".into())
    }

    #[test]
    fn the_path_names_the_model_where_the_body_does_not() {
        for (extra, name) in [
            (json!({}), "org/name"),
            (json!({"model": null}), "org/name"),
            (json!({"model": "alias"}), "alias"),
        ] {
            assert_eq!(read(&extra).unwrap().chat.model, name, "{extra}");
        }
        let body = json!({"messages": [{"role": "user", "content": "Hi"}]}).to_string();
        let chat = ChatRequest::from_slice_for(body.as_bytes(), "org/name".into());
        assert_eq!(chat.unwrap().model, "org/name");
        assert_eq!(
            read(&json!({"model": 1})).unwrap_err().param(),
            Some("model")
        );
        assert!(HostedRequest::from_slice(b"[]", "m".into()).is_err());
    }

    #[test]
    fn fields_of_kosmos_become_template_arguments() {
        let request = read(&json!({"task": "VQA", "response_mode": "brief"})).unwrap();
        assert_eq!(request.kosmos_field, Some("task"));
        let arguments = &request.chat.chat_template_kwargs;
        assert_eq!(arguments["task"], "VQA");
        assert_eq!(arguments["response_mode"], "brief");
        let request = read(&json!({"task": null, "response_mode": "detailed"})).unwrap();
        assert_eq!(request.kosmos_field, Some("response_mode"));
        assert_eq!(read(&json!({})).unwrap().kosmos_field, None);
        for (extra, field, code) in [
            (json!({"task": "vqa"}), "task", "invalid_value"),
            (json!({"task": 1}), "task", "invalid_type"),
            (
                json!({"response_mode": ""}),
                "response_mode",
                "invalid_value",
            ),
        ] {
            let error = read(&extra).unwrap_err();
            assert_eq!((error.param(), error.code()), (Some(field), code));
        }
    }

    #[test]
    fn answers_say_no_more_than_the_hosted_ones() {
        let mut message = AnswerMessage::text("a snowman".into());
        message.entities = Some(vec![Entity::new("a snowman".into(), (0, 9), Vec::new())]);
        let answer = ChatCompletion {
            id: "i".into(),
            object: ChatCompletion::OBJECT,
            created: 1,
            model: "m".into(),
            choices: vec![Choice {
                index: 0,
                message,
                logprobs: None,
                finish_reason: FinishReason::Stop,
                stop_reason: None,
            }],
            usage: Usage::new(2, 1),
            prompt_logprobs: None,
            kv_transfer_params: Null,
        };
        assert_eq!(
            serde_json::to_value(HostedCompletion::from(answer)).unwrap(),
            json!({"id": "i", "choices": [{"index": 0, "message": {"role": "assistant",
                "content": "a snowman", "entities": [{"phrase": "a snowman",
                    "substring": [0, 8], "bboxes": []}]}, "finish_reason": "stop"}],
                "usage": Usage::new(2, 1)})
        );
        let chunk = ChatChunk {
            id: "i".into(),
            object: ChatChunk::OBJECT,
            created: 1,
            model: "m".into(),
            choices: vec![ChunkChoice {
                index: 0,
                delta: Delta::text("x".into()),
                logprobs: None,
                finish_reason: None,
                stop_reason: None,
            }],
            usage: None,
        };
        assert_eq!(
            serde_json::to_value(HostedChunk::from(chunk)).unwrap(),
            json!({"id": "i", "choices": [
                {"index": 0, "delta": {"content": "x"}, "finish_reason": null}]})
        );
    }
}
