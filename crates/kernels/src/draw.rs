//! Drawing the next token where the logits are, so that rows of a hundred thousand need not go to
//! the host.
//!
//! # The same token everywhere
//!
//! What is drawn depends on the logits, the [`Terms`] and the number alone: the same on the CPU and
//! on a card, to the last bit, however many threads take part. That is by construction. Weights are
//! whole numbers (`weight`), so that their sums are exact and the order of adding does not show;
//! the exponential behind them is made of single IEEE operations, which round alike on every
//! device; and tokens have one order: greater logits first, equal ones by id, zeros of either sign
//! equal.
//!
//! # The draw
//!
//! 1. At temperature 0 the first of the highest logits is taken. Otherwise a token weighs
//!    `exp((logit - highest) / temperature)`.
//! 2. The `top_k` first tokens stay.
//! 3. Of these the fewest stay that reach the share `top_p` of their weight, at least one.
//! 4. Of these stay those that weigh at least `min_p` times what the best weighs.
//! 5. `number / 2^64` is a place within the weight of what is left, counted by id; the token there
//!    is drawn.

use candle_core::{DType, Result, Tensor, bail};

use crate::cpu;

pub use cpu::draw::{Candidate, choose, fewest, greatest, keep, pick};

pub(crate) mod key;
pub(crate) mod weight;

#[cfg(test)]
mod tests;

/// Most tokens of a vocabulary from which is drawn: the sum of so many weights fits 64 bits.
pub const MOST_TOKENS: usize = 1 << 20;

/// By what a token is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// What logits are divided by; at 0 the first of the highest is taken.
    pub temperature: f32,
    /// So many of the highest logits stay, at least one; `None` keeps all.
    pub top_k: Option<u32>,
    /// Share of the weight that the kept tokens reach, above 0; from 1 on all are kept.
    pub top_p: f32,
    /// Share of the best token's weight that a kept token has, from 0 to 1.
    pub min_p: f32,
}

impl Terms {
    /// Whether the first of the highest logits is taken, whatever the number.
    pub(crate) fn take_the_first(&self) -> bool {
        self.temperature == 0.0 || self.top_k.is_some_and(|k| k <= 1)
    }

    /// How many tokens stay of `width`, if not all.
    pub(crate) fn count(&self, width: usize) -> Option<usize> {
        let count = self.top_k? as usize;
        (count < width).then_some(count.max(1))
    }

    /// `top_p` in units of 2^-64, at least 1; `None` where all tokens stay. Exact from 2^-40 on.
    pub(crate) fn share(&self) -> Option<u64> {
        // The greatest f32 below 1 is far enough from it; what is no share is rounded to one.
        (self.top_p < 1.0).then(|| ((f64::from(self.top_p) * 2f64.powi(64)) as u64).max(1))
    }

    /// The least weight of a kept token.
    pub(crate) fn least(&self) -> u64 {
        let least = f64::from(self.min_p) * weight::ONE as f64;
        (least.ceil() as u64).min(weight::ONE)
    }
}

/// The least sum that is the share `share / 2^64` of `total`.
pub(crate) fn target(share: u64, total: u64) -> u64 {
    let product = u128::from(share) * u128::from(total);
    // Below `total`, since the share is below 1.
    product.div_ceil(1 << 64) as u64
}

/// Where `number` points to within `total`, from 0 to below `total`.
pub(crate) fn place(number: u64, total: u64) -> u64 {
    ((u128::from(number) * u128::from(total)) >> 64) as u64
}

/// One draw from a row of logits. A row may be drawn from more than once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Which row.
    pub row: usize,
    /// By what.
    pub terms: Terms,
    /// Uniform over all of u64. Without effect where the first of the highest is taken.
    pub number: u64,
}

/// Draws from `logits`, `[rows, width]` in f32. Gives each draw's token; `None` where the highest
/// logit of its row is no finite number, which one NaN is enough for. Negative infinity is a token
/// that cannot be drawn.
///
/// # Errors
/// When `logits` is not f32, the width is not from 1 to [`MOST_TOKENS`], a draw is from a row that
/// is not there or at a temperature below 0, or the device fails or has no kernel for it.
pub fn draw(logits: &Tensor, draws: &[Draw]) -> Result<Vec<Option<u32>>> {
    let (rows, width) = logits.dims2()?;
    if logits.dtype() != DType::F32 {
        bail!("logits are f32, not {:?}", logits.dtype());
    }
    if !(1..=MOST_TOKENS).contains(&width) {
        bail!("tokens are drawn from 1 to {MOST_TOKENS} logits, not from {width}");
    }
    for Draw { row, terms, .. } in draws {
        if *row >= rows {
            bail!("a token is to be drawn from row {row} of {rows}");
        }
        if terms.temperature.is_nan() || terms.temperature < 0.0 {
            bail!(
                "the temperature must be at least 0, not {}",
                terms.temperature
            );
        }
    }
    if draws.is_empty() {
        return Ok(Vec::new());
    }
    match logits.device() {
        candle_core::Device::Cpu => cpu::draw::draw(logits, draws),
        #[cfg(feature = "cuda")]
        candle_core::Device::Cuda(_) => crate::cuda::draw(logits, draws),
        _ => bail!("this device has no kernel that draws tokens"),
    }
}
