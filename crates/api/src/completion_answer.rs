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
    /// How the prompt goes on; with `echo`, behind the prompt.
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

/// Log probabilities of an answer, or of a piece of it: lists with one entry per token. With `echo`
/// the prompt's tokens come first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct TextLogprobs {
    /// Where each token begins in the answer's text, in characters, by the texts of those before.
    pub text_offset: Vec<usize>,
    /// Natural logarithm of each one's probability, before temperature and penalties. Null for a
    /// prompt's first token.
    pub token_logprobs: Vec<Option<f32>>,
    /// Each token as text; U+FFFD stands for bytes that are no whole character.
    pub tokens: Vec<String>,
    /// The token and the most probable ones at its place, with their log probabilities. Null for a
    /// prompt's first token.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
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
            lists.push(&mut offset, token.token, Some((token.logprob, top)));
        }
        lists
    }

    /// Of a prompt's `tokens`, each with its text, by what is known of their places: each of
    /// `scores` has the token itself and others, of which the `most` best are told.
    #[must_use]
    pub fn of_prompt(
        tokens: &[(u32, String)],
        scores: &[Option<BTreeMap<u32, PromptLogprob>>],
        most: usize,
    ) -> Self {
        let (mut lists, mut offset) = (Self::default(), 0);
        let scores = scores.iter().map(Option::as_ref);
        for ((id, text), scores) in tokens.iter().zip(scores.chain(std::iter::repeat(None))) {
            let known = scores.and_then(|scores| Some((scores, scores.get(id)?.logprob)));
            let known = known.map(|(scores, logprob)| {
                let told = scores
                    .iter()
                    .filter(|(rival, score)| *rival == id || score.rank <= most);
                let mut top: BTreeMap<String, f32> = BTreeMap::new();
                for (_, score) in told {
                    let best = top.entry(score.decoded_token.clone());
                    let best = best.or_insert(score.logprob);
                    *best = best.max(score.logprob);
                }
                (logprob, top)
            });
            lists.push(&mut offset, text.clone(), known);
        }
        lists
    }

    /// Puts `next` behind it.
    #[must_use]
    pub fn followed_by(mut self, next: Self) -> Self {
        self.text_offset.extend(next.text_offset);
        self.token_logprobs.extend(next.token_logprobs);
        self.tokens.extend(next.tokens);
        self.top_logprobs.extend(next.top_logprobs);
        self
    }

    /// Adds a token that begins at `offset`, which becomes where the next one does.
    fn push(
        &mut self,
        offset: &mut usize,
        token: String,
        known: Option<(f32, BTreeMap<String, f32>)>,
    ) {
        let (logprob, top) = known.unzip();
        self.text_offset.push(*offset);
        *offset = offset.saturating_add(token.chars().count());
        self.token_logprobs.push(logprob);
        self.tokens.push(token);
        self.top_logprobs.push(top);
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
    /// More text; empty only in the answer's last chunk. With `echo` the first is the prompt.
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

    #[test]
    fn a_prompts_tokens_have_theirs_but_for_the_first() {
        let score = |text: &str, logprob, rank| PromptLogprob::new(text.into(), logprob, rank);
        let tokens = [(7, "né".to_owned()), (8, "c".to_owned())];
        let scores = [
            None,
            Some(BTreeMap::from([
                (8, score("c", -3.0, 9)),
                (9, score("d", -0.25, 1)),
                (10, score("e", -1.5, 2)),
            ])),
        ];
        let prompt = TextLogprobs::of_prompt(&tokens, &scores, 1);
        let top = TopLogprob::new("z".into(), -0.5);
        let answer = vec![TokenLogprob::new(top.clone(), vec![top])];
        let answer = TextLogprobs::new(answer, prompt.end().unwrap());
        assert_eq!(
            serde_json::to_value(prompt.followed_by(answer)).unwrap(),
            json!({"text_offset": [0, 2, 3], "token_logprobs": [null, -3.0, -0.5],
                "tokens": ["né", "c", "z"],
                "top_logprobs": [null, {"c": -3.0, "d": -0.25}, {"z": -0.5}]})
        );
    }
}
