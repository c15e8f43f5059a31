//! From a conversation to a prompt that the engine takes.

use std::sync::Arc;

use serde_json::{Map, Value};
use vlmd_backend::Prepared;
use vlmd_media::Picture;
use vlmd_text::Tokenizer;

/// One piece of a message, in the order that the client sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Plain text. Special tokens written in it are text.
    Text(String),
    /// Index into the pictures of the request.
    Image(usize),
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What it says and shows.
    pub parts: Vec<Part>,
}

/// A conversation to be continued.
#[derive(Debug, Clone, Default)]
pub struct Chat {
    /// Oldest first.
    pub messages: Vec<Message>,
    /// Reach the chat template as variables (`date_string`, `enable_thinking`, ...).
    pub template_kwargs: Map<String, Value>,
}

/// Why a conversation cannot be made into a prompt. Always the client's to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// The model's template refuses the conversation, or cannot render it.
    #[error("the model's chat template refuses this conversation: {0}")]
    Template(String),
    /// A picture that this architecture cannot take.
    #[error("image {index}: {reason}")]
    Image {
        /// From 0, in the order of the request.
        index: usize,
        /// What is wrong with it, with the bound and the value.
        reason: String,
    },
    /// The text cannot be tokenised.
    #[error("the text cannot be tokenised: {0}")]
    Tokenize(String),
    /// Tensor arithmetic failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Turns conversations into prompts; one per architecture.
///
/// A pure function of its input, cheap to share between threads, and not cheap to call: run it
/// off the async workers.
pub trait Processor: Send + Sync {
    /// Renders, tokenises and places `pictures` in the conversation.
    ///
    /// # Errors
    /// See [`PrepareError`].
    fn prepare(&self, chat: &Chat, pictures: &[Picture]) -> Result<Prepared, PrepareError>;

    /// The prompt's text as the template renders it, before tokenising.
    ///
    /// # Errors
    /// See [`PrepareError`].
    fn render(&self, chat: &Chat) -> Result<String, PrepareError>;

    /// The model's tokenizer.
    fn tokenizer(&self) -> &Arc<Tokenizer>;

    /// Tokens that end an answer.
    fn stop_ids(&self) -> &[u32];
}
