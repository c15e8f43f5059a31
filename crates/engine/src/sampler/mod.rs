//! How the next token is chosen.
//!
//! The chain, in this order:
//!
//! 1. log probabilities are taken from the raw logits (vLLM's `raw_logprobs`);
//! 2. what the constraint forbids is made impossible, as is everything but `allowed_tokens`, and
//!    what would complete one of `bad_words`;
//! 3. `logit_bias` is added, and stop tokens are made impossible until `min_tokens` are there;
//! 4. `repetition_penalty` over prompt and answer, then `frequency_penalty` and
//!    `presence_penalty` over the answer (vLLM's `apply_penalties`);
//! 5. tokens are ruled out that would repeat `no_repeat_ngram_size` tokens in a row of prompt and
//!    answer (transformers' `NoRepeatNGramLogitsProcessor`);
//! 6. at temperature 0 the first of the highest logits is chosen; otherwise logits are divided
//!    by the temperature;
//! 7. `top_k`, then `top_p` of what that left, then `min_p`, then `typical_p` of what is left
//!    by then (the order of transformers' warpers);
//! 8. one number from the request's own generator draws among the rest.
//!
//! Everything depends on the request and its logits alone, so an answer does not change with
//! its neighbours. Token ids beyond the vocabulary have no effect.
//!
//! Where only 6, 7 without `typical_p` and 8 have something to do, the token is drawn on the
//! device and the logits stay there. That is the same token to the last bit: see
//! [`vlmd_kernels::draw`], which both ways go.

mod allowed;
mod bad_words;
mod history;
mod logprobs;
mod ngrams;
mod typical;

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use vlmd_kernels::Terms;
use vlmd_kernels::draw::{self, greatest};

use crate::constraint::{Constraint, ConstraintError};
use crate::request::{Logprobs, RequestError, Sampling};
use bad_words::BadWords;
use history::History;
use ngrams::Ngrams;

/// A token that was chosen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choice {
    pub(crate) id: u32,
    pub(crate) logprobs: Option<Logprobs>,
}

/// The sampling state of one request.
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    rng: StdRng,
    /// What came out of `rng` and was not used yet, in its order.
    numbers: VecDeque<u64>,
    history: History,
    ngrams: Ngrams,
    bad_words: BadWords,
    constraint: Option<Box<dyn Constraint>>,
}

impl Sampler {
    /// `prompt` are the ids of the prompt's text, which `repetition_penalty` counts as seen.
    pub(crate) fn new(
        mut sampling: Sampling,
        constraint: Option<Box<dyn Constraint>>,
        prompt: impl IntoIterator<Item = u32>,
    ) -> Self {
        let rng = sampling
            .seed
            .map_or_else(StdRng::from_os_rng, StdRng::seed_from_u64);
        let history = History::new(&sampling, prompt);
        if let Some(allowed) = &mut sampling.allowed_tokens {
            allowed.sort_unstable();
        }
        Self {
            bad_words: BadWords::new(std::mem::take(&mut sampling.bad_words)),
            ngrams: Ngrams::new(sampling.no_repeat_ngram_size),
            sampling,
            rng,
            numbers: VecDeque::new(),
            history,
            constraint,
        }
    }

    /// Counts the runs of `prompt`, all of it: where pictures stand, the ids are counted that the
    /// architecture's processor wrote there.
    pub(crate) fn after(mut self, prompt: &[u32]) -> Self {
        self.ngrams.extend(prompt);
        self
    }

    /// The tokens that must come next by the constraint. None where log probabilities are to be
    /// reported: those are the model's to tell.
    pub(crate) fn forced(&mut self) -> Result<Vec<u32>, RequestError> {
        match &mut self.constraint {
            Some(constraint) if self.sampling.logprobs.is_none() => {
                constraint.forced().map_err(|error| broken(&error))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Whether the constraint lets nothing follow.
    pub(crate) fn is_complete(&self) -> bool {
        self.constraint
            .as_deref()
            .is_some_and(Constraint::is_complete)
    }

    /// How probable `token` is by `logits`, `[vocab]`, and which `top` are the most probable.
    /// `None` where the logits are no numbers or there is no such token.
    pub(crate) fn score(
        logits: &[f32],
        token: u32,
        top: usize,
        scratch: &mut Vec<u32>,
    ) -> Option<Logprobs> {
        let highest = greatest(logits);
        let numbers = !highest.is_nan() && highest != f32::INFINITY;
        (numbers && (token as usize) < logits.len())
            .then(|| logprobs::report(logits, token, top, scratch))
    }

    /// Notes a token that the answer has now.
    pub(crate) fn note(&mut self, id: u32) -> Result<(), RequestError> {
        self.history.push(id);
        self.ngrams.extend(&[id]);
        self.bad_words.push(id);
        match &mut self.constraint {
            Some(constraint) => constraint.accept(id).map_err(|error| broken(&error)),
            None => Ok(()),
        }
    }

    /// What of the chain changes single logits, whatever the temperature.
    fn apply_rules(&mut self, logits: &mut [f32], suppressed: &[u32]) -> Result<(), RequestError> {
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(logits).map_err(|error| broken(&error))?;
        }
        if let Some(allowed) = &self.sampling.allowed_tokens {
            allowed::keep_only(logits, allowed);
        }
        self.bad_words.rule_out(logits);
        for &(id, bias) in &self.sampling.logit_bias {
            change(logits, id, |l| l + bias);
        }
        for &id in suppressed {
            change(logits, id, |_| f32::NEG_INFINITY);
        }
        self.history.penalize(&self.sampling, logits);
        self.ngrams.rule_out(logits);
        Ok(())
    }

    /// By what the next token is drawn where the logits alone decide and a device can draw; `None`
    /// where the logits have to be here ([`Sampler::choose`]). `suppressed` ids cannot be chosen.
    pub(crate) fn terms_on_device(&self, suppressed: &[u32]) -> Option<Terms> {
        let Sampling {
            temperature,
            typical_p,
            no_repeat_ngram_size,
            allowed_tokens,
            logit_bias,
            logprobs,
            ..
        } = &self.sampling;
        let here = self.constraint.is_some()
            || allowed_tokens.is_some()
            || !self.bad_words.is_empty()
            || !logit_bias.is_empty()
            || !suppressed.is_empty()
            || logprobs.is_some()
            || self.history.is_kept()
            || *no_repeat_ngram_size > 0
            || (*typical_p < 1.0 && *temperature > 0.0);
        (!here).then(|| self.terms())
    }

    fn terms(&self) -> Terms {
        Terms {
            temperature: self.sampling.temperature,
            top_k: self.sampling.top_k,
            top_p: self.sampling.top_p,
            min_p: self.sampling.min_p,
        }
    }

    /// The numbers that the next `count` choices draw with, if they draw. They stay the next ones
    /// until choices are made.
    pub(crate) fn numbers(&mut self, count: usize) -> &[u64] {
        while self.numbers.len() < count {
            self.numbers.push_back(self.rng.random());
        }
        &self.numbers.make_contiguous()[..count]
    }

    /// The number that this choice draws with. One that draws nothing leaves it to the next.
    fn take_number(&mut self) -> u64 {
        if self.sampling.temperature == 0.0 {
            return 0;
        }
        let known = self.numbers.pop_front();
        known.unwrap_or_else(|| self.rng.random())
    }

    /// Takes the token that was drawn by [`Sampler::terms_on_device`] with the first of
    /// [`Sampler::numbers`].
    ///
    /// # Errors
    /// [`RequestError::InvalidLogits`] where there is none.
    pub(crate) fn take(&mut self, drawn: Option<u32>) -> Result<Choice, RequestError> {
        self.take_number();
        let id = drawn.ok_or(RequestError::InvalidLogits)?;
        self.note(id)?;
        Ok(Choice { id, logprobs: None })
    }

    /// What is drawn among, at a temperature above 0. `None` if no token is possible.
    fn candidates(&self, logits: &[f32]) -> Option<Vec<draw::Candidate>> {
        let Sampling {
            temperature,
            typical_p,
            ..
        } = self.sampling;
        let mut candidates = draw::keep(logits, &self.terms())?;
        if typical_p < 1.0 {
            typical::keep(&mut candidates, temperature, typical_p);
        }
        Some(candidates)
    }

    /// Chooses by `logits`, `[vocab]`, which are used up. `suppressed` ids cannot be chosen.
    /// `scratch` is room to work in, kept by the caller between calls.
    ///
    /// # Errors
    /// [`RequestError::InvalidLogits`] for NaN or positive infinity, and where the model makes no
    /// token possible. Negative infinity is a token that the model rules out.
    /// [`RequestError::NothingAllowed`] where the request rules out all others.
    pub(crate) fn choose(
        &mut self,
        logits: &mut [f32],
        suppressed: &[u32],
        scratch: &mut Vec<u32>,
    ) -> Result<Choice, RequestError> {
        if !greatest(logits).is_finite() {
            return Err(RequestError::InvalidLogits);
        }
        let raw = self.sampling.logprobs.map(|top| (top, logits.to_vec()));
        self.apply_rules(logits, suppressed)?;
        let number = self.take_number();
        let id = if self.sampling.typical_p < 1.0 && self.sampling.temperature > 0.0 {
            self.candidates(logits)
                .and_then(|candidates| draw::pick(&candidates, number))
        } else {
            draw::choose(logits, &self.terms(), number)
        };
        let id = id.ok_or(RequestError::NothingAllowed)?;
        self.note(id)?;
        let logprobs = raw.map(|(top, raw)| logprobs::report(&raw, id, top, scratch));
        Ok(Choice { id, logprobs })
    }
}

fn broken(error: &ConstraintError) -> RequestError {
    tracing::warn!(%error, "an answer's constraint failed");
    RequestError::ConstraintFailed
}

/// Replaces one token's logit, if there is such a token.
fn change(logits: &mut [f32], id: u32, new: impl FnOnce(f32) -> f32) {
    if let Some(logit) = logits.get_mut(id as usize) {
        *logit = new(*logit);
    }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
