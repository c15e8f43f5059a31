//! Anthropic's Messages dialect: `POST /v1/messages` and `POST /v1/messages/count_tokens`.
//!
//! A request becomes a [`ChatRequest`](crate::ChatRequest) ([`read_messages`], [`read_count`]); the
//! types here say what it looks like and what is sent back. Shapes are those of the official
//! Python client, `anthropic` 2.14 (`anthropic/types/`).

mod blocks;
mod error;
mod request;
mod response;
mod stream;
#[cfg(test)]
mod tests;

pub use error::{ApiError, ApiErrorBody, ApiErrorType};
pub use request::{
    CountTokensRequest, InputBlock, InputContent, InputMessage, InputSource, InputTool,
    InputToolChoice, InputToolChoiceKind, MessagesRequest, Metadata, OutputConfig, OutputFormat,
    ReadMessages, SystemText, TextBlock, read_count, read_messages,
};
pub use response::{ContentBlock, MessageBody, StopReason, TokenCount, Usage, message_id};
pub use stream::{BlockDelta, MessageDelta, StreamEvent};
