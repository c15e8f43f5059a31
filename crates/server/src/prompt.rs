//! From a conversation to a prompt: pictures, template, tokens.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::spawn_blocking;
use tracing::{Instrument as _, Span, info_span};
use vlmd_api::{ChatRequest, ContentPart, DEFAULT_MAX_TOKENS, Message, MessageContent, PastCall};
use vlmd_backend::Prepared;
use vlmd_models::{Chat, Ending, Message as ModelMessage, Part, PrepareError, ToolCall};

use crate::auth::Caller;
use crate::bad_words;
use crate::echo::Echo;
use crate::error::Refusal;
use crate::pictures::{Arrived, Owner, Wanted};
use crate::state::{AppState, ServedModel};

/// What the engine has to know of a request's words and pictures.
#[derive(Debug)]
pub(crate) struct Prompt {
    pub(crate) prepared: Prepared,
    /// Tokens of `bad_words`.
    pub(crate) bad_words: Vec<Vec<u32>>,
    /// Only prompts with the same share what is computed.
    pub(crate) salt: Vec<u8>,
    pub(crate) origin: Origin,
    /// Whether the answer goes on in the middle of a text.
    pub(crate) continues: bool,
    /// As it reads, where that is known: it is not made to be answered.
    pub(crate) text: Option<String>,
    /// If its answers repeat it.
    pub(crate) echo: Option<Echo>,
}

/// What a prompt was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A conversation, to which the answer adds a message.
    Messages,
    /// A text, which the answer continues.
    Text,
}

impl Origin {
    /// The field of the request.
    pub(crate) fn field(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Text => "prompt",
        }
    }

    /// Most tokens of an answer whose request does not bound it.
    pub(crate) fn default_max_tokens(self, model: &ServedModel) -> usize {
        match self {
            Self::Messages => model.default_max_tokens,
            Self::Text => DEFAULT_MAX_TOKENS as usize,
        }
    }
}

impl Prompt {
    /// The tokens whose text the answer continues.
    pub(crate) fn continued(&self) -> &[u32] {
        if self.continues {
            &self.prepared.tokens
        } else {
            &[]
        }
    }
}

/// What is made into a prompt.
#[derive(Debug)]
struct Draft {
    chat: Chat,
    pictures: Vec<Arrived>,
    owner: Owner,
    bad_words: Vec<String>,
    /// Whether the last message says something.
    ends_in_words: bool,
    /// Whether its text is wanted.
    shown: bool,
}

/// Makes the prompt of a request. Takes its messages, template arguments and bad words out of it.
pub(crate) async fn prepare(
    state: &AppState,
    model: &Arc<ServedModel>,
    request: &mut ChatRequest,
    caller: Option<Caller>,
) -> Result<Prompt, Refusal> {
    make(state, model, request, caller, false).await
}

/// The same with its text, for a prompt that is to be looked at.
pub(crate) async fn show(
    state: &AppState,
    model: &Arc<ServedModel>,
    request: &mut ChatRequest,
    caller: Option<Caller>,
) -> Result<Prompt, Refusal> {
    make(state, model, request, caller, true).await
}

async fn make(
    state: &AppState,
    model: &Arc<ServedModel>,
    request: &mut ChatRequest,
    caller: Option<Caller>,
    shown: bool,
) -> Result<Prompt, Refusal> {
    let given: usize = request
        .messages
        .iter()
        .map(|message| message.content.images().count())
        .sum();
    if given > model.max_images {
        return Err(Refusal::TooManyImages {
            limit: model.max_images,
            given,
            field: "messages".into(),
        });
    }
    let labelled = request.messages.iter().position(|m| !m.labels.is_empty());
    if let Some(index) = labelled
        && !model.processor.takes_labels()
    {
        return Err(Refusal::Labels { index });
    }
    let mut wanted = Wanted::default();
    let last = request.messages.last();
    let ends_in_words = last.is_some_and(|last| !last.content.text().trim().is_empty());
    let messages = std::mem::take(&mut request.messages);
    let mut template_kwargs = std::mem::take(&mut request.chat_template_kwargs);
    if let Some(grounded) = request.grounded_response {
        template_kwargs.insert("grounded_response".to_owned(), grounded.into());
    }
    let chat = Chat {
        messages: messages
            .into_iter()
            .map(|message| model_message(message, &mut wanted))
            .collect(),
        tools: request
            .usable_tools()
            .iter()
            .map(|tool| tool.definition.clone())
            .collect(),
        template_kwargs,
        ending: ending(request),
    };
    let owner = Owner {
        caller,
        cache_salt: request.cache_salt.as_deref().map(Arc::from),
    };
    let start = Instant::now();
    let pictures = model
        .pictures
        .load(&model.media, state.assets(), &owner, &wanted)
        .instrument(info_span!("media", pictures = given))
        .await?;
    let media_ms = start.elapsed().as_millis();
    let draft = Draft {
        chat,
        pictures,
        owner,
        bad_words: std::mem::take(&mut request.bad_words),
        ends_in_words,
        shown,
    };
    let start = Instant::now();
    let processing = Arc::clone(model);
    let prompt = at_work(state, move || draft.finish(&processing))
        .instrument(info_span!("process"))
        .await?;
    let process_ms = start.elapsed().as_millis();
    tracing::debug!(pictures = given, media_ms, process_ms, "prepared");
    prompt.map_err(|(field, source)| {
        let field = match &source {
            PrepareError::Image { index, .. } => wanted.field(*index),
            PrepareError::Ending(_) if request.continues() => "continue_final_message",
            PrepareError::Ending(_) => "add_generation_prompt",
            _ => field,
        };
        Refusal::Prepare {
            field: field.to_owned(),
            source,
        }
    })
}

/// Where the prompt of a request is to end.
fn ending(request: &ChatRequest) -> Ending {
    if request.continues() {
        Ending::Text
    } else if request.add_generation_prompt == Some(false) {
        Ending::Message
    } else {
        Ending::Answer
    }
}

/// A field of the request, and what is wrong with it.
type Fault = (&'static str, PrepareError);

/// Does what takes its time on a blocking thread, a bounded number of such works at a time.
pub(crate) async fn at_work<T: Send + 'static>(
    state: &AppState,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let slots = Arc::clone(state.prepare_slots());
    let slot = slots.acquire_owned().await.map_err(|_| Refusal::Internal)?;
    // The slot goes along: a client that leaves does not free it before the work is done.
    let span = Span::current();
    let work = spawn_blocking(move || {
        let result = span.in_scope(work);
        drop(slot);
        result
    });
    work.await.map_err(|error| {
        tracing::error!(%error, "making a prompt panicked");
        Refusal::Internal
    })
}

impl Draft {
    fn finish(self, model: &ServedModel) -> Result<Prompt, Fault> {
        let processor = &*model.processor;
        let bad_words = bad_words::tokens(processor.tokenizer(), &self.bad_words)
            .map_err(|error| ("bad_words", PrepareError::Tokenize(error.to_string())))?;
        let image = |(index, arrived)| {
            let image = model.pictures.image(processor, &self.owner, arrived);
            image.map_err(|error| error.at(index))
        };
        let pictures = self.pictures.into_iter().enumerate();
        let prepared = pictures
            .map(image)
            .collect::<Result<Vec<_>, _>>()
            .and_then(|images| processor.compose(&self.chat, &images))
            .map_err(|error| ("messages", error))?;
        let text = self.shown.then(|| processor.render(&self.chat)).transpose();
        Ok(Prompt {
            prepared,
            bad_words,
            salt: self.owner.salt(),
            origin: Origin::Messages,
            continues: self.chat.ending == Ending::Text && self.ends_in_words,
            text: text.map_err(|error| ("messages", error))?,
            echo: None,
        })
    }
}

fn model_message(message: Message, wanted: &mut Wanted) -> ModelMessage {
    let parts = match message.content {
        MessageContent::Text(text) => vec![Part::Text(text)],
        MessageContent::Parts(parts) => parts
            .into_iter()
            .map(|part| match part {
                ContentPart::Text { text } => Part::Text(text),
                ContentPart::ImageUrl(image) => Part::Image(wanted.push(image)),
            })
            .collect(),
    };
    ModelMessage {
        role: message.role.as_str().to_owned(),
        parts,
        labels: message.labels,
        tool_calls: message.tool_calls.into_iter().map(model_call).collect(),
        tool_call_id: message.tool_call_id,
        name: message.name,
    }
}

fn model_call(call: PastCall) -> ToolCall {
    ToolCall {
        id: call.id,
        name: call.function.name,
        arguments: call.function.arguments,
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
        let mut wanted = Wanted::default();
        let messages: Vec<_> = request
            .messages
            .into_iter()
            .map(|message| model_message(message, &mut wanted))
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
        assert_eq!(
            [0, 1, 2].map(|index| wanted.field(index)),
            [
                "messages[0].content",
                "messages[2].content[1].image_url.url",
                "messages"
            ]
        );
    }
}
