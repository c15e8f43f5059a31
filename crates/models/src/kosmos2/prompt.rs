//! From a conversation to a prompt in the model's own language.
//!
//! Kosmos-2 has no chat template: it continues a text about one picture, and was trained on a few
//! forms. A conversation becomes such a text by these rules:
//!
//! - a message without text is `An image of`, the beginning of a caption;
//! - a user's question, which is a text that ends with `?` and has no markup of the model's,
//!   becomes `Question: … Answer:`;
//! - any other text stays as it is;
//! - all messages, system messages and earlier turns too, are put together in their order with a
//!   blank between them, so that an earlier answer stands behind its question;
//! - `<grounding>`, which makes the model name places, is put in front, unless it is there already
//!   or the template argument `grounded_response` is false.
//!
//! Pictures stand in front of all text, whatever their place in the conversation.

use serde_json::Value;

use crate::{Chat, Message, Part, PrepareError};

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

/// The template argument that says whether `<grounding>` is put in front.
const GROUNDED: &str = "grounded_response";

/// The text of a conversation.
///
/// # Errors
/// When `grounded_response` is not a boolean.
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
    let messages: Vec<String> = chat.messages.iter().map(message).collect();
    let text = messages.join(" ");
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

fn message(message: &Message) -> String {
    let texts = message.parts.iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.trim()).filter(|text| !text.is_empty()),
        Part::Image(_) => None,
    });
    let text = texts.collect::<Vec<_>>().join(" ");
    let plain = !text.contains(PATCH) && !MARKUP.iter().any(|tag| text.contains(tag));
    match message.role.as_str() {
        "user" if text.is_empty() => CAPTION.to_owned(),
        "user" if plain && text.ends_with('?') => format!("Question: {text} Answer:"),
        _ => text,
    }
}
