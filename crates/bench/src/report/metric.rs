//! The times that every form of the report shows.

use super::Ratios;
use crate::statistics::Distribution;
use crate::summary::Summary;

/// A time or a rate of which there is a whole distribution.
pub(super) struct Metric {
    /// With its unit.
    pub(super) name: &'static str,
    /// From a summary; `None` where it has none.
    pub(super) of: fn(&Summary) -> Option<Distribution>,
    /// From the ratios.
    pub(super) ratio: fn(&Ratios) -> Option<[f64; 5]>,
}

/// In the order of reports.
pub(super) const METRICS: [Metric; 4] = [
    Metric {
        name: "time to first token, ms",
        of: |summary| summary.time_to_first_token_ms,
        ratio: |ratios| ratios.time_to_first_token,
    },
    Metric {
        name: "inter-token latency, ms",
        of: |summary| summary.inter_token_latency_ms,
        ratio: |ratios| ratios.inter_token_latency,
    },
    Metric {
        name: "inter-chunk latency, ms",
        of: |summary| summary.inter_chunk_latency_ms,
        ratio: |ratios| ratios.inter_chunk_latency,
    },
    Metric {
        name: "request latency, ms",
        of: |summary| summary.request_latency_ms,
        ratio: |ratios| ratios.request_latency,
    },
];
