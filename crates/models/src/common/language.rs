//! What every processor has: tokenizer, chat template, and the tokens that end an answer.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use vlmd_text::{ChatTemplate, TextError, Tokenizer, ToolFamily, cut_at_mark, mark_end};

use crate::{Chat, Ending, PrepareError};

/// The language of a model.
pub(crate) struct Language {
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// Base models have none, and NeVA writes its prompts without one.
    pub(crate) template: Option<ChatTemplate>,
    /// Ascending, each once.
    pub(crate) stop_ids: Vec<u32>,
    /// Tokens of a prompt are below it: those that have an embedding.
    pub(crate) vocab_size: usize,
}

impl fmt::Debug for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Language")
            .field("stop_ids", &self.stop_ids)
            .field("vocab_size", &self.vocab_size)
            .finish_non_exhaustive()
    }
}

impl Language {
    /// `stop_ids` may hold a token more than once.
    pub(crate) fn new(
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        stop_ids: impl IntoIterator<Item = u32>,
        vocab_size: usize,
    ) -> Self {
        Self {
            tokenizer: Arc::new(tokenizer),
            template,
            stop_ids: each_once(stop_ids),
            vocab_size,
        }
    }

    /// The form in which the model calls tools.
    pub(crate) fn tool_family(&self) -> Option<ToolFamily> {
        self.template.as_ref().and_then(ChatTemplate::tool_family)
    }

    /// Renders `messages`, each an object with `role` and `content` in which what users wrote is
    /// shielded, up to where the prompt is to end. The tools and the arguments for the template are
    /// `chat`'s.
    pub(crate) fn render(
        &self,
        chat: &Chat,
        mut messages: Vec<Value>,
    ) -> Result<String, PrepareError> {
        let template = self.template.as_ref().ok_or_else(|| {
            PrepareError::Template(
                "there is none: the checkpoint is a base model, which cannot chat".to_owned(),
            )
        })?;
        let mut kwargs = self.tokenizer.shield_map(&chat.template_kwargs);
        if !chat.tools.is_empty() {
            let tools = chat.tools.iter();
            let tools = tools.map(|tool| self.tokenizer.shield_json(tool)).collect();
            kwargs.insert("tools".to_owned(), tools);
        }
        if chat.ending == Ending::Text {
            mark_last(&mut messages)?;
        }
        let prompt = template
            .render(
                &Value::Array(messages),
                &kwargs,
                chat.ending == Ending::Answer,
            )
            .map_err(|error| match error {
                TextError::Refused(reason) | TextError::Render(reason) => {
                    PrepareError::Template(reason)
                }
                other => PrepareError::Template(other.to_string()),
            })?;
        if chat.ending != Ending::Text {
            return Ok(prompt);
        }
        cut_at_mark(&prompt).map(str::to_owned).ok_or_else(|| {
            let problem = "the model's chat template leaves out the text of the last message";
            PrepareError::Ending(problem.to_owned())
        })
    }

    /// Takes the shields off a prompt.
    pub(crate) fn unshielded(&self, prompt: &str) -> String {
        self.tokenizer.unshield(prompt).into_owned()
    }

    /// Token ids of one piece of a prompt, each of which has an embedding.
    pub(crate) fn encode(
        &self,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, PrepareError> {
        let ids = self
            .tokenizer
            .encode(text, add_special_tokens)
            .map_err(|error| match error {
                TextError::Encode(reason) => PrepareError::Tokenize(reason),
                other => PrepareError::Tokenize(other.to_string()),
            })?;
        let vocab_size = self.vocab_size;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(PrepareError::Tokenize(format!(
                "token {id} is beyond the model's vocabulary of {vocab_size}"
            )));
        }
        Ok(ids)
    }
}

/// Marks the end of the last message's text.
fn mark_last(messages: &mut [Value]) -> Result<(), PrepareError> {
    let content = messages
        .last_mut()
        .and_then(|message| message.get_mut("content"));
    let last = match content {
        Some(Value::Array(parts)) => parts.last_mut().and_then(|part| part.get_mut("text")),
        whole => whole,
    };
    match last {
        Some(Value::String(text)) => {
            mark_end(text);
            Ok(())
        }
        _ => Err(PrepareError::Ending(
            "the last message must end with text, which the answer continues".to_owned(),
        )),
    }
}

/// Token ids of several sources, ascending.
fn each_once(ids: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut ids: Vec<u32> = ids.into_iter().collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_tokens_of_several_sources_are_listed_once() {
        assert_eq!(each_once([32000, 2, 32007, 2]), [2, 32000, 32007]);
    }
}
