//! Drawing tokens on the CPU, and the twin of `cuda/draw.cu`. See [`crate::draw`].

use std::cmp::{Ordering, Reverse};

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::host::with_f32;
use super::simd::{Kernel, Level, Simd, dispatch};
use crate::draw::key::Key;
use crate::draw::weight::{ONE, Scale};
use crate::draw::{Draw, Terms, place, target};

/// Logits from which on it is worth another thread.
const THREAD_LOGITS: usize = 1 << 16;

/// Tokens whose weights are summed up together.
const STRIDE: usize = 256;

/// Tokens of which the highest is known when the highest of all are looked for.
const CHUNK: usize = 128;

/// How many of the highest are looked at first where the fewest that reach a share are to be
/// found, and how many times as many next.
const FIRST_LOOK: (usize, usize) = (64, 8);

/// See [`crate::draw::draw`], which checks what is given.
pub(crate) fn draw(logits: &Tensor, draws: &[Draw]) -> Result<Vec<Option<u32>>> {
    let (_, width) = logits.dims2()?;
    with_f32(logits, |logits| {
        let one = |draw: &Draw| {
            let row = &logits[draw.row * width..][..width];
            choose(row, &draw.terms, draw.number)
        };
        let draws = draws.par_iter().with_min_len(THREAD_LOGITS.div_ceil(width));
        Ok(draws.map(one).collect())
    })
}

/// Draws from one row of at most [`MOST_TOKENS`](crate::draw::MOST_TOKENS) logits with a `number`
/// that is uniform over all of u64. `None` where the highest is no finite number.
#[must_use]
pub fn choose(logits: &[f32], terms: &Terms, number: u64) -> Option<u32> {
    let scale = scale(logits, terms)?;
    if terms.take_the_first() {
        return first(logits, scale.highest);
    }
    if let Some(keys) = selected(logits, terms, scale) {
        return pick(&candidates(keys, terms, scale), number);
    }
    let least = terms.least();
    let weight = |logit: &f32| {
        let weight = scale.weight(*logit);
        if weight >= least { weight } else { 0 }
    };
    let sums = sums(logits, scale, least);
    let mut rest = place(number, sums.iter().sum());
    let mut passed = |sum: u64| {
        let within = rest < sum;
        rest -= if within { 0 } else { sum };
        within
    };
    let stride = STRIDE * sums.iter().position(|sum| passed(*sum))?;
    let mut weights = logits[stride..].iter().map(weight);
    u32::try_from(stride + weights.position(passed)?).ok()
}

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Which.
    pub id: u32,
    /// What the model gave it.
    pub logit: f32,
    /// Its probability is this over the sum of all candidates' weights. Not 0.
    pub weight: u64,
}

impl Candidate {
    /// What the best token weighs.
    pub const ONE: u64 = ONE;
}

/// The tokens of a row that may be drawn, by id: those that [`choose`] draws among at a
/// temperature above 0. `None` where the highest logit is no finite number.
#[must_use]
pub fn keep(logits: &[f32], terms: &Terms) -> Option<Vec<Candidate>> {
    let scale = scale(logits, terms)?;
    let keys = selected(logits, terms, scale).unwrap_or_else(|| highest(logits, logits.len()));
    Some(candidates(keys, terms, scale))
}

/// The candidate to which `number` points, which is uniform over all of u64; `None` where there
/// are none.
#[must_use]
pub fn pick(candidates: &[Candidate], number: u64) -> Option<u32> {
    let weights = candidates.iter().map(|candidate| candidate.weight);
    let mut rest = place(number, weights.sum());
    let there = candidates.iter().find(|candidate| {
        let within = rest < candidate.weight;
        rest -= if within { 0 } else { candidate.weight };
        within
    });
    there.map(|candidate| candidate.id)
}

/// How many of `items`, the first in some `order`, it takes to reach `target`, at least one. These
/// are at the front then, in no order. `target` is at most the sum of all weights. Linear.
pub fn fewest<T>(
    items: &mut [T],
    order: impl Fn(&T, &T) -> Ordering + Copy,
    weight: impl Fn(&T) -> u64,
    mut target: u64,
) -> usize {
    // The last that it takes is among these.
    let mut among = 0..items.len();
    while among.len() > 1 {
        let half = among.len() / 2;
        let part = &mut items[among.clone()];
        part.select_nth_unstable_by(half, order);
        let sum: u64 = part[..half].iter().map(&weight).sum();
        if sum >= target {
            among.end = among.start + half;
        } else {
            target -= sum;
            among.start += half;
        }
    }
    among.end
}

/// The highest logit: NaN where there is one, negative infinity where there is none.
#[must_use]
pub fn greatest(logits: &[f32]) -> f32 {
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

/// `None` where the highest logit is no finite number.
fn scale(logits: &[f32], terms: &Terms) -> Option<Scale> {
    let highest = greatest(logits);
    highest.is_finite().then_some(Scale {
        highest,
        temperature: terms.temperature,
    })
}

/// The first that has the highest logit.
fn first(logits: &[f32], highest: f32) -> Option<u32> {
    let has_it = |stride: &[f32]| stride.iter().fold(false, |has, &l| has | (l == highest));
    let stride = STRIDE * logits.chunks(STRIDE).position(has_it)?;
    let within = logits[stride..].iter().position(|&l| l == highest)?;
    u32::try_from(stride + within).ok()
}

/// What `top_k` and `top_p` leave, in no order; `None` where they leave everything.
fn selected(logits: &[f32], terms: &Terms, scale: Scale) -> Option<Vec<Key>> {
    let weight = |key: &Key| scale.weight(key.logit());
    let down = |a: &Key, b: &Key| b.cmp(a);
    let weigh = |keys: &[Key]| keys.iter().map(weight).sum::<u64>();
    let (mut keys, target) = match (terms.count(logits.len()), terms.share()) {
        (None, None) => return None,
        (Some(count), share) => {
            let mut keys = highest(logits, count);
            if count < keys.len() {
                keys.select_nth_unstable_by_key(count, |key| Reverse(*key));
                keys.truncate(count);
            }
            let Some(share) = share else {
                return Some(keys);
            };
            let target = target(share, weigh(&keys));
            (keys, target)
        }
        (None, Some(share)) => {
            let target = target(share, sums(logits, scale, 0).iter().sum());
            let (mut look, times) = FIRST_LOOK;
            let mut keys = highest(logits, look);
            while keys.len() < logits.len() && weigh(&keys) < target {
                look *= times;
                keys = highest(logits, look);
            }
            (keys, target)
        }
    };
    let count = fewest(&mut keys, down, weight, target);
    keys.truncate(count);
    Some(keys)
}

/// What `min_p` leaves, by id.
fn candidates(mut keys: Vec<Key>, terms: &Terms, scale: Scale) -> Vec<Candidate> {
    let least = terms.least().max(1);
    keys.sort_unstable_by_key(|key| key.id());
    let candidate = |key: Key| Candidate {
        id: key.id(),
        logit: key.logit(),
        weight: scale.weight(key.logit()),
    };
    let candidates = keys.into_iter().map(candidate);
    candidates
        .filter(|candidate| candidate.weight >= least)
        .collect()
}

/// The tokens that are not below some bound that at least `count` of them reach: few more where
/// `count` is small, all where it is large. There is no NaN among the logits.
fn highest(logits: &[f32], count: usize) -> Vec<Key> {
    let peaks: Vec<f32> = logits.chunks(CHUNK).map(greatest).collect();
    // As many chunks as that have one each.
    let bound = if (1..peaks.len()).contains(&count) {
        let down = |a: &f32, b: &f32| b.total_cmp(a);
        *peaks.clone().select_nth_unstable_by(count - 1, down).1
    } else {
        f32::NEG_INFINITY
    };
    let mut keys = Vec::with_capacity(count.min(logits.len()));
    for ((chunk, &peak), start) in logits.chunks(CHUNK).zip(&peaks).zip((0..).step_by(CHUNK)) {
        if peak >= bound {
            let reach = chunk
                .iter()
                .zip(start..)
                .filter(|(logit, _)| **logit >= bound);
            keys.extend(reach.map(|(logit, id)| Key::of(*logit, id)));
        }
    }
    keys
}

/// The weight of each [`STRIDE`] tokens, of those that weigh at least `least`.
fn sums(logits: &[f32], scale: Scale, least: u64) -> Vec<u64> {
    let sums = Sums {
        logits,
        scale,
        least,
    };
    dispatch(Level::get(), sums)
}

struct Sums<'a> {
    logits: &'a [f32],
    scale: Scale,
    least: u64,
}

impl Kernel for Sums<'_> {
    type Output = Vec<u64>;

    /// Plain loops, which the compiler makes vectors of in each build. They are bound to give the
    /// same: it never makes one operation of two that round by themselves.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Vec<u64> {
        let Self {
            logits,
            scale,
            least,
        } = self;
        let mut sums = Vec::with_capacity(logits.len().div_ceil(STRIDE));
        for stride in logits.chunks(STRIDE) {
            let mut sum = 0u64;
            for &logit in stride {
                let weight = scale.weight(logit);
                // Cannot overflow: see `MOST_TOKENS`. A check would forbid vectors.
                sum = sum.wrapping_add(if weight >= least { weight } else { 0 });
            }
            sums.push(sum);
        }
        sums
    }
}
