//! Text completions, whole and in chunks, field for field what vLLM sends.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{FinishReason, Null, PromptLogprob, StopReason, TokenLogprob, Usage};

/// A fresh id for text completions, `cmpl-` and 32 hexadecimal digits.
#[must_use]
pub fn text_completion_id() -> String {
    format!("cmpl-{}", Uuid::new_v4().simple())
}

/// All answers to a request for text completions.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TextCompletion {
    /// See [`text_completion_id`].
    pub id: String,
    /// Always `text_completion`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// The model's name as the request gave it.
    pub model: String,
    /// As many as `n` for each prompt, prompt after prompt.
    pub choices: Vec<TextChoice>,
    /// Tokens read and written, of all prompts together.
    pub usage: Usage,
    /// Always null.
    #[schema(value_type = Option<Object>)]
    pub kv_transfer_params: Null,
}

impl TextCompletion {
    /// Value of `object`, in chunks as well.
    pub const OBJECT: &'static str = "text_completion";
}

/// One answer of a [`TextCompletion`].
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TextChoice {
    /// From 0: `n` times the prompt's index, and its own among the prompt's answers.
    pub index: usize,
    /// How the prompt goes on.
    pub text: String,
    /// If the request asked for them.
    pub logprobs: Option<TextLogprobs>,
    /// Why the answer ended.
    pub finish_reason: FinishReason,
    /// The request's own stop string or stop token that ended it.
    pub stop_reason: Option<StopReason>,
    /// With a prompt's first answer, if the request asked for them: see the chat route.
    pub prompt_logprobs: Option<Vec<Option<BTreeMap<u32, PromptLogprob>>>>,
}

/// Log probabilities of an answer, or of a piece of it: lists with one entry per token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct TextLogprobs {
    /// Where each token begins in the answer's text, in characters, by the texts of those before.
    pub text_offset: Vec<usize>,
    /// Natural logarithm of each one's probability, before temperature and penalties.
    pub token_logprobs: Vec<f32>,
    /// Each token as text; U+FFFD stands for bytes that are no whole character.
    pub tokens: Vec<String>,
    /// The token and the most probable ones at its place, with their log probabilities.
    pub top_logprobs: Vec<BTreeMap<String, f32>>,
}

impl TextLogprobs {
    /// Takes what is known of tokens, of which the first begins at character `offset` of the
    /// answer.
    #[must_use]
    pub fn new(tokens: Vec<TokenLogprob>, mut offset: usize) -> Self {
        let mut lists = Self::default();
        for token in tokens {
            let mut top: BTreeMap<String, f32> = BTreeMap::new();
            for rival in token.top_logprobs {
                // Several tokens may read the same; the best comes first.
                top.entry(rival.token).or_insert(rival.logprob);
            }
            top.entry(token.token.clone()).or_insert(token.logprob);
            lists.text_offset.push(offset);
            offset = offset.saturating_add(token.token.chars().count());
            lists.token_logprobs.push(token.logprob);
            lists.tokens.push(token.token);
            lists.top_logprobs.push(top);
        }
        lists
    }

    /// Where the token after the last one begins, if there is a last one.
    #[must_use]
    pub fn end(&self) -> Option<usize> {
        let last = self.tokens.last()?.chars().count();
        Some(self.text_offset.last()?.saturating_add(last))
    }
}

/// A piece of streamed text completions.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TextChunk {
    /// The same in all chunks of a request.
    pub id: String,
    /// Always `text_completion`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// Seconds since the Unix epoch, the same in all chunks.
    pub created: u64,
    /// The model's name as the request gave it.
    pub model: String,
    /// One, or none in the chunk that carries the usage at the end.
    pub choices: Vec<TextChunkChoice>,
    /// As `stream_options` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// What a chunk adds to one answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TextChunkChoice {
    /// Of the answer: see [`TextChoice`].
    pub index: usize,
    /// More text; empty only in the answer's last chunk.
    pub text: String,
    /// Of the tokens since the last chunk, if the request asked for them.
    pub logprobs: Option<TextLogprobs>,
    /// In the answer's last chunk only.
    pub finish_reason: Option<FinishReason>,
    /// In the answer's last chunk, if something of the request ended it.
    pub stop_reason: Option<StopReason>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::TopLogprob;

    #[test]
    fn log_probabilities_come_in_lists() {
        let top = |token: &str, logprob| TopLogprob::new(token.into(), logprob);
        let tokens = vec![
            TokenLogprob::new(top("né", -0.5), vec![top("né", -0.5), top("b", -1.0)]),
            TokenLogprob::new(top("c", -3.0), vec![top("d", -0.25), top("d", -0.5)]),
        ];
        let lists = TextLogprobs::new(tokens, 3);
        assert_eq!(lists.end(), Some(6));
        assert_eq!(
            serde_json::to_value(lists).unwrap(),
            json!({"text_offset": [3, 5], "token_logprobs": [-0.5, -3.0], "tokens": ["né", "c"],
                "top_logprobs": [{"b": -1.0, "né": -0.5}, {"c": -3.0, "d": -0.25}]})
        );
        assert_eq!(TextLogprobs::new(Vec::new(), 3).end(), None);
    }
}
