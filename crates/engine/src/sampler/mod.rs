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

mod allowed;
mod bad_words;
mod draw;
mod history;
mod logprobs;
mod ngrams;

use std::cmp::Ordering;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use vlmd_kernels::MOST_HIGHEST;

use crate::constraint::{Constraint, ConstraintError};
use crate::request::{Logprobs, RequestError, Sampling};
use crate::rows::Need;
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

    /// How many of the highest logits decide the next choice, whatever the others are.
    pub(crate) fn need(&self, suppressed: &[u32]) -> Need {
        let Sampling {
            temperature,
            top_k,
            no_repeat_ngram_size,
            allowed_tokens,
            logit_bias,
            logprobs,
            ..
        } = &self.sampling;
        let whole = self.constraint.is_some()
            || allowed_tokens.is_some()
            || !self.bad_words.is_empty()
            || !logit_bias.is_empty()
            || !suppressed.is_empty()
            || logprobs.is_some()
            || self.history.is_kept()
            || *no_repeat_ngram_size > 0;
        match top_k {
            _ if whole => Need::All,
            _ if *temperature == 0.0 => Need::of(1),
            Some(k) => Need::of((*k).max(1) as usize),
            None => Need::All,
        }
    }

    /// [`Sampler::choose`] where the highest `logits` decide ([`Sampler::need`]): the token is the
    /// same. They come in order, with their `ids`, at least as many as are needed.
    pub(crate) fn choose_among(
        &mut self,
        ids: &[u32],
        logits: &mut [f32],
        scratch: &mut Vec<u32>,
    ) -> Result<Choice, RequestError> {
        if !logits.first().is_some_and(|highest| highest.is_finite()) {
            return Err(RequestError::InvalidLogits);
        }
        let at = if self.sampling.temperature == 0.0 {
            Some(0)
        } else {
            let uniform = self.rng.random::<f64>();
            draw::draw(&self.sampling, logits, uniform, scratch)
        };
        let id = at.and_then(|at| ids.get(at as usize));
        let id = *id.ok_or(RequestError::NothingAllowed)?;
        self.note(id)?;
        Ok(Choice { id, logprobs: None })
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
        let id = if self.sampling.temperature == 0.0 {
            first_highest(logits)
        } else {
            let uniform = self.rng.random::<f64>();
            draw::draw(&self.sampling, logits, uniform, scratch)
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

/// The highest logit: NaN where there is one, negative infinity where there is none.
fn greatest(logits: &[f32]) -> f32 {
    // NaN compares with nothing: once taken, it stays.
    let higher = |highest: f32, logit: f32| {
        if logit > highest || logit.is_nan() {
            logit
        } else {
            highest
        }
    };
    // Lanes that know nothing of each other are what the compiler turns into vectors.
    let (chunks, rest) = logits.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = higher(*lane, logit);
        }
    }
    let all = lanes.iter().chain(rest).copied();
    all.fold(f32::NEG_INFINITY, higher)
}

/// The first of the highest logits, if it is a number.
fn first_highest(logits: &[f32]) -> Option<u32> {
    const STRIDE: usize = 256;
    let highest = greatest(logits);
    if !highest.is_finite() {
        return None;
    }
    let has_it = |stride: &[f32]| stride.iter().fold(false, |has, &l| has | (l == highest));
    let start = STRIDE * logits.chunks(STRIDE).position(has_it)?;
    let within = logits[start..].iter().position(|&l| l == highest)?;
    u32::try_from(start + within).ok()
}

/// Highest first, equal ones by id: a total order, so that no result depends on how it is
/// selected. Adding 0 makes zeros of either sign equal, as [`vlmd_kernels::highest()`] has them.
fn by_logit(logits: &[f32]) -> impl Fn(&u32, &u32) -> Ordering + Copy + '_ {
    move |a, b| {
        let (x, y) = (logits[*a as usize] + 0.0, logits[*b as usize] + 0.0);
        y.total_cmp(&x).then(a.cmp(b))
    }
}

/// Fills `ids` with the ids of the `count` highest logits; few are in order, so that whoever has
/// only these sums over them in the same one. Linear in the vocabulary.
fn highest(logits: &[f32], count: usize, ids: &mut Vec<u32>) {
    ids.clear();
    ids.extend((0..).take(logits.len()));
    if count < ids.len() {
        ids.select_nth_unstable_by(count, by_logit(logits));
        ids.truncate(count);
    }
    if count <= MOST_HIGHEST {
        ids.sort_unstable_by(by_logit(logits));
    }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
