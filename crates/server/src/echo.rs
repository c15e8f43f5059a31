//! Prompts that text completions repeat in front of their answers (`echo`).

use vlmd_api::{CompletionRequest, FinishReason, TextChoice, TextLogprobs, Usage};
use vlmd_text::{TextError, Tokenizer};

use crate::answer::{End, PromptLogprobs, token_text};
use crate::whole::WholeAnswer;

/// A prompt that is repeated.
#[derive(Debug)]
pub(crate) struct Echo {
    /// As the request has it; of token ids, as they read.
    pub(crate) text: String,
    /// Its tokens with their texts, where log probabilities are wanted.
    tokens: Vec<(u32, String)>,
}

impl Echo {
    /// Of a prompt of these `tokens`, `text` if it was given as one.
    pub(crate) fn new(
        tokenizer: &Tokenizer,
        tokens: &[u32],
        text: Option<&str>,
        has_logprobs: bool,
    ) -> Result<Self, TextError> {
        let wanted = if has_logprobs { tokens } else { &[] };
        let spelled = |&id: &u32| Ok((id, token_text(tokenizer, id)?));
        Ok(Self {
            text: match text {
                Some(text) => text.to_owned(),
                None => tokenizer.decode(tokens, false)?,
            },
            tokens: wanted
                .iter()
                .map(spelled)
                .collect::<Result<_, TextError>>()?,
        })
    }

    /// What `scores` tells of its tokens, with the `top` best of each place.
    pub(crate) fn logprobs(&self, scores: &PromptLogprobs, top: usize) -> TextLogprobs {
        TextLogprobs::of_prompt(&self.tokens, scores, top)
    }

    /// `scores` with the `top` best of each place, and the token that stands there.
    pub(crate) fn narrowed(&self, mut scores: PromptLogprobs, top: usize) -> PromptLogprobs {
        for ((own, _), scores) in self.tokens.iter().zip(&mut scores) {
            if let Some(scores) = scores {
                scores.retain(|id, score| id == own || score.rank <= top);
            }
        }
        scores
    }
}

/// How an answer of no tokens ends.
pub(crate) const SILENT: End = End {
    reason: FinishReason::Length,
    stop: None,
};

/// What of answers and prompts a request wants to be told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Alternatives of each token, of the prompt's as well where it is repeated.
    pub(crate) logprobs: Option<usize>,
    /// Alternatives of each of the prompt's tokens, in the other form.
    prompt_logprobs: Option<usize>,
    /// Whether answers are not wanted at all.
    pub(crate) is_silent: bool,
}

impl Wanted {
    /// What `request` wants.
    pub(crate) fn by(request: &CompletionRequest) -> Self {
        Self {
            logprobs: request.logprobs.map(|count| count as usize),
            prompt_logprobs: request.prompt_logprobs.map(|count| count as usize),
            is_silent: request.max_tokens == 0,
        }
    }

    /// A choice of `answer`, behind the prompt if that is repeated. `scores` are of the prompt.
    pub(crate) fn choice(
        &self,
        index: usize,
        mut answer: WholeAnswer,
        echo: Option<&Echo>,
        scores: Option<PromptLogprobs>,
    ) -> TextChoice {
        if self.is_silent {
            // The one token that was written is no part of anything.
            answer.text.clear();
            answer.logprobs.clear();
            answer.end = SILENT;
        }
        let repeated = echo.zip(scores.as_ref()).zip(self.logprobs);
        let repeated = repeated.map(|((echo, scores), top)| echo.logprobs(scores, top));
        let repeated = repeated.unwrap_or_default();
        let offset = repeated.end().unwrap_or(0);
        let own = TextLogprobs::new(answer.logprobs, offset);
        if let Some(echo) = echo {
            answer.text.insert_str(0, &echo.text);
        }
        let told = scores.zip(self.prompt_logprobs);
        TextChoice {
            index,
            logprobs: self.logprobs.map(|_| repeated.followed_by(own)),
            text: answer.text,
            finish_reason: answer.end.reason,
            stop_reason: answer.end.stop,
            prompt_logprobs: told.map(|(scores, top)| match echo {
                Some(echo) => echo.narrowed(scores, top),
                None => scores,
            }),
        }
    }

    /// The usage of such answers.
    pub(crate) fn usage(&self, usage: Usage) -> Usage {
        if self.is_silent {
            Usage {
                prompt_tokens_details: usage.prompt_tokens_details,
                timings: usage.timings,
                ..Usage::new(usage.prompt_tokens, 0)
            }
        } else {
            usage
        }
    }
}
