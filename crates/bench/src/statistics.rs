//! Means and percentiles.

use serde::Serialize;

/// What many values are like.
///
/// Percentiles lie between the two neighbours in proportion, as numpy's `percentile` has them by
/// default and with it AIPerf and genai-perf. The deviation is that of the whole population.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Distribution {
    /// How many values there are; at least 1.
    pub(crate) count: u64,
    /// Arithmetic mean.
    pub(crate) mean: f64,
    /// Standard deviation.
    pub(crate) std: f64,
    /// The least.
    pub(crate) min: f64,
    /// Half of all are no larger.
    pub(crate) p50: f64,
    /// 90 % are no larger.
    pub(crate) p90: f64,
    /// 95 % are no larger.
    pub(crate) p95: f64,
    /// 99 % are no larger.
    pub(crate) p99: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Distribution {
    /// Of `values` in any order; `None` without any.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        Some(Self {
            count: values.len() as u64,
            mean,
            std: variance.sqrt(),
            min,
            p50: percentile(&values, 50.0),
            p90: percentile(&values, 90.0),
            p95: percentile(&values, 95.0),
            p99: percentile(&values, 99.0),
            max,
        })
    }

    /// The columns of reports, in order.
    pub(crate) fn columns(&self) -> [f64; 5] {
        [self.mean, self.p50, self.p90, self.p95, self.p99]
    }
}

/// The names of [`Distribution::columns`].
pub(crate) const COLUMNS: [&str; 5] = ["mean", "p50", "p90", "p95", "p99"];

/// The value below which `percent` of the ascending values lie; 0 without any.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let position = percent / 100.0 * sorted.len().saturating_sub(1) as f64;
    let index = position.floor() as usize;
    let low = sorted.get(index).copied().unwrap_or_default();
    let high = sorted.get(index.saturating_add(1)).copied().unwrap_or(low);
    low + (high - low) * position.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: positions 4.5, 8.1, 8.55 and 8.91 between the ten values' indices.
    #[test]
    fn percentiles_lie_between_neighbours() {
        let values = vec![100.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0];
        let found = Distribution::of(values).unwrap();
        assert_eq!((found.count, found.min, found.max), (10, 10.0, 100.0));
        let expected = [55.0, 55.0, 91.0, 95.5, 99.1];
        for (value, expected) in found.columns().into_iter().zip(expected) {
            assert!((value - expected).abs() < 1e-9, "{value} {expected}");
        }
        // Squared distances from 55: 2 (45² + 35² + 25² + 15² + 5²) / 10 = 825.
        assert!((found.std - 825f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn one_value_is_all_of_them_and_none_is_nothing() {
        let found = Distribution::of(vec![7.0]).unwrap();
        assert_eq!(found.columns(), [7.0; 5]);
        assert_eq!(found.std, 0.0);
        assert_eq!(Distribution::of(vec![]), None);
    }
}
