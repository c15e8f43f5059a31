//! Pictures in conversations, and conversations as templates want them.

use serde_json::{Value, json};
use vlmd_media::Picture;
use vlmd_text::Tokenizer;

use crate::{Chat, Message, Part, PrepareError};

/// Every place where a picture is shown, in order: indices into the request's pictures.
pub(crate) fn places(chat: &Chat) -> Vec<usize> {
    let parts = chat.messages.iter().flat_map(|message| &message.parts);
    let picture = |part: &Part| match part {
        Part::Image(picture) => Some(*picture),
        Part::Text(_) => None,
    };
    parts.filter_map(picture).collect()
}

/// The pictures of a conversation in the order in which they are first shown, each once.
pub(crate) fn shown(chat: &Chat) -> Vec<usize> {
    let mut order = Vec::new();
    for picture in places(chat) {
        if !order.contains(&picture) {
            order.push(picture);
        }
    }
    order
}

/// For every place, which of the pictures in `order` it shows.
pub(crate) fn numbers(chat: &Chat, order: &[usize]) -> Vec<usize> {
    let number = |picture| order.iter().take_while(|&&other| other != picture).count();
    places(chat).into_iter().map(number).collect()
}

/// The pictures themselves, in the order of [`shown`].
///
/// # Errors
/// When a message shows a picture that is not there, or a picture is never shown.
pub(crate) fn pictures<'a>(
    chat: &Chat,
    pictures: &'a [Picture],
) -> Result<Vec<&'a Picture>, PrepareError> {
    let order = shown(chat);
    let picture = |&index: &usize| {
        pictures.get(index).ok_or_else(|| PrepareError::Image {
            index,
            reason: format!(
                "a message shows it, but the request has {} picture(s)",
                pictures.len()
            ),
        })
    };
    let found = order.iter().map(picture).collect::<Result<_, _>>()?;
    if let Some(index) = (0..pictures.len()).find(|index| !order.contains(index)) {
        return Err(PrepareError::Image {
            index,
            reason: "no message shows it".to_owned(),
        });
    }
    Ok(found)
}

/// Messages with their parts as lists, `{"type": "image"}` where a picture is shown; what users
/// wrote is shielded. Messages of one text are given as that text where `plain` says so.
pub(crate) fn messages(chat: &Chat, tokenizer: &Tokenizer, plain: bool) -> Vec<Value> {
    let content = |message: &Message| match message.parts.as_slice() {
        [Part::Text(text)] if plain => Value::String(tokenizer.shield(text).into_owned()),
        parts => parts
            .iter()
            .map(|part| self::part(part, tokenizer))
            .collect(),
    };
    let messages = chat.messages.iter();
    messages
        .map(|message| json!({"role": message.role, "content": content(message)}))
        .collect()
}

fn part(part: &Part, tokenizer: &Tokenizer) -> Value {
    match part {
        Part::Text(text) => json!({"type": "text", "text": tokenizer.shield(text)}),
        Part::Image(_) => json!({"type": "image"}),
    }
}
