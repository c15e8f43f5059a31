//! From a conversation to a prompt in the model's own language.
//!
//! Kosmos-2 has no chat template: it continues a text about one picture, and was trained on a few
//! forms. A conversation becomes such a text by these rules:
//!
//! - a message without text is `An image of`, the beginning of a caption;
//! - a user's question, which is a text that ends with `?` and has no markup of the model's,
//!   becomes `Question: … Answer:`;
//! - any other text stays as it is;
//! - the template arguments `task` and `response_mode`, which NVIDIA's hosted API had, say what the
//!   last of the user's messages is: with `VQA` it is a question however it ends, with
//!   `image captioning` it is none; a caption that is to be `detailed` begins with
//!   `Describe this image in detail:`, as in the model's own demo;
//! - all messages, system messages and earlier turns too, are put together in their order with a
//!   blank between them, so that an earlier answer stands behind its question;
//! - `<grounding>`, which makes the model name places, is put in front, unless it is there already
//!   or the template argument `grounded_response` is false;
//! - a last message whose text is to be continued stays as it is, whoever's it is.
//!
//! Pictures stand in front of all text, whatever their place in the conversation.

use serde_json::Value;

use crate::{Chat, Ending, Message, Part, PrepareError};

/// Asks for places of what the answer names.
pub(super) const GROUNDING: &str = "<grounding>";

/// The model's input language, which users may write, beside its patch indices.
pub(super) const MARKUP: [&str; 6] = [
    GROUNDING,
    "<phrase>",
    "</phrase>",
    "<object>",
    "</object>",
    "</delimiter_of_multi_objects/>",
];

/// How the tokens for the cells of the grid begin; four digits and `>` follow.
pub(super) const PATCH: &str = "<patch_index_";

/// What a message without text asks for.
const CAPTION: &str = "An image of";

/// The same where it is to be long.
const DETAILED_CAPTION: &str = "Describe this image in detail:";

/// The template argument that says what the last message is.
const TASK: &str = "task";

/// The template argument that says how long a caption is to be.
const MODE: &str = "response_mode";

/// The template argument that says whether `<grounding>` is put in front.
const GROUNDED: &str = "grounded_response";

/// The text of a conversation.
///
/// # Errors
/// When `grounded_response` is not a boolean, and for [`Ending::Message`]: nothing of a prompt is
/// the answer's beginning alone.
pub(super) fn text(chat: &Chat) -> Result<String, PrepareError> {
    let grounded = match chat.template_kwargs.get(GROUNDED) {
        None | Some(Value::Null) => true,
        Some(Value::Bool(grounded)) => *grounded,
        Some(other) => {
            return Err(PrepareError::Template(format!(
                "`{GROUNDED}` must be true or false, but is {other}"
            )));
        }
    };
    if chat.ending == Ending::Message {
        return Err(PrepareError::Ending(
            "Kosmos-2 has no turns: nothing stands in front of an answer that could be left out"
                .to_owned(),
        ));
    }
    let continued = (chat.ending == Ending::Text).then(|| chat.messages.len().saturating_sub(1));
    let wish = Wish::read(chat)?;
    let last = chat.messages.iter().rposition(|m| m.role == "user");
    let messages = chat.messages.iter().enumerate().map(|(index, message)| {
        if Some(index) == continued {
            return Ok(words(message));
        }
        let wish = if Some(index) == last {
            wish
        } else {
            Wish::default()
        };
        wish.apply(message)
    });
    let text = messages.collect::<Result<Vec<_>, _>>()?.join(" ");
    if grounded && !text.contains(GROUNDING) {
        return Ok(format!("{GROUNDING}{}{text}", blank(&text)));
    }
    Ok(text)
}

/// The reference writes questions with a blank behind the tag, and captions without.
fn blank(text: &str) -> &'static str {
    if text.starts_with("Question:") {
        " "
    } else {
        ""
    }
}

/// The text of a message.
fn words(message: &Message) -> String {
    let texts = message.parts.iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.trim()).filter(|text| !text.is_empty()),
        Part::Image(_) => None,
    });
    texts.collect::<Vec<_>>().join(" ")
}

/// What a message is to be.
#[derive(Debug, Clone, Copy, Default)]
struct Wish {
    /// Whether it is a question; `None` where its text tells.
    question: Option<bool>,
    /// Whether a caption is to be long.
    detailed: bool,
}

impl Wish {
    fn read(chat: &Chat) -> Result<Self, PrepareError> {
        Ok(Self {
            question: choice(chat, TASK, ["VQA", "image captioning"])?,
            detailed: choice(chat, MODE, ["brief", "detailed"])? == Some(false),
        })
    }

    fn apply(self, message: &Message) -> Result<String, PrepareError> {
        let refused = |reason: &str| Err(PrepareError::Template(reason.to_owned()));
        let text = words(message);
        if message.role != "user" {
            return Ok(text);
        }
        let formed = text.starts_with("Question:") && text.ends_with("Answer:");
        let marked = text.contains(PATCH) || MARKUP.iter().any(|tag| text.contains(tag));
        let question = self.question.unwrap_or(text.ends_with('?'));
        match text.as_str() {
            "" if self.question == Some(true) => {
                refused("`task` is `VQA`, but the last of the user's messages asks nothing")
            }
            "" if self.detailed => Ok(DETAILED_CAPTION.to_owned()),
            "" => Ok(CAPTION.to_owned()),
            _ if self.detailed => refused(
                "`response_mode` is `detailed`, which only captions can be: leave the text of the \
                 last of the user's messages out",
            ),
            text if question && !marked && !formed => Ok(format!("Question: {text} Answer:")),
            _ => Ok(text),
        }
    }
}

/// Whether the template argument `name` is the first of two values and not the second; `None` if
/// it is not given.
fn choice(chat: &Chat, name: &str, values: [&str; 2]) -> Result<Option<bool>, PrepareError> {
    match chat.template_kwargs.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) if value == values[0] => Ok(Some(true)),
        Some(value) if value == values[1] => Ok(Some(false)),
        Some(other) => {
            let [first, second] = values;
            Err(PrepareError::Template(format!(
                "`{name}` must be `{first}` or `{second}`, but is {other}"
            )))
        }
    }
}
