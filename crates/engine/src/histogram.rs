//! Distributions that are counted without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counts by size, in the buckets of Prometheus: each is for values up to its bound, and one more
/// for all beyond.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    /// In billionths for seconds, in units for counts, so that it is a whole number.
    sum: AtomicU64,
    per_unit: f64,
}

/// What a histogram has counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distribution {
    /// Upper bounds of the buckets, ascending.
    pub bounds: &'static [f64],
    /// For each bound, and then for no bound, how many were at most that large.
    pub cumulative: Vec<u64>,
    /// Of all values.
    pub sum: f64,
}

impl Distribution {
    /// How many values there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.cumulative.last().copied().unwrap_or(0)
    }
}

impl Histogram {
    /// Of times; `bounds` are in seconds, ascending.
    pub(crate) fn seconds(bounds: &'static [f64]) -> Self {
        Self::new(bounds, 1e9)
    }

    /// Of numbers.
    pub(crate) fn numbers(bounds: &'static [f64]) -> Self {
        Self::new(bounds, 1.0)
    }

    fn new(bounds: &'static [f64], per_unit: f64) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
            per_unit,
        }
    }

    pub(crate) fn time(&self, took: Duration) {
        self.observe(took.as_secs_f64());
    }

    pub(crate) fn number(&self, number: usize) {
        self.observe(number as f64);
    }

    fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        // There is one bucket more than bounds.
        self.counts[bucket].fetch_add(1, Relaxed);
        let whole = (value * self.per_unit) as u64;
        self.sum.fetch_add(whole, Relaxed);
    }

    /// Counts never fall from one snapshot to the next, nor from one bucket to the next.
    pub(crate) fn snapshot(&self) -> Distribution {
        let mut total = 0;
        let cumulative = self.counts.iter().map(|count| {
            total += count.load(Relaxed);
            total
        });
        Distribution {
            bounds: self.bounds,
            cumulative: cumulative.collect(),
            sum: self.sum.load(Relaxed) as f64 / self.per_unit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_up_to_and_with_their_bound() {
        let times = Histogram::seconds(&[0.1, 1.0]);
        for millis in [50, 100, 101, 1000, 5000] {
            times.time(Duration::from_millis(millis));
        }
        let Distribution {
            cumulative, sum, ..
        } = times.snapshot();
        assert_eq!(cumulative, [2, 4, 5]);
        assert!((sum - 6.251).abs() < 1e-9);
        let numbers = Histogram::numbers(&[1.0, 2.0]);
        numbers.number(2);
        numbers.number(usize::MAX);
        assert_eq!(numbers.snapshot().cumulative, [0, 1, 2]);
        assert_eq!(numbers.snapshot().count(), 2);
    }
}
