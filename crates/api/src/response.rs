//! Answers, whole and in chunks.
//!
//! Field for field what NIM and vLLM send, nulls included: software written against them
//! compares `usage` as a whole and reads `stop_reason` and `reasoning_content`.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{FunctionCall, FunctionDelta, ToolCall, ToolCallDelta, Usage};

/// Smallest log probability that is sent; JSON has no minus infinity. vLLM's value.
const MIN_LOGPROB: f32 = -9999.0;

/// A fresh id for an answer, `chatcmpl-` and 32 hexadecimal digits.
#[must_use]
pub fn completion_id() -> String {
    format!("chatcmpl-{}", Uuid::new_v4().simple())
}

/// A field that clients expect and that is always null here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Null;

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ChatCompletion {
    /// See [`completion_id`].
    pub id: String,
    /// Always `chat.completion`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// The model's name as the request gave it.
    pub model: String,
    /// As many as `n`.
    pub choices: Vec<Choice>,
    /// Tokens read and written.
    pub usage: Usage,
    /// If the request asked for them: for each token of the prompt but the first, which has
    /// null, its own log probability and those of the most probable ones, by token id.
    pub prompt_logprobs: Option<Vec<Option<BTreeMap<u32, PromptLogprob>>>>,
    /// Always null.
    #[schema(value_type = Option<Object>)]
    pub kv_transfer_params: Null,
}

impl ChatCompletion {
    /// Value of `object`.
    pub const OBJECT: &'static str = "chat.completion";
}

/// One answer of a [`ChatCompletion`].
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Choice {
    /// From 0.
    pub index: u32,
    /// What the model says.
    pub message: AnswerMessage,
    /// If the request asked for them.
    pub logprobs: Option<ChoiceLogprobs>,
    /// Why the answer ended.
    pub finish_reason: FinishReason,
    /// The request's own stop string or stop token that ended it.
    pub stop_reason: Option<StopReason>,
}

impl Choice {
    /// The same for a request that speaks of `functions`: with the first call alone.
    #[must_use]
    pub fn in_functions(mut self) -> Self {
        let calls = std::mem::take(&mut self.message.tool_calls);
        self.message.function_call = calls.into_iter().next().map(|call| call.function);
        self.finish_reason = self.finish_reason.in_functions();
        self
    }
}

/// What the model says.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AnswerMessage {
    /// Always `assistant`.
    #[schema(value_type = String)]
    pub role: &'static str,
    /// Always null.
    #[schema(value_type = Option<String>)]
    pub reasoning_content: Null,
    /// The text; null where the model says nothing and calls tools.
    pub content: Option<String>,
    /// What it calls.
    pub tool_calls: Vec<ToolCall>,
    /// What it calls in its place, where the request has `functions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionCall>,
    /// What the text names in the picture, from models that point at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entities: Option<Vec<Entity>>,
}

/// Something that an answer names in the picture, as NIM's Kosmos-2 gives it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Entity {
    /// Its name in the text.
    pub phrase: String,
    /// First and last character of the phrase in the text, counted from 0. Where a place has no
    /// phrase, the last is the one before the first.
    pub substring: [i64; 2],
    /// Where it is: left, top, right and bottom, as shares of the picture's width and height.
    pub bboxes: Vec<[f64; 4]>,
}

impl Entity {
    /// `span` is the phrase's characters, the end exclusive.
    #[must_use]
    pub fn new(phrase: String, span: (i64, i64), bboxes: Vec<[f64; 4]>) -> Self {
        let start = span.0.max(0);
        Self {
            phrase,
            substring: [start, span.1.max(start) - 1],
            bboxes,
        }
    }
}

impl AnswerMessage {
    /// An answer in words.
    #[must_use]
    pub fn text(content: String) -> Self {
        Self {
            role: "assistant",
            reasoning_content: Null,
            content: Some(content),
            tool_calls: Vec::new(),
            function_call: None,
            entities: None,
        }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop string or stop token of the request.
    Stop,
    /// `max_tokens` are written.
    Length,
    /// The model ended it, and calls tools.
    ToolCalls,
    /// The same where the request has `functions`.
    FunctionCall,
}

impl FinishReason {
    /// The same for a request that speaks of `functions`.
    #[must_use]
    pub fn in_functions(self) -> Self {
        match self {
            Self::ToolCalls => Self::FunctionCall,
            other => other,
        }
    }

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::FunctionCall => "function_call",
        }
    }
}

/// What of the request ended an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum StopReason {
    /// One of `stop`.
    Text(String),
    /// One of `stop_token_ids`.
    Token(u32),
}

/// Log probabilities of an answer, or of a piece of it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ChoiceLogprobs {
    /// One entry per token.
    pub content: Vec<TokenLogprob>,
}

/// The log probability of one token, with its rivals.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TokenLogprob {
    /// The token as text; U+FFFD stands for bytes that are no whole character.
    pub token: String,
    /// Natural logarithm of its probability before temperature and penalties.
    pub logprob: f32,
    /// The token's text in UTF-8.
    pub bytes: Vec<u8>,
    /// The most probable tokens at this place, best first.
    pub top_logprobs: Vec<TopLogprob>,
}

/// A rival of a token.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TopLogprob {
    /// The token as text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The token's text in UTF-8.
    pub bytes: Vec<u8>,
}

impl TopLogprob {
    /// A token with its log probability, which is bounded to what JSON can say.
    #[must_use]
    pub fn new(token: String, logprob: f32) -> Self {
        Self {
            bytes: token.clone().into_bytes(),
            token,
            // `max` also turns NaN into the bound.
            logprob: logprob.max(MIN_LOGPROB),
        }
    }
}

impl TokenLogprob {
    /// The chosen token beside the best ones.
    #[must_use]
    pub fn new(chosen: TopLogprob, top_logprobs: Vec<TopLogprob>) -> Self {
        Self {
            token: chosen.token,
            logprob: chosen.logprob,
            bytes: chosen.bytes,
            top_logprobs,
        }
    }
}

/// How probable a token was at its place in the prompt, as vLLM tells it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PromptLogprob {
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its place among all tokens by probability, from 1.
    pub rank: usize,
    /// The token as text.
    pub decoded_token: String,
}

impl PromptLogprob {
    /// A token with its log probability, which is bounded to what JSON can say.
    #[must_use]
    pub fn new(decoded_token: String, logprob: f32, rank: usize) -> Self {
        Self {
            // `max` also turns NaN into the bound.
            logprob: logprob.max(MIN_LOGPROB),
            rank,
            decoded_token,
        }
    }
}

/// A piece of a streamed answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ChatChunk {
    /// The same in all chunks of an answer.
    pub id: String,
    /// Always `chat.completion.chunk`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// Seconds since the Unix epoch, the same in all chunks.
    pub created: u64,
    /// The model's name as the request gave it.
    pub model: String,
    /// One, or none in the chunk that carries the usage at the end.
    pub choices: Vec<ChunkChoice>,
    /// As `stream_options` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

impl ChatChunk {
    /// Value of `object`.
    pub const OBJECT: &'static str = "chat.completion.chunk";
}

/// What a chunk adds to one answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ChunkChoice {
    /// Of the answer, from 0.
    pub index: u32,
    /// The addition.
    pub delta: Delta,
    /// Of the tokens since the last chunk, if the request asked for them.
    pub logprobs: Option<ChoiceLogprobs>,
    /// In the answer's last chunk only.
    pub finish_reason: Option<FinishReason>,
    /// In the answer's last chunk, if something of the request ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
}

impl ChunkChoice {
    /// The same for a request that speaks of `functions`: with what is added to the first call.
    #[must_use]
    pub fn in_functions(mut self) -> Self {
        let calls = std::mem::take(&mut self.delta.tool_calls);
        let first = calls.into_iter().find(|call| call.index == 0);
        self.delta.function_call = first.map(|call| call.function);
        self.finish_reason = self.finish_reason.map(FinishReason::in_functions);
        self
    }
}

/// What is added to an answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Delta {
    /// `assistant`, in the answer's first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub role: Option<&'static str>,
    /// More text; empty only in the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More of calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub tool_calls: Vec<ToolCallDelta>,
    /// More of a call, where the request has `functions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionDelta>,
    /// In the answer's last chunk: see `entities` of the whole answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entities: Option<Vec<Entity>>,
}

impl Delta {
    /// Opens an answer.
    #[must_use]
    pub fn opening() -> Self {
        Self {
            role: Some("assistant"),
            content: Some(String::new()),
            ..Self::default()
        }
    }

    /// Adds text.
    #[must_use]
    pub fn text(content: String) -> Self {
        Self {
            content: Some(content),
            ..Self::default()
        }
    }

    /// Adds to calls.
    #[must_use]
    pub fn calls(tool_calls: Vec<ToolCallDelta>) -> Self {
        Self {
            tool_calls,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_answers_carry_every_field_that_clients_read() {
        let answer = ChatCompletion {
            id: "chatcmpl-0".into(),
            object: ChatCompletion::OBJECT,
            created: 5,
            model: "m".into(),
            choices: vec![Choice {
                index: 0,
                message: AnswerMessage::text("hi".into()),
                logprobs: None,
                finish_reason: FinishReason::Stop,
                stop_reason: Some(StopReason::Token(7)),
            }],
            usage: Usage::new(3, 2),
            prompt_logprobs: None,
            kv_transfer_params: Null,
        };
        assert_eq!(
            serde_json::to_value(answer).unwrap(),
            json!({"id": "chatcmpl-0", "object": "chat.completion", "created": 5, "model": "m",
                "choices": [{"index": 0, "message": {"role": "assistant",
                    "reasoning_content": null, "content": "hi", "tool_calls": []},
                    "logprobs": null, "finish_reason": "stop", "stop_reason": 7}],
                "usage": {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2,
                    "prompt_tokens_details": null},
                "prompt_logprobs": null, "kv_transfer_params": null})
        );
    }

    #[test]
    fn chunks_leave_out_what_they_do_not_say() {
        let choice = |delta| ChunkChoice {
            index: 0,
            delta,
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
        };
        let cases = [
            (
                Delta::opening(),
                json!({"role": "assistant", "content": ""}),
            ),
            (Delta::text("x".into()), json!({"content": "x"})),
            (
                Delta::calls(vec![
                    ToolCallDelta::opening(0, "c".into(), "look".into()),
                    ToolCallDelta::arguments(0, "{".into()),
                ]),
                json!({"tool_calls": [
                    {"index": 0, "id": "c", "type": "function",
                        "function": {"name": "look", "arguments": ""}},
                    {"index": 0, "function": {"arguments": "{"}}]}),
            ),
            (Delta::default(), json!({})),
        ];
        for (delta, expected) in cases {
            assert_eq!(
                serde_json::to_value(choice(delta)).unwrap(),
                json!({"index": 0, "delta": expected, "logprobs": null, "finish_reason": null})
            );
        }
    }

    #[test]
    fn functions_are_told_under_their_older_name() {
        let mut call = ToolCall::new("c".into(), "look".into());
        call.function.arguments = "{}".into();
        let choice = Choice {
            index: 0,
            message: AnswerMessage {
                content: None,
                tool_calls: vec![call.clone(), call],
                ..AnswerMessage::text(String::new())
            },
            logprobs: None,
            finish_reason: FinishReason::ToolCalls,
            stop_reason: None,
        };
        let told = serde_json::to_value(choice.in_functions()).unwrap();
        assert_eq!(told["finish_reason"], "function_call");
        assert_eq!(
            told["message"]["function_call"],
            json!({"name": "look", "arguments": "{}"})
        );
        assert_eq!(told["message"]["tool_calls"], json!([]));
        let chunk = |delta, finish_reason| ChunkChoice {
            index: 0,
            delta,
            logprobs: None,
            finish_reason,
            stop_reason: None,
        };
        let opening = ToolCallDelta::opening(0, "c".into(), "look".into());
        let opening = chunk(Delta::calls(vec![opening]), None).in_functions();
        assert_eq!(
            serde_json::to_value(opening.delta).unwrap(),
            json!({"function_call": {"name": "look", "arguments": ""}})
        );
        let end = chunk(Delta::default(), Some(FinishReason::ToolCalls)).in_functions();
        assert_eq!(end.finish_reason, Some(FinishReason::FunctionCall));
        let cut = chunk(Delta::text("x".into()), Some(FinishReason::Length));
        assert_eq!(cut.clone().in_functions(), cut);
    }

    #[test]
    fn spans_are_inclusive_on_the_wire() {
        let substring = |span| Entity::new(String::new(), span, Vec::new()).substring;
        assert_eq!(substring((12, 21)), [12, 20]);
        assert_eq!(substring((4, 4)), [4, 3]);
        assert_eq!(substring((-1, -1)), [0, -1]);
        assert_eq!(substring((7, 5)), [7, 6]);
    }

    #[test]
    fn impossible_tokens_have_a_finite_logprob() {
        for logprob in [f32::NEG_INFINITY, f32::NAN, -1e30] {
            assert_eq!(TopLogprob::new("x".into(), logprob).logprob, MIN_LOGPROB);
        }
    }

    #[test]
    fn ids_are_fresh_and_have_32_hexadecimal_digits() {
        let id = completion_id();
        let digits = id.strip_prefix("chatcmpl-").unwrap();
        assert!(digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(id, completion_id());
    }
}
