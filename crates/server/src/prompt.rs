//! From a request to a prompt: pictures, template, tokens.

use std::sync::Arc;

use tokio::task::spawn_blocking;
use vlmd_api::{ChatRequest, ContentPart, Message, MessageContent};
use vlmd_backend::Prepared;
use vlmd_media::Picture;
use vlmd_models::{Chat, Message as ModelMessage, Part, PrepareError};

use crate::error::Refusal;
use crate::state::{AppState, ServedModel};

/// The pictures of a conversation, in order.
#[derive(Debug, Default)]
struct Sources {
    urls: Vec<String>,
    /// Paths in the request at which they stood, for error messages.
    fields: Vec<String>,
}

/// Makes the prompt of a request. Takes its messages and template arguments out of it.
pub(crate) async fn prepare(
    state: &AppState,
    model: &Arc<ServedModel>,
    request: &mut ChatRequest,
) -> Result<Prepared, Refusal> {
    let given = request
        .messages
        .iter()
        .map(|message| message.content.images().count())
        .sum();
    if given > model.max_images {
        return Err(Refusal::TooManyImages {
            limit: model.max_images,
            given,
        });
    }
    let labelled = request.messages.iter().position(|m| !m.labels.is_empty());
    if let Some(index) = labelled
        && !model.processor.takes_labels()
    {
        return Err(Refusal::Labels { index });
    }
    let mut sources = Sources::default();
    let messages = std::mem::take(&mut request.messages);
    let mut template_kwargs = std::mem::take(&mut request.chat_template_kwargs);
    if let Some(grounded) = request.grounded_response {
        template_kwargs.insert("grounded_response".to_owned(), grounded.into());
    }
    let chat = Chat {
        messages: messages
            .into_iter()
            .map(|message| model_message(message, &mut sources))
            .collect(),
        template_kwargs,
    };
    let pictures = model
        .media
        .load_all(&sources.urls)
        .await
        .map_err(|(index, source)| Refusal::Media {
            field: field(&sources, index),
            source,
        })?;
    run_processor(state, Arc::clone(model), chat, pictures)
        .await?
        .map_err(|source| {
            let field = match &source {
                PrepareError::Image { index, .. } => field(&sources, *index),
                _ => "messages".to_owned(),
            };
            Refusal::Prepare { field, source }
        })
}

/// Runs the model's processor on a blocking thread, a bounded number at a time.
async fn run_processor(
    state: &AppState,
    model: Arc<ServedModel>,
    chat: Chat,
    pictures: Vec<Picture>,
) -> Result<Result<Prepared, PrepareError>, Refusal> {
    let slots = Arc::clone(state.prepare_slots());
    let slot = slots.acquire_owned().await.map_err(|_| Refusal::Internal)?;
    // The slot goes along: a client that leaves does not free it before the work is done.
    let work = spawn_blocking(move || {
        let prepared = model.processor.prepare(&chat, &pictures);
        drop(slot);
        prepared
    });
    work.await.map_err(|error| {
        tracing::error!(%error, "the processor panicked");
        Refusal::Internal
    })
}

fn field(sources: &Sources, index: usize) -> String {
    let field = sources.fields.get(index);
    field.map_or("messages", String::as_str).to_owned()
}

fn model_message(message: Message, sources: &mut Sources) -> ModelMessage {
    let parts = match message.content {
        MessageContent::Text(text) => vec![Part::Text(text)],
        MessageContent::Parts(parts) => parts
            .into_iter()
            .map(|part| match part {
                ContentPart::Text { text } => Part::Text(text),
                ContentPart::ImageUrl { image_url } => {
                    sources.urls.push(image_url.url);
                    sources.fields.push(image_url.field);
                    Part::Image(sources.urls.len() - 1)
                }
            })
            .collect(),
    };
    ModelMessage {
        role: message.role.as_str().to_owned(),
        parts,
        labels: message.labels,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pictures_are_numbered_over_the_whole_conversation() {
        let request = ChatRequest::from_value(json!({"model": "m", "messages": [
            {"role": "user", "content": "<img src='data:a'> what?"},
            {"role": "assistant", "content": "A cat."},
            {"role": "user", "content": [{"type": "text", "text": "and"},
                {"type": "image_url", "image_url": {"url": "data:b"}}]},
        ]}))
        .unwrap();
        let mut sources = Sources::default();
        let messages: Vec<_> = request
            .messages
            .into_iter()
            .map(|message| model_message(message, &mut sources))
            .collect();
        assert_eq!(
            messages[0].parts,
            [Part::Image(0), Part::Text("what?".into())]
        );
        assert_eq!(messages[1].parts, [Part::Text("A cat.".into())]);
        assert_eq!(
            messages[2].parts,
            [Part::Text("and".into()), Part::Image(1)]
        );
        assert_eq!(sources.urls, ["data:a", "data:b"]);
        assert_eq!(
            sources.fields,
            [
                "messages[0].content",
                "messages[2].content[1].image_url.url"
            ]
        );
    }
}
