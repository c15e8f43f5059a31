//! Responses, and the items of their output.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Settings, request};
use crate::{ErrorDetail, ErrorType, TokenLogprob};

/// A response.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Response)]
pub struct ResponseObject {
    /// `resp_` and 32 hexadecimal digits.
    pub id: String,
    /// Always `response`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// Unix time.
    pub created_at: u64,
    /// Unix time of its end, with `completed`.
    pub completed_at: Option<u64>,
    /// How it is.
    pub status: Status,
    /// Why it failed.
    pub error: Option<ResponseFailure>,
    /// Why it is incomplete.
    pub incomplete_details: Option<IncompleteDetails>,
    /// A message, calls, or both.
    pub output: Vec<OutputItem>,
    /// Tokens, once it has ended.
    pub usage: Option<ResponseUsage>,
    /// What was asked for.
    #[serde(flatten)]
    pub settings: Settings,
}

/// How a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ResponseStatus)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is being written.
    InProgress,
    /// It is all there.
    Completed,
    /// It was cut short.
    Incomplete,
    /// It broke off.
    Failed,
    /// It was given up.
    Cancelled,
}

/// Why a response failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ResponseFailure {
    /// For programs: `server_error`, or `invalid_prompt` where the request has to change.
    #[schema(value_type = String)]
    pub code: &'static str,
    /// For people.
    pub message: String,
}

/// Why a response is incomplete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct IncompleteDetails {
    /// Always `max_output_tokens`.
    #[schema(value_type = String)]
    pub reason: &'static str,
}

/// A piece of a response.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = ResponseOutputItem)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// Words.
    Message {
        /// `msg_` and 32 hexadecimal digits.
        id: String,
        /// How it is.
        status: ItemStatus,
        /// Always `assistant`.
        #[schema(value_type = String)]
        role: &'static str,
        /// One text.
        content: Vec<OutputText>,
    },
    /// A call of a function.
    FunctionCall {
        /// `fc_` and 32 hexadecimal digits.
        id: String,
        /// To which the function's result refers.
        call_id: String,
        /// One of the request's `tools`.
        name: String,
        /// A JSON object, written as a string. Cut short if the item is.
        arguments: String,
        /// How it is.
        status: ItemStatus,
    },
}

/// How an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ResponseItemStatus)]
#[serde(rename_all = "snake_case")]
pub enum ItemStatus {
    /// It is being written.
    InProgress,
    /// It is all there.
    Completed,
    /// It was cut short.
    Incomplete,
}

/// A text.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = ResponseOutputText)]
pub struct OutputText {
    /// Always `output_text`.
    #[schema(value_type = String)]
    pub r#type: &'static str,
    /// The words.
    pub text: String,
    /// Always empty: nothing is quoted.
    #[schema(value_type = Vec<Object>)]
    pub annotations: [(); 0],
    /// Of each token, if they were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// Tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct ResponseUsage {
    /// Of the prompt, pictures included.
    pub input_tokens: usize,
    /// Of which.
    pub input_tokens_details: InputTokensDetails,
    /// Of the answer.
    pub output_tokens: usize,
    /// Of which.
    pub output_tokens_details: OutputTokensDetails,
    /// Of both.
    pub total_tokens: usize,
}

/// Tokens of a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct InputTokensDetails {
    /// Found in the KV cache; 0 unless the server tells (`--enable-prompt-tokens-details`).
    pub cached_tokens: usize,
    /// Always 0: nothing is paid for.
    pub cache_write_tokens: usize,
}

/// Tokens of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct OutputTokensDetails {
    /// Always 0: no model here thinks.
    pub reasoning_tokens: usize,
}

/// That a response is kept no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ResponseDeleted)]
pub struct Deleted {
    /// Of the response.
    pub id: String,
    /// Always `response`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// Always true.
    pub deleted: bool,
}

/// What `POST /v1/responses/input_tokens` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ResponseInputTokens)]
pub struct InputTokens {
    /// Always `response.input_tokens`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// Of the prompt, pictures included.
    pub input_tokens: usize,
}

/// A fresh id for a response.
#[must_use]
pub fn response_id() -> String {
    format!("resp_{}", Uuid::new_v4().simple())
}

/// A fresh id for a message.
#[must_use]
pub fn message_id() -> String {
    format!("msg_{}", Uuid::new_v4().simple())
}

/// A fresh id for a call's item.
#[must_use]
pub fn item_id() -> String {
    format!("fc_{}", Uuid::new_v4().simple())
}

impl ResponseObject {
    /// A response that has not begun.
    #[must_use]
    pub fn opening(settings: Settings, created_at: u64) -> Self {
        Self {
            id: response_id(),
            object: "response",
            created_at,
            completed_at: None,
            status: Status::InProgress,
            error: None,
            incomplete_details: None,
            output: Vec::new(),
            usage: None,
            settings,
        }
    }

    /// Its output as a JSON array, as a later request has it in its input.
    #[must_use]
    pub fn kept_output(&self) -> String {
        request::kept_output(&self.output)
    }
}

impl OutputText {
    /// A text.
    #[must_use]
    pub fn new(text: String, logprobs: Vec<TokenLogprob>) -> Self {
        Self {
            r#type: "output_text",
            text,
            annotations: [],
            logprobs,
        }
    }
}

impl OutputItem {
    /// A message of one text.
    #[must_use]
    pub fn message(id: String, status: ItemStatus, content: Vec<OutputText>) -> Self {
        Self::Message {
            id,
            status,
            role: "assistant",
            content,
        }
    }
}

impl From<ErrorDetail> for ResponseFailure {
    fn from(error: ErrorDetail) -> Self {
        let code = match error.r#type {
            ErrorType::InvalidRequestError => "invalid_prompt",
            _ => "server_error",
        };
        Self {
            code,
            message: error.message,
        }
    }
}

impl From<&crate::Usage> for ResponseUsage {
    fn from(usage: &crate::Usage) -> Self {
        let details = usage.prompt_tokens_details.as_ref();
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: details.map_or(0, |details| details.cached_tokens),
                cache_write_tokens: 0,
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokensDetails::default(),
            total_tokens: usage.total_tokens,
        }
    }
}
