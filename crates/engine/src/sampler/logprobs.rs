//! Log probabilities as they are reported.

use std::cmp::Ordering;

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

/// Highest first, equal ones by id: a total order, so that no result depends on how it is
/// selected. Adding 0 makes zeros of either sign equal, as [`vlmd_kernels::draw`] has them.
fn by_logit(logits: &[f32]) -> impl Fn(&u32, &u32) -> Ordering + Copy + '_ {
    move |a, b| {
        let (x, y) = (logits[*a as usize] + 0.0, logits[*b as usize] + 0.0);
        y.total_cmp(&x).then(a.cmp(b))
    }
}

/// Fills `ids` with the ids of the `count` highest logits, in order. Linear in the vocabulary.
fn highest(logits: &[f32], count: usize, ids: &mut Vec<u32>) {
    ids.clear();
    ids.extend((0..).take(logits.len()));
    if count < ids.len() {
        ids.select_nth_unstable_by(count, by_logit(logits));
        ids.truncate(count);
    }
    ids.sort_unstable_by(by_logit(logits));
}
