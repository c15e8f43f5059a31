//! What a request has said so far, and what that costs.

use std::collections::HashMap;

use super::change;
use crate::request::Sampling;

/// Tokens seen, with how often the answer has each. Empty where no penalty asks for it.
#[derive(Debug)]
pub(super) struct History {
    kept: bool,
    /// Tokens of the prompt alone have 0.
    answered: HashMap<u32, u32>,
}

impl History {
    pub(super) fn new(sampling: &Sampling, prompt: impl IntoIterator<Item = u32>) -> Self {
        let repetition = sampling.repetition_penalty != 1.0;
        let kept =
            repetition || sampling.frequency_penalty != 0.0 || sampling.presence_penalty != 0.0;
        let seen = prompt.into_iter().filter(|_| repetition);
        Self {
            kept,
            answered: seen.map(|id| (id, 0)).collect(),
        }
    }

    /// Whether anything seen costs something.
    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }

    /// Notes a token of the answer.
    pub(super) fn push(&mut self, id: u32) {
        if self.kept {
            *self.answered.entry(id).or_default() += 1;
        }
    }

    /// Each token is changed on its own, so the map's order does not matter.
    pub(super) fn penalize(&self, sampling: &Sampling, logits: &mut [f32]) {
        for (&id, &count) in &self.answered {
            change(logits, id, |logit| {
                let logit = if logit < 0.0 {
                    logit * sampling.repetition_penalty
                } else {
                    // A tiny penalty would make it infinite, and no token would be the highest.
                    (logit / sampling.repetition_penalty).min(f32::MAX)
                };
                if count == 0 {
                    return logit;
                }
                logit - sampling.frequency_penalty * count as f32 - sampling.presence_penalty
            });
        }
    }
}
