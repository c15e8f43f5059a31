//! Drawing from the part of the distribution that `top_k`, `top_p` and `min_p` leave.

use super::{by_logit, highest};
use crate::request::Sampling;

/// How many of the best tokens `top_p` sorts at first. Most distributions reach their sum within
/// these; where one is flatter, four times as many follow.
const FIRST_SORTED: usize = 64;

/// Draws a token with `uniform`, in [0, 1). `logits` are used up. `None` if no token is possible.
pub(super) fn draw(
    sampling: &Sampling,
    logits: &mut [f32],
    uniform: f64,
    ids: &mut Vec<u32>,
) -> Option<u32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !max.is_finite() {
        return None;
    }
    let temperature = sampling.temperature;
    // Relative to the best token's, so that no temperature overflows: the best has weight 1.
    let weight = |logit: f32| ((logit - max) / temperature).exp();

    let top_k = sampling.top_k.map_or(usize::MAX, |k| k as usize).max(1);
    if top_k >= logits.len() && sampling.top_p >= 1.0 {
        for logit in &mut *logits {
            *logit = Some(weight(*logit))
                .filter(|w| *w >= sampling.min_p)
                .unwrap_or(0.0);
        }
        let weights = logits.iter().map(|w| f64::from(*w));
        return walk((0..).zip(weights.clone()), weights.sum(), uniform);
    }

    highest(logits, top_k, ids);
    let weight_of = |id: &u32| f64::from(weight(logits[*id as usize]));
    let keep = if sampling.top_p < 1.0 {
        nucleus(logits, weight_of, f64::from(sampling.top_p), ids)
    } else {
        ids.sort_unstable_by(by_logit(logits));
        ids.len()
    };
    // What is below `min_p` lies at the end: weights fall.
    let kept = ids[..keep]
        .iter()
        .map(|id| (*id, weight_of(id)))
        .take_while(|(_, w)| *w >= f64::from(sampling.min_p));
    let total = kept.clone().map(|(_, w)| w).sum();
    walk(kept, total, uniform)
}

/// Sorts the best of `ids` to the front and gives how many of them it takes to reach the share
/// `top_p` of all their weight, at least one. A full sort is avoided where few are enough.
fn nucleus(logits: &[f32], weight: impl Fn(&u32) -> f64, top_p: f64, ids: &mut [u32]) -> usize {
    let target = top_p * ids.iter().map(&weight).sum::<f64>();
    let (mut keep, mut sorted, mut sum) = (0, 0, 0.0);
    while keep == 0 || (sum < target && keep < ids.len()) {
        if keep == sorted {
            let more = FIRST_SORTED.max(3 * sorted).min(ids.len() - sorted);
            let rest = &mut ids[sorted..];
            if more < rest.len() {
                rest.select_nth_unstable_by(more, by_logit(logits));
            }
            rest[..more].sort_unstable_by(by_logit(logits));
            sorted += more;
        }
        sum += weight(&ids[keep]);
        keep += 1;
    }
    keep
}

/// The token at the share `uniform` of the `total` weight.
fn walk(weights: impl Iterator<Item = (u32, f64)>, total: f64, uniform: f64) -> Option<u32> {
    let mut rest = uniform * total;
    // Rounding may leave the walk short of the end by a hair: the last possible token is it then.
    let mut last = None;
    for (id, weight) in weights.filter(|(_, weight)| *weight > 0.0) {
        last = Some(id);
        rest -= weight;
        if rest < 0.0 {
            break;
        }
    }
    last
}
