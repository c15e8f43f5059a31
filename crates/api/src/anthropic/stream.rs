//! The events of a stream in the Messages dialect.

use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiError, ContentBlock, MessageBody, StopReason, Usage};

/// An event: its name stands in `type` and in the frame's `event`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = AnthropicStreamEvent)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamEvent {
    /// The first one.
    MessageStart {
        /// The answer, without content.
        message: MessageBody,
    },
    /// Nothing is to be said yet.
    Ping {},
    /// A block begins.
    ContentBlockStart {
        /// Of the block, from 0.
        index: usize,
        /// The block, empty.
        content_block: ContentBlock,
    },
    /// More of a block.
    ContentBlockDelta {
        /// Of the block.
        index: usize,
        /// What is added.
        delta: BlockDelta,
    },
    /// A block is complete.
    ContentBlockStop {
        /// Of the block.
        index: usize,
    },
    /// The answer is complete.
    MessageDelta {
        /// Why.
        delta: MessageDelta,
        /// Tokens of all of it.
        usage: Usage,
    },
    /// The last one.
    MessageStop {},
    /// The last one, where the answer broke off.
    Error {
        /// Why.
        error: ApiError,
    },
}

/// What is added to a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AnthropicBlockDelta)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BlockDelta {
    /// To a text.
    TextDelta {
        /// More words.
        text: String,
    },
    /// To a call's `input`.
    InputJsonDelta {
        /// A piece of its JSON.
        partial_json: String,
    },
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AnthropicMessageDelta)]
pub struct MessageDelta {
    /// Why.
    pub stop_reason: Option<StopReason>,
    /// The text that ended it.
    pub stop_sequence: Option<String>,
}

impl StreamEvent {
    /// The frame's `event`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::Ping {} => "ping",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop {} => "message_stop",
            Self::Error { .. } => "error",
        }
    }
}
