//! Locally typical sampling (Meister et al. 2022, as transformers' `TypicalLogitsWarper`), which no
//! device but the host has.

use vlmd_kernels::draw::{Candidate, fewest};

/// Keeps the candidates whose information is closest to the distribution's entropy, the fewest
/// that reach the share `mass` of all weight, and whatever is as close as the last of these.
pub(super) fn keep(candidates: &mut Vec<Candidate>, temperature: f32, mass: f32) {
    let logits = candidates.iter().map(|candidate| candidate.logit);
    let highest = logits.fold(f32::NEG_INFINITY, f32::max);
    let total: u64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let log_total = (total as f64 / Candidate::ONE as f64).ln();
    // The negative logarithm of the probability.
    let information = |candidate: &Candidate| {
        let below = f64::from(highest - candidate.logit);
        log_total + below / f64::from(temperature)
    };
    let share = |candidate: &Candidate| candidate.weight as f64 / total as f64;
    let entropy: f64 = candidates
        .iter()
        .map(|candidate| share(candidate) * information(candidate))
        .sum();
    let distance = |candidate: &Candidate| (information(candidate) - entropy).abs();
    let mut nearest: Vec<(f64, Candidate)> = candidates
        .iter()
        .map(|candidate| (distance(candidate), *candidate))
        .collect();
    let target = (f64::from(mass) * total as f64).ceil() as u64;
    let count = fewest(
        &mut nearest,
        |(a, x), (b, y)| {
            let nearer = a.total_cmp(b);
            let better = || y.logit.total_cmp(&x.logit);
            nearer.then_with(better).then(x.id.cmp(&y.id))
        },
        |(_, candidate)| candidate.weight,
        target.min(total),
    );
    let bound = nearest[..count].iter().map(|(distance, _)| *distance);
    let bound = bound.fold(0.0, f64::max);
    candidates.retain(|candidate| distance(candidate) <= bound);
}
