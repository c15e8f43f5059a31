//! From a conversation to a prompt that the engine takes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use vlmd_backend::{ImageInput, Prepared};
use vlmd_media::Picture;
use vlmd_text::{Tokenizer, ToolFamily};

/// One piece of a message, in the order that the client sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Plain text. Special tokens written in it are text.
    Text(String),
    /// Index into the pictures of the request.
    Image(usize),
}

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What it says and shows.
    pub parts: Vec<Part>,
    /// For an assistant's message, how it was or is to be: attributes with values from 0 to 9.
    /// Known to NeVA alone.
    pub labels: BTreeMap<String, u8>,
    /// For an assistant's message, what it calls.
    pub tool_calls: Vec<ToolCall>,
    /// For a message of `tool`, the id of the call that it answers.
    pub tool_call_id: Option<String>,
    /// For a message of `tool`, the name of the function.
    pub name: Option<String>,
}

/// A call in the conversation so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// If the client gives it.
    pub id: Option<String>,
    /// Of the function.
    pub name: String,
    /// By their names.
    pub arguments: Map<String, Value>,
}

/// A conversation to be continued.
#[derive(Debug, Clone, Default)]
pub struct Chat {
    /// Oldest first.
    pub messages: Vec<Message>,
    /// Functions that the model may call, each as the request describes it:
    /// `{"type": "function", "function": {"name": ..., ...}}`.
    pub tools: Vec<Value>,
    /// Reach the chat template as variables (`date_string`, `enable_thinking`, ...).
    pub template_kwargs: Map<String, Value>,
    /// Where the prompt ends.
    pub ending: Ending,
}

/// Where a prompt ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ending {
    /// Where the answer begins: behind what the template writes in front of one.
    #[default]
    Answer,
    /// Behind the last message, without what stands in front of an answer.
    Message,
    /// Behind the text of the last message, which the answer continues.
    Text,
}

/// Why a conversation cannot be made into a prompt. Always the client's to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// The model's template refuses the conversation, or cannot render it.
    #[error("the model's chat template refuses this conversation: {0}")]
    Template(String),
    /// The prompt cannot end where it is to end ([`Chat::ending`]).
    #[error("{0}")]
    Ending(String),
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

/// Why a picture cannot be made into what the model takes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// This architecture cannot take it: what is wrong with it, with the bound and the value. The
    /// client's to mend.
    #[error("{0}")]
    Refused(String),
    /// Tensor arithmetic failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl ImageError {
    /// The same of the picture at `index` of a request.
    #[must_use]
    pub fn at(self, index: usize) -> PrepareError {
        match self {
            Self::Refused(reason) => PrepareError::Image { index, reason },
            Self::Tensor(error) => PrepareError::Tensor(error),
        }
    }
}

/// An answer that points at what it names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grounded {
    /// The answer without markup.
    pub text: String,
    /// What it names, in its order.
    pub entities: Vec<Entity>,
}

/// Something in the picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    /// As the answer calls it.
    pub phrase: String,
    /// Characters of [`Grounded::text`], from 0, that are the phrase, the end exclusive. Where an
    /// answer gives a place without a phrase, an empty span, which may lie before the text.
    pub span: (i64, i64),
    /// `[left, top, right, bottom]`, as shares of the picture's width and height.
    pub boxes: Vec<[f64; 4]>,
}

/// Turns conversations into prompts; one per architecture.
///
/// Pure functions of their input, cheap to share between threads, and not cheap to call: run them
/// off the async workers. Pictures and prompt are made apart, so that whoever has met a picture
/// before may keep what [`Self::image`] gave.
pub trait Processor: Send + Sync {
    /// What the model takes of a picture: it is resampled, cut and normalised. The same for equal
    /// pictures, whatever conversation they are shown in.
    ///
    /// # Errors
    /// See [`ImageError`].
    fn image(&self, picture: &Picture) -> Result<ImageInput, ImageError>;

    /// Renders, tokenises and places the pictures of the conversation, of which `images` are what
    /// [`Self::image`] gave for each.
    ///
    /// # Errors
    /// See [`PrepareError`].
    fn compose(&self, chat: &Chat, images: &[ImageInput]) -> Result<Prepared, PrepareError>;

    /// Both, one after the other.
    ///
    /// # Errors
    /// See [`PrepareError`].
    fn prepare(&self, chat: &Chat, pictures: &[Picture]) -> Result<Prepared, PrepareError> {
        let image = |(index, picture)| self.image(picture).map_err(|e: ImageError| e.at(index));
        let images: Vec<_> = pictures
            .iter()
            .enumerate()
            .map(image)
            .collect::<Result<_, _>>()?;
        self.compose(chat, &images)
    }

    /// The prompt's text as the template renders it, before tokenising.
    ///
    /// # Errors
    /// See [`PrepareError`].
    fn render(&self, chat: &Chat) -> Result<String, PrepareError>;

    /// The model's tokenizer.
    fn tokenizer(&self) -> &Arc<Tokenizer>;

    /// Tokens that end an answer.
    fn stop_ids(&self) -> &[u32];

    /// Length of the runs of tokens that an answer must not repeat, where a request does not say
    /// it; 0 is none. The checkpoint's own, for models that do not end without it.
    fn no_repeat_ngram_size(&self) -> usize {
        0
    }

    /// Whether [`Message::labels`] steer the answer.
    fn takes_labels(&self) -> bool {
        false
    }

    /// The form in which the model calls tools, if its chat template carries them.
    fn tool_family(&self) -> Option<ToolFamily> {
        None
    }

    /// For models that point at what they name: takes an answer apart, given its text with all
    /// markup.
    fn grounding(&self) -> Option<fn(&str) -> Grounded> {
        None
    }
}
