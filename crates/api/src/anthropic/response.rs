//! What is answered to a request of the Messages dialect.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::FinishReason;

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = AnthropicMessage)]
pub struct MessageBody {
    /// `msg_` and 32 hexadecimal digits.
    pub id: String,
    /// Always `message`.
    #[schema(value_type = String)]
    pub r#type: &'static str,
    /// Always `assistant`.
    #[schema(value_type = String)]
    pub role: &'static str,
    /// As the request named it.
    pub model: String,
    /// Text, then calls.
    pub content: Vec<ContentBlock>,
    /// Why it ended. Null in the first event of a stream.
    pub stop_reason: Option<StopReason>,
    /// The text that ended it, with `stop_sequence`.
    pub stop_sequence: Option<String>,
    /// Tokens.
    pub usage: Usage,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = AnthropicContentBlock)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentBlock {
    /// Words.
    Text {
        /// The words.
        text: String,
    },
    /// A call of a tool.
    ToolUse {
        /// To which the tool's result refers, as `tool_use_id`.
        id: String,
        /// One of the request's `tools`.
        name: String,
        /// Its arguments.
        #[schema(value_type = Object)]
        input: Map<String, Value>,
    },
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AnthropicStopReason)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model had said it all.
    EndTurn,
    /// There were `max_tokens` of it.
    MaxTokens,
    /// One of `stop_sequences` came.
    StopSequence,
    /// It calls tools.
    ToolUse,
}

/// Tokens. What was read from the cache counts in `cache_read_input_tokens` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AnthropicUsage)]
pub struct Usage {
    /// Of the prompt, pictures included, that were computed.
    pub input_tokens: usize,
    /// Always 0: nothing is paid for.
    pub cache_creation_input_tokens: usize,
    /// Of the prompt, that were found in the KV cache; 0 unless the server tells
    /// (`--enable-prompt-tokens-details`).
    pub cache_read_input_tokens: usize,
    /// Of the answer.
    pub output_tokens: usize,
}

/// What `count_tokens` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AnthropicTokenCount)]
pub struct TokenCount {
    /// Of the prompt, pictures included.
    pub input_tokens: usize,
}

/// A fresh id for an answer.
#[must_use]
pub fn message_id() -> String {
    format!("msg_{}", Uuid::new_v4().simple())
}

impl MessageBody {
    /// An answer that has not begun.
    #[must_use]
    pub fn opening(model: String, usage: Usage) -> Self {
        Self {
            id: message_id(),
            r#type: "message",
            role: "assistant",
            model,
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage,
        }
    }
}

impl StopReason {
    /// What chat's reason is called here, and the text that ended the answer.
    #[must_use]
    pub fn of(reason: FinishReason, stop: Option<&crate::StopReason>) -> (Self, Option<String>) {
        match (reason, stop) {
            (FinishReason::Length, _) => (Self::MaxTokens, None),
            (FinishReason::ToolCalls | FinishReason::FunctionCall, _) => (Self::ToolUse, None),
            (FinishReason::Stop, Some(crate::StopReason::Text(text))) => {
                (Self::StopSequence, Some(text.clone()))
            }
            (FinishReason::Stop, _) => (Self::EndTurn, None),
        }
    }
}

impl From<&crate::Usage> for Usage {
    fn from(usage: &crate::Usage) -> Self {
        let details = usage.prompt_tokens_details.as_ref();
        let cached = details.map_or(0, |details| details.cached_tokens);
        Self {
            input_tokens: usage.prompt_tokens.saturating_sub(cached),
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: cached,
            output_tokens: usage.completion_tokens,
        }
    }
}
