//! Counters of the server, and all metrics as Prometheus text.
//!
//! Names are vLLM's where it has the metric, so that dashboards and autoscalers made for it
//! work; what only this server has begins with `vlmd:`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;
use vlmd_api::FinishReason;

use crate::state::ServedModel;

/// How a chat request ended, as vLLM labels it.
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
}

/// What the server counts itself; the rest is the engine's.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    stop: AtomicU64,
    length: AtomicU64,
    aborted: AtomicU64,
    failed: AtomicU64,
    responses: Mutex<BTreeMap<u16, u64>>,
}

impl Metrics {
    /// Counts an answer that ended.
    pub(crate) fn ended(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Finished(FinishReason::Stop) => &self.stop,
            Outcome::Finished(FinishReason::Length) => &self.length,
            Outcome::Aborted => &self.aborted,
            Outcome::Failed => &self.failed,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a response.
    pub(crate) fn responded(&self, status: StatusCode) {
        // A counter that was left by a panicking thread is as good as any.
        let mut responses = self
            .responses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *responses.entry(status.as_u16()).or_insert(0) += 1;
    }

    /// All metrics as Prometheus text.
    pub(crate) fn render(&self, model: Option<&ServedModel>) -> String {
        let mut page = Page::default();
        let responses = self
            .responses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        page.head("vlmd:http_responses_total", "counter", "HTTP responses.");
        for (status, count) in responses {
            page.line(
                "vlmd:http_responses_total",
                &[("status", &status.to_string())],
                count,
            );
        }
        if let Some(model) = model {
            self.render_model(&mut page, model);
        }
        page.text
    }

    fn render_model(&self, page: &mut Page, model: &ServedModel) {
        let name = model.names.first().map_or("", String::as_str);
        let stats = model.engine.stats();
        let usage = if stats.blocks_total == 0 {
            0.0
        } else {
            stats.blocks_used as f64 / stats.blocks_total as f64
        };
        let cache = model.pictures.cache_stats();
        let single: [(&str, &str, &str, f64); 15] = [
            (
                "vllm:num_requests_running",
                "gauge",
                "Answers that are being generated.",
                stats.running as f64,
            ),
            (
                "vllm:num_requests_waiting",
                "gauge",
                "Answers that wait for their turn.",
                stats.waiting as f64,
            ),
            (
                "vllm:kv_cache_usage_perc",
                "gauge",
                "Share of the KV cache in use, 0 to 1.",
                usage,
            ),
            (
                "vllm:prompt_tokens_total",
                "counter",
                "Tokens of prompts that were computed.",
                stats.tokens_prefilled as f64,
            ),
            (
                "vllm:generation_tokens_total",
                "counter",
                "Tokens that were generated.",
                stats.tokens_generated as f64,
            ),
            (
                "vlmd:kv_blocks_used",
                "gauge",
                "Blocks of the KV cache in use.",
                stats.blocks_used as f64,
            ),
            (
                "vlmd:kv_blocks_total",
                "gauge",
                "Blocks of the KV cache.",
                stats.blocks_total as f64,
            ),
            (
                "vllm:mm_cache_queries_total",
                "counter",
                "Pictures that were looked for among those resampled before.",
                cache.queries as f64,
            ),
            (
                "vllm:mm_cache_hits_total",
                "counter",
                "Pictures that were found among those resampled before.",
                cache.hits as f64,
            ),
            (
                "vlmd:mm_cache_bytes",
                "gauge",
                "Bytes of pictures that were resampled before.",
                cache.bytes as f64,
            ),
            (
                "vlmd:named_image_bytes",
                "gauge",
                "Bytes of picture files that clients gave a name (`uuid`).",
                model.pictures.named_bytes() as f64,
            ),
            (
                "vlmd:images_encoded_total",
                "counter",
                "Pictures that were encoded.",
                stats.images_encoded as f64,
            ),
            (
                "vlmd:requests_cancelled_total",
                "counter",
                "Answers given up before the model ended them: clients gone, stop strings.",
                stats.cancelled as f64,
            ),
            (
                "vlmd:engine_steps_total",
                "counter",
                "Forward passes that succeeded.",
                stats.steps as f64,
            ),
            (
                "vlmd:engine_steps_failed_total",
                "counter",
                "Forward passes that failed.",
                stats.steps_failed as f64,
            ),
        ];
        for (metric, kind, help, value) in single {
            page.head(metric, kind, help);
            page.line(metric, &[("model_name", name)], value);
        }
        let metric = "vllm:request_success_total";
        page.head(metric, "counter", "Answers by the way they ended.");
        for (reason, counter) in [
            (Outcome::Finished(FinishReason::Stop), &self.stop),
            (Outcome::Finished(FinishReason::Length), &self.length),
            (Outcome::Aborted, &self.aborted),
            (Outcome::Failed, &self.failed),
        ] {
            let labels = [("finished_reason", reason.as_str()), ("model_name", name)];
            page.line(metric, &labels, counter.load(Relaxed));
        }
    }
}

/// Prometheus text under construction.
#[derive(Debug, Default)]
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, metric: &str, kind: &str, help: &str) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.text, "# HELP {metric} {help}\n# TYPE {metric} {kind}");
    }

    fn line(&mut self, metric: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
            .collect();
        let _ = writeln!(self.text, "{metric}{{{}}} {value}", labels.join(","));
    }
}

/// A label value as Prometheus wants it.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
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
        let text = metrics.render(None);
        assert!(
            text.contains("vlmd:http_responses_total{status=\"200\"} 2\n"),
            "{text}"
        );
        assert!(
            text.contains("vlmd:http_responses_total{status=\"404\"} 1\n"),
            "{text}"
        );
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
