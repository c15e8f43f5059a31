//! The events of a streamed response.

use serde::Serialize;
use utoipa::ToSchema;

use super::{OutputItem, OutputText, ResponseObject};
use crate::TokenLogprob;

/// An event with its place in the stream.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ResponseEvent {
    /// From 0.
    pub sequence_number: u64,
    /// What happens.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happens. Its name stands in `type` and in the frame's `event`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = ResponseEventKind)]
#[serde(tag = "type")]
pub enum EventKind {
    /// The request is in line.
    #[serde(rename = "response.created")]
    Created {
        /// Without output.
        response: ResponseObject,
    },
    /// It is being answered.
    #[serde(rename = "response.in_progress")]
    InProgress {
        /// Without output.
        response: ResponseObject,
    },
    /// An item begins.
    #[serde(rename = "response.output_item.added")]
    ItemAdded {
        /// Of the item, from 0.
        output_index: usize,
        /// The item, empty.
        item: OutputItem,
    },
    /// A text begins.
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        /// Of the message.
        item_id: String,
        /// Of the message.
        output_index: usize,
        /// Of the text in the message.
        content_index: usize,
        /// The text, empty.
        part: OutputText,
    },
    /// More of a text.
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        /// Of the message.
        item_id: String,
        /// Of the message.
        output_index: usize,
        /// Of the text in the message.
        content_index: usize,
        /// More words.
        delta: String,
        /// Of their tokens.
        logprobs: Vec<TokenLogprob>,
    },
    /// A text is complete.
    #[serde(rename = "response.output_text.done")]
    TextDone {
        /// Of the message.
        item_id: String,
        /// Of the message.
        output_index: usize,
        /// Of the text in the message.
        content_index: usize,
        /// All of it.
        text: String,
        /// Of all tokens.
        logprobs: Vec<TokenLogprob>,
    },
    /// A text is complete, as part of its message.
    #[serde(rename = "response.content_part.done")]
    PartDone {
        /// Of the message.
        item_id: String,
        /// Of the message.
        output_index: usize,
        /// Of the text in the message.
        content_index: usize,
        /// All of it.
        part: OutputText,
    },
    /// More of a call's arguments.
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta {
        /// Of the call.
        item_id: String,
        /// Of the call.
        output_index: usize,
        /// A piece of their JSON.
        delta: String,
    },
    /// A call's arguments are complete.
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone {
        /// Of the call.
        item_id: String,
        /// Of the call.
        output_index: usize,
        /// Of the function.
        name: String,
        /// All of them.
        arguments: String,
    },
    /// An item is complete.
    #[serde(rename = "response.output_item.done")]
    ItemDone {
        /// Of the item.
        output_index: usize,
        /// All of it.
        item: OutputItem,
    },
    /// The last one: it is all there.
    #[serde(rename = "response.completed")]
    Completed {
        /// All of it.
        response: ResponseObject,
    },
    /// The last one: it was cut short.
    #[serde(rename = "response.incomplete")]
    Incomplete {
        /// What there is.
        response: ResponseObject,
    },
    /// The last one: it broke off.
    #[serde(rename = "response.failed")]
    Failed {
        /// What there is, and why.
        response: ResponseObject,
    },
}

impl EventKind {
    /// Notes in the last event that the response could not be kept.
    pub fn note_unkept(&mut self) {
        if let Self::Completed { response }
        | Self::Incomplete { response }
        | Self::Failed { response } = self
        {
            response.settings.store = false;
        }
    }

    /// The frame's `event`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "response.created",
            Self::InProgress { .. } => "response.in_progress",
            Self::ItemAdded { .. } => "response.output_item.added",
            Self::PartAdded { .. } => "response.content_part.added",
            Self::TextDelta { .. } => "response.output_text.delta",
            Self::TextDone { .. } => "response.output_text.done",
            Self::PartDone { .. } => "response.content_part.done",
            Self::ArgumentsDelta { .. } => "response.function_call_arguments.delta",
            Self::ArgumentsDone { .. } => "response.function_call_arguments.done",
            Self::ItemDone { .. } => "response.output_item.done",
            Self::Completed { .. } => "response.completed",
            Self::Incomplete { .. } => "response.incomplete",
            Self::Failed { .. } => "response.failed",
        }
    }
}
