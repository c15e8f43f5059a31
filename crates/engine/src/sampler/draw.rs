//! Drawing from the part of the distribution that `top_k`, `top_p`, `min_p` and `typical_p` leave.

use std::cmp::Ordering;

use super::{by_logit, highest};
use crate::request::Sampling;

/// How many of the first tokens in some order are sorted at first, where it takes the fewest that
/// reach a sum. Most distributions reach it within these; where one is flatter, four times as many
/// follow.
const FIRST_SORTED: usize = 64;

/// Draws a token with `uniform`, in [0, 1). `logits` are used up. `None` if no token is possible.
pub(super) fn draw(
    sampling: &Sampling,
    logits: &mut [f32],
    uniform: f64,
    ids: &mut Vec<u32>,
) -> Option<u32> {
    let scale = Scale::of(sampling, logits)?;
    let top_k = sampling.top_k.map_or(usize::MAX, |k| k as usize);
    if top_k >= logits.len() && sampling.top_p >= 1.0 && sampling.typical_p >= 1.0 {
        for logit in &mut *logits {
            *logit = Some(scale.weight(*logit))
                .filter(|w| *w >= sampling.min_p)
                .unwrap_or(0.0);
        }
        let weights = logits.iter().map(|w| f64::from(*w));
        return walk((0..).zip(weights.clone()), weights.sum(), uniform);
    }
    select(sampling, logits, scale, ids);
    let kept = ids
        .iter()
        .map(|id| (*id, f64::from(scale.weight(logits[*id as usize]))));
    let total = kept.clone().map(|(_, w)| w).sum();
    walk(kept, total, uniform)
}

/// How logits become weights: relative to the best token's, so that no temperature overflows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    max: f32,
    temperature: f32,
}

impl Scale {
    /// `None` if no token is possible.
    pub(super) fn of(sampling: &Sampling, logits: &[f32]) -> Option<Self> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        max.is_finite().then_some(Self {
            max,
            temperature: sampling.temperature,
        })
    }

    /// The best token has weight 1.
    pub(super) fn weight(self, logit: f32) -> f32 {
        ((logit - self.max) / self.temperature).exp()
    }

    /// Negative logarithm of the weight.
    fn cost(self, logit: f32) -> f64 {
        f64::from(self.max - logit) / f64::from(self.temperature)
    }
}

/// Fills `ids` with the tokens that may be drawn, best first, at least one.
pub(super) fn select(sampling: &Sampling, logits: &[f32], scale: Scale, ids: &mut Vec<u32>) {
    let top_k = sampling.top_k.map_or(usize::MAX, |k| k as usize).max(1);
    highest(logits, top_k, ids);
    let weight = |id: &u32| f64::from(scale.weight(logits[*id as usize]));
    if sampling.top_p < 1.0 {
        let share = f64::from(sampling.top_p);
        let keep = fewest(ids, by_logit(logits), weight, share);
        ids.truncate(keep);
    }
    ids.retain(|id| weight(id) >= f64::from(sampling.min_p));
    if sampling.typical_p < 1.0 {
        let cost = |id: &u32| scale.cost(logits[*id as usize]);
        typical(
            ids,
            by_logit(logits),
            weight,
            cost,
            f64::from(sampling.typical_p),
        );
    }
    ids.sort_unstable_by(by_logit(logits));
}

/// Keeps the tokens of `ids` whose information is closest to the distribution's entropy, the
/// fewest that reach the share `mass` of all weight, and whatever is as close as the last of
/// these: locally typical sampling (Meister et al. 2022, as transformers' `TypicalLogitsWarper`).
///
/// `cost` is the negative logarithm of `weight`.
fn typical(
    ids: &mut Vec<u32>,
    by_logit: impl Fn(&u32, &u32) -> Ordering + Copy,
    weight: impl Fn(&u32) -> f64 + Copy,
    cost: impl Fn(&u32) -> f64,
    mass: f64,
) {
    // What cannot be drawn has no information.
    ids.retain(|id| weight(id) > 0.0);
    let total: f64 = ids.iter().map(weight).sum();
    let information = |id: &u32| total.ln() + cost(id);
    let entropy: f64 = ids
        .iter()
        .map(|id| weight(id) / total * information(id))
        .sum();
    let distance = |id: &u32| (information(id) - entropy).abs();
    let order = |a: &u32, b: &u32| {
        let nearer = distance(a).total_cmp(&distance(b));
        nearer.then_with(|| by_logit(a, b))
    };
    let keep = fewest(ids, order, weight, mass);
    if let Some(last) = keep.checked_sub(1).and_then(|last| ids.get(last)) {
        let bound = distance(last);
        ids.retain(|id| distance(id) <= bound);
    }
}

/// Sorts the first of `ids` in some `order` to the front and gives how many of them it takes to
/// reach the share `share` of all their weight, at least one. A full sort is avoided where few are
/// enough.
fn fewest(
    ids: &mut [u32],
    order: impl Fn(&u32, &u32) -> Ordering + Copy,
    weight: impl Fn(&u32) -> f64,
    share: f64,
) -> usize {
    let target = share * ids.iter().map(&weight).sum::<f64>();
    let (mut keep, mut sorted, mut sum) = (0, 0, 0.0);
    while keep == 0 || (sum < target && keep < ids.len()) {
        if keep == sorted {
            let more = FIRST_SORTED.max(3 * sorted).min(ids.len() - sorted);
            let rest = &mut ids[sorted..];
            if more < rest.len() {
                rest.select_nth_unstable_by(more, order);
            }
            rest[..more].sort_unstable_by(order);
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
