//! OpenAI's Responses dialect: `POST /v1/responses` and what belongs to it.
//!
//! A request becomes a [`ChatRequest`](crate::ChatRequest) in steps, as the conversation that it goes
//! on from is not in it: [`read_response`], [`ReadResponse::resolve`], [`ReadResponse::translate`]. Shapes are those of
//! the official Python client, `openai` 3.57 (`openai/types/responses/`).

mod events;
mod items;
mod listing;
mod object;
mod request;
mod settings;
#[cfg(test)]
mod tests;

pub use events::{EventKind, ResponseEvent};
pub use listing::{DEFAULT_PAGE, InputItems, ItemOrder, MAX_PAGE, Page};
pub use object::{
    Deleted, IncompleteDetails, InputTokens, InputTokensDetails, ItemStatus, OutputItem,
    OutputText, OutputTokensDetails, ResponseFailure, ResponseObject, ResponseUsage, Status,
    item_id, message_id, response_id,
};
pub use request::{ReadResponse, ResponsesRequest, TextConfig, read_response};
pub use settings::{MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE, Settings};
