//! Pictures in conversations, and conversations as templates want them.

use serde_json::{Value, json};
use vlmd_backend::ImageInput;
use vlmd_text::{Tokenizer, ToolFamily};

use super::language::Language;
use crate::{Chat, Message, Part, PrepareError, ToolCall};

/// Every place where a picture is shown, in order: indices into the request's pictures.
pub(crate) fn places(chat: &Chat) -> Vec<usize> {
    let parts = chat.messages.iter().flat_map(|message| &message.parts);
    let picture = |part: &Part| match part {
        Part::Image(picture) => Some(*picture),
        Part::Text(_) => None,
    };
    parts.filter_map(picture).collect()
}

/// The pictures that a conversation shows.
pub(crate) struct Shown {
    /// Each once, in the order in which they are first shown.
    pub(crate) images: Vec<ImageInput>,
    /// For every place where one is shown, which of them, from 0.
    pub(crate) places: Vec<usize>,
}

impl Shown {
    /// Of the `images` of the request.
    ///
    /// # Errors
    /// When a message shows a picture that is not there, or a picture is never shown.
    pub(crate) fn of(chat: &Chat, images: &[ImageInput]) -> Result<Self, PrepareError> {
        let order = order(chat);
        let image = |&index: &usize| {
            let image = images.get(index).cloned();
            image.ok_or_else(|| PrepareError::Image {
                index,
                reason: format!(
                    "a message shows it, but the request has {} picture(s)",
                    images.len()
                ),
            })
        };
        let found = order.iter().map(image).collect::<Result<_, _>>()?;
        if let Some(index) = (0..images.len()).find(|index| !order.contains(index)) {
            return Err(PrepareError::Image {
                index,
                reason: "no message shows it".to_owned(),
            });
        }
        Ok(Self {
            images: found,
            places: numbers(chat),
        })
    }
}

/// For every place where a picture is shown, which it is in the order in which they are first
/// shown, from 0.
pub(crate) fn numbers(chat: &Chat) -> Vec<usize> {
    let order = order(chat);
    let number = |picture| order.iter().take_while(|&&other| other != picture).count();
    places(chat).into_iter().map(number).collect()
}

/// The pictures of a conversation in the order in which they are first shown, each once.
fn order(chat: &Chat) -> Vec<usize> {
    let mut order = Vec::new();
    for picture in places(chat) {
        if !order.contains(&picture) {
            order.push(picture);
        }
    }
    order
}

/// Messages with their parts as lists, `{"type": "image"}` where a picture is shown; what users
/// wrote is shielded. Messages of text alone are given as that text where `plain` says so.
pub(crate) fn messages(chat: &Chat, language: &Language, plain: bool) -> Vec<Value> {
    let tokenizer = &language.tokenizer;
    let content = |message: &Message| match plain.then(|| text(message, tokenizer)).flatten() {
        Some(text) => Value::String(text),
        None => {
            let parts = message.parts.iter();
            parts.map(|part| self::part(part, tokenizer)).collect()
        }
    };
    let messages = chat.messages.iter();
    messages
        .flat_map(|message| {
            let value = json!({"role": message.role, "content": content(message)});
            with_tools(value, message, language)
        })
        .collect()
}

/// All of a message that shows no picture.
fn text(message: &Message, tokenizer: &Tokenizer) -> Option<String> {
    let texts = message.parts.iter().map(|part| match part {
        Part::Text(text) => Some(tokenizer.shield(text)),
        Part::Image(_) => None,
    });
    texts.collect()
}

/// `value`, which is `message` as the template wants it, with what the message has to do with
/// tools. As `apply_chat_template` of transformers takes it: arguments are objects.
///
/// Llama's template refuses a message of several calls, which its models write nevertheless; it
/// gets a message for each.
pub(crate) fn with_tools(value: Value, message: &Message, language: &Language) -> Vec<Value> {
    let tokenizer = &language.tokenizer;
    let shielded = |text: &String| Value::String(tokenizer.shield(text).into_owned());
    let call = |call: &ToolCall| {
        let mut value = json!({"type": "function", "function": {"name": shielded(&call.name),
            "arguments": tokenizer.shield_map(&call.arguments)}});
        if let Some(id) = &call.id {
            value["id"] = shielded(id);
        }
        value
    };
    let mut value = value;
    for (field, text) in [
        ("tool_call_id", &message.tool_call_id),
        ("name", &message.name),
    ] {
        if let Some(text) = text {
            value[field] = shielded(text);
        }
    }
    let calls: Vec<Value> = message.tool_calls.iter().map(call).collect();
    let each = match language.tool_family() {
        Some(ToolFamily::Llama3Json) => 1,
        _ => calls.len(),
    };
    if calls.is_empty() {
        return vec![value];
    }
    let with_calls = |calls: &[Value]| {
        let mut value = value.clone();
        value["tool_calls"] = calls.into();
        value
    };
    calls.chunks(each).map(with_calls).collect()
}

fn part(part: &Part, tokenizer: &Tokenizer) -> Value {
    match part {
        Part::Text(text) => json!({"type": "text", "text": tokenizer.shield(text)}),
        Part::Image(_) => json!({"type": "image"}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_numbered_as_they_are_first_shown() {
        let message = |parts: &[usize]| Message {
            role: "user".to_owned(),
            parts: parts.iter().map(|&picture| Part::Image(picture)).collect(),
            ..Message::default()
        };
        let chat = Chat {
            messages: vec![message(&[2, 0]), message(&[2, 1])],
            ..Chat::default()
        };
        assert_eq!(order(&chat), [2, 0, 1]);
        assert_eq!(numbers(&chat), [0, 1, 0, 2]);
    }
}
