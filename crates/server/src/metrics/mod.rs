//! Counters of the server, and all metrics as Prometheus text.
//!
//! A page is written from atomics, and from counters whose locks are held for no longer than it takes
//! to copy them: a scrape waits for nobody, and nobody for a scrape.

mod access;
mod model;
mod page;
mod process;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use axum::http::StatusCode;
use vlmd_api::FinishReason;

use crate::state::ServedModel;
use page::{Labels, Page};

pub(crate) use access::KeyUse;

/// How an answer ended, as vLLM labels it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All answers of the request ended, this one so.
    Finished(FinishReason),
    /// The client went away.
    Aborted,
    /// The server failed.
    Failed,
}

impl Outcome {
    /// The label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Finished(reason) => reason.as_str(),
            Self::Aborted => "abort",
            Self::Failed => "error",
        }
    }

    /// In the order of [`OUTCOMES`].
    fn index(self) -> usize {
        match self {
            // To the engine, an answer that calls tools is one that stopped.
            Self::Finished(
                FinishReason::Stop | FinishReason::ToolCalls | FinishReason::FunctionCall,
            ) => 0,
            Self::Finished(FinishReason::Length) => 1,
            Self::Aborted => 2,
            Self::Failed => 3,
        }
    }
}

/// As they are told.
const OUTCOMES: [Outcome; 4] = [
    Outcome::Finished(FinishReason::Stop),
    Outcome::Finished(FinishReason::Length),
    Outcome::Aborted,
    Outcome::Failed,
];

/// Statuses of HTTP: three digits.
const STATUSES: usize = 1000;

/// What the server counts itself; the rest is the engine's.
#[derive(Debug)]
pub(crate) struct Metrics {
    started: SystemTime,
    outcomes: [AtomicU64; OUTCOMES.len()],
    responses: Box<[AtomicU64]>,
    panics: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            outcomes: Default::default(),
            responses: (0..STATUSES).map(|_| AtomicU64::new(0)).collect(),
            panics: AtomicU64::new(0),
        }
    }
}

impl Metrics {
    /// Counts an answer that ended.
    pub(crate) fn ended(&self, outcome: Outcome) {
        self.outcomes[outcome.index()].fetch_add(1, Relaxed);
    }

    /// Counts a response.
    pub(crate) fn responded(&self, status: StatusCode) {
        if let Some(count) = self.responses.get(usize::from(status.as_u16())) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Counts a handler that panicked.
    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    /// All metrics as Prometheus text. Uploaded assets take `asset_bytes`.
    pub(crate) fn render(
        &self,
        served: Option<&ServedModel>,
        keys: &[KeyUse],
        asset_bytes: usize,
        legacy_names: bool,
    ) -> String {
        let mut page = Page::new();
        process::render(&mut page, self.started);
        let mut responses = page.family("vlmd:http_responses_total", "counter", "HTTP responses.");
        for (status, count) in self.responses.iter().enumerate() {
            let count = count.load(Relaxed);
            if count > 0 {
                let none = Labels::default();
                responses.line_with(&none, ("status", &status.to_string()), count);
            }
        }
        let none = Labels::default();
        let help = "Bytes of uploaded assets.";
        page.gauge("vlmd:asset_bytes", &none, asset_bytes as f64, help);
        let help = "Requests whose handler panicked; each was answered 500.";
        let panics = self.panics.load(Relaxed);
        page.family("vlmd:handler_panics_total", "counter", help)
            .bare(panics);
        access::render(&mut page, keys);
        if let Some(served) = served {
            self.render_outcomes(&mut page, served);
            model::render(&mut page, served, legacy_names);
        }
        page.finish()
    }

    fn render_outcomes(&self, page: &mut Page, served: &ServedModel) {
        let name = served.names.first().map_or("", String::as_str);
        let labels = Labels::new([("model_name", name), ("engine", "0")]);
        let counts = OUTCOMES.map(|outcome| {
            let count = self.outcomes[outcome.index()].load(Relaxed);
            (outcome, count)
        });
        // The same under vLLM's name and NIM's.
        for name in ["vllm:request_success_total", "request_finish_total"] {
            let mut family = page.family(name, "counter", "Answers by the way they ended.");
            for (outcome, count) in counts {
                family.line_with(&labels, ("finished_reason", outcome.as_str()), count);
            }
        }
        let sum = |good: bool| {
            let wanted = |outcome: Outcome| matches!(outcome, Outcome::Finished(_)) == good;
            let counts = counts.iter().filter(|(outcome, _)| wanted(*outcome));
            counts.map(|(_, count)| count).sum()
        };
        let help = "Answers that were completed.";
        page.counter("request_success_total", &labels, sum(true), help);
        let help = "Answers that were given up or failed.";
        page.counter("request_failure_total", &labels, sum(false), help);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_counted_by_status() {
        let metrics = Metrics::default();
        for status in [StatusCode::OK, StatusCode::OK, StatusCode::NOT_FOUND] {
            metrics.responded(status);
        }
        let text = metrics.render(None, &[], 7, false);
        for line in [
            "vlmd:http_responses_total{status=\"200\"} 2\n",
            "vlmd:http_responses_total{status=\"404\"} 1\n",
            "vlmd:asset_bytes{} 7\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn every_outcome_has_its_own_count() {
        let metrics = Metrics::default();
        for outcome in OUTCOMES {
            metrics.ended(outcome);
        }
        let counts = metrics.outcomes.map(AtomicU64::into_inner);
        assert_eq!(counts, [1; 4]);
    }
}
