//! Log probabilities as they are reported.

use super::{by_logit, highest};
use crate::request::Logprobs;

/// Of token `chosen` and the `top` most probable ones, by log-softmax of `raw`. Tokens that the
/// model rules out (negative infinity) are not among the best, even if that leaves fewer.
pub(super) fn report(raw: &[f32], chosen: u32, top: usize, scratch: &mut Vec<u32>) -> Logprobs {
    let max = raw.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = raw.iter().map(|l| f64::from(l - max).exp()).sum();
    let log_sum = f64::from(max) + sum.ln();
    let logprob = |id: u32| (f64::from(raw[id as usize]) - log_sum) as f32;

    let own = raw[chosen as usize];
    let rank = raw.iter().filter(|logit| **logit >= own).count();
    highest(raw, top, scratch);
    scratch.sort_unstable_by(by_logit(raw));
    Logprobs {
        chosen: logprob(chosen),
        rank,
        top: scratch
            .iter()
            .map(|&id| (id, logprob(id)))
            .filter(|(_, logprob)| logprob.is_finite())
            .collect(),
    }
}
