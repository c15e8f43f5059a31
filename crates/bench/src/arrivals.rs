//! When the requests of an open loop are due.

use std::time::Duration;

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

/// How the time between requests is drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pattern {
    /// Independent of each other, as people come: exponential gaps
    #[default]
    Poisson,
    /// All the same
    Constant,
}

/// An endless series of times after the beginning; the first is 0.
#[derive(Debug)]
pub(crate) struct Arrivals {
    pattern: Pattern,
    rate: f64,
    due: f64,
    random: StdRng,
}

impl Arrivals {
    /// `rate` requests a second, above 0, the same for the same `seed`.
    pub(crate) fn new(pattern: Pattern, rate: f64, seed: u64) -> Self {
        Self {
            pattern,
            rate,
            due: 0.0,
            random: StdRng::seed_from_u64(seed),
        }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let due = Duration::try_from_secs_f64(self.due).unwrap_or(Duration::MAX);
        let gap = match self.pattern {
            Pattern::Constant => 1.0,
            // 1 - u is in (0, 1]: its logarithm is finite.
            Pattern::Poisson => -(1.0 - self.random.random::<f64>()).ln(),
        };
        self.due += gap / self.rate;
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(arrivals: Arrivals, count: usize) -> Vec<f64> {
        let times: Vec<_> = arrivals.take(count + 1).map(|t| t.as_secs_f64()).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[test]
    fn constant_gaps_are_the_inverse_of_the_rate() {
        let arrivals = Arrivals::new(Pattern::Constant, 8.0, 1);
        assert_eq!(gaps(arrivals, 4), [0.125; 4]);
    }

    /// Of exponential gaps, mean and deviation are equal, and e⁻¹ of them exceed the mean.
    #[test]
    fn poisson_gaps_are_exponential() {
        let count = 20_000;
        let gaps = gaps(Arrivals::new(Pattern::Poisson, 4.0, 1), count);
        let mean = gaps.iter().sum::<f64>() / count as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count as f64;
        let longer = gaps.iter().filter(|gap| **gap > mean).count() as f64 / count as f64;
        assert!((mean - 0.25).abs() < 0.01, "{mean}");
        assert!((variance.sqrt() - 0.25).abs() < 0.01, "{variance}");
        assert!((longer - (-1f64).exp()).abs() < 0.02, "{longer}");
    }

    #[test]
    fn a_seed_decides_everything() {
        let times =
            |seed| -> Vec<_> { Arrivals::new(Pattern::Poisson, 1.0, seed).take(5).collect() };
        assert_eq!(times(3), times(3));
        assert_ne!(times(3), times(4));
    }
}
