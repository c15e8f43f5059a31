//! What is handed out at the end: a table for terminals, JSON for programs, a page for people.

mod chart;
mod metric;
mod page;
mod table;

use serde::Serialize;
use serde_json::{Map, Value};

pub(crate) use page::render as page;
pub(crate) use table::write as table;

use crate::load::Load;
use crate::statistics::Distribution;
use crate::summary::Summary;
use crate::workload::Description;

/// Version of the JSON form: it grows by one when a field changes its meaning or goes away.
pub(crate) const SCHEMA: u32 = 1;

/// Names of the endpoints of a comparison.
pub(crate) const LETTERS: [&str; 2] = ["A", "B"];

/// Everything that a run has found. No keys, no queries of URLs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    /// Version of this program.
    pub(crate) version: &'static str,
    /// When the run began, in seconds since 1970.
    pub(crate) started_at: u64,
    /// Whether the user ended it early.
    pub(crate) interrupted: bool,
    /// Requests a minute that the run was held to, if it was.
    pub(crate) held_to_per_minute: Option<f64>,
    /// One, or the two of a comparison.
    pub(crate) endpoints: Vec<EndpointReport>,
    /// What was asked.
    pub(crate) workload: Description,
    /// For each load, the figures of each endpoint.
    pub(crate) results: Vec<Summary>,
    /// For each load, the second endpoint's figures over the first one's.
    pub(crate) ratios: Vec<Ratios>,
}

/// An endpoint in reports.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct EndpointReport {
    /// Without its query.
    pub(crate) url: String,
    /// What was asked for.
    pub(crate) model: String,
    /// Fields of the requests beside prompt, model and `stream`.
    pub(crate) fields: Map<String, Value>,
}

/// Figures of the second endpoint over those of the first; above 1 is more. `None` where either has
/// none.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Ratios {
    /// Under which load.
    pub(crate) load: Load,
    /// Of request throughputs.
    pub(crate) request_throughput: Option<f64>,
    /// Of token throughputs.
    pub(crate) output_token_throughput: Option<f64>,
    /// Of mean, p50, p90, p95 and p99.
    pub(crate) time_to_first_token: Option<[f64; 5]>,
    /// The same.
    pub(crate) inter_token_latency: Option<[f64; 5]>,
    /// The same.
    pub(crate) inter_chunk_latency: Option<[f64; 5]>,
    /// The same.
    pub(crate) request_latency: Option<[f64; 5]>,
}

impl Ratios {
    /// Of two summaries of the same load.
    pub(crate) fn of(first: &Summary, second: &Summary) -> Self {
        let times = |of: fn(&Summary) -> Option<Distribution>| columns(of(first)?, of(second)?);
        Self {
            load: first.load,
            request_throughput: ratio(first.request_throughput, second.request_throughput),
            output_token_throughput: first
                .output_token_throughput
                .zip(second.output_token_throughput)
                .and_then(|(first, second)| ratio(first, second)),
            time_to_first_token: times(|summary| summary.time_to_first_token_ms),
            inter_token_latency: times(|summary| summary.inter_token_latency_ms),
            inter_chunk_latency: times(|summary| summary.inter_chunk_latency_ms),
            request_latency: times(|summary| summary.request_latency_ms),
        }
    }
}

/// `second` over `first`, where that is a number above 0.
fn ratio(first: f64, second: f64) -> Option<f64> {
    let ratio = second / first;
    (ratio.is_finite() && ratio > 0.0).then_some(ratio)
}

fn columns(first: Distribution, second: Distribution) -> Option<[f64; 5]> {
    let mut ratios = [0.0; 5];
    let pairs = first.columns().into_iter().zip(second.columns());
    for (place, (first, second)) in ratios.iter_mut().zip(pairs) {
        *place = ratio(first, second)?;
    }
    Some(ratios)
}

impl Report {
    /// Summaries by load, in the order of the run.
    pub(crate) fn by_load(&self) -> impl Iterator<Item = &[Summary]> {
        self.results.chunk_by(|one, next| one.load == next.load)
    }

    /// What a reader has to know before the figures.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.interrupted {
            notes.push("The run was ended before its time.".to_owned());
        }
        if let Some(limit) = self.held_to_per_minute {
            notes.push(format!(
                "Requests were held to {limit} a minute for each endpoint, which is what the \
                 hosted one takes: throughputs are those of this limit."
            ));
        }
        notes
    }
}

/// What a reader has to know about one result.
pub(crate) fn remarks(summary: &Summary) -> Vec<String> {
    use crate::summary::Counting;
    let mut remarks = Vec::new();
    match summary.tokens.counted_by {
        Counting::Usage => {}
        Counting::Chunks => remarks.push(
            "output tokens counted as chunks, for want of `usage`: there may be more".to_owned(),
        ),
        Counting::Mixed => {
            remarks.push("output tokens counted by `usage` for some answers only".to_owned());
        }
        Counting::Nobody if summary.requests.answered > 0 => {
            remarks.push("output tokens not counted: whole answers without `usage`".to_owned());
        }
        Counting::Nobody => {}
    }
    if summary.overrun {
        remarks.push("ended early: the endpoint does not keep up with the rate".to_owned());
    }
    if let Some(lag) = summary.schedule_lag_ms.filter(|lag| lag.p99 > 10.0) {
        remarks.push(format!(
            "this client sent late, by {:.0} ms at p99: the rate was not quite met",
            lag.p99
        ));
    }
    if summary.requests.abandoned > 0 {
        remarks.push(format!("{} requests abandoned", summary.requests.abandoned));
    }
    remarks
}

/// A figure with three or four digits that say something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;
    use crate::summary::tests::example as summary;

    /// A comparison in which B takes twice as long.
    pub(crate) fn example() -> Report {
        let endpoint = |url: &str| EndpointReport {
            url: url.to_owned(),
            model: "a<script>alert(1)</script>".to_owned(),
            fields: Map::from_iter([("max_tokens".to_owned(), Value::from(5))]),
        };
        let results = vec![summary(0, 1), summary(1, 2)];
        Report {
            schema: SCHEMA,
            version: "0.0.0",
            started_at: 1_795_000_000,
            interrupted: true,
            held_to_per_minute: Some(40.0),
            endpoints: vec![endpoint("http://a"), endpoint("http://b")],
            workload: Description {
                prompts: "drawn, 3 words".to_owned(),
                pictures: None,
                output_tokens: Some(5),
                stream: true,
                seed: 0,
            },
            ratios: vec![Ratios::of(&results[0], &results[1])],
            results,
        }
    }

    #[test]
    fn ratios_are_second_over_first() {
        let report = example();
        let ratios = &report.ratios[0];
        assert_eq!(ratios.time_to_first_token, Some([1.0; 5]));
        assert_eq!(ratios.request_latency.unwrap()[0], 2.0);
        assert!((ratios.request_throughput.unwrap() - 0.5).abs() < 1e-9);
        assert_eq!(ratio(0.0, 1.0), None);
        assert_eq!(ratio(1.0, 0.0), None);
    }

    /// Programs read it: its fields change only together with [`SCHEMA`]. Where a change is meant,
    /// copy the form that this test prints into the file.
    #[test]
    fn the_json_form_is_stable() {
        fn form(value: &Value) -> Value {
            match value {
                Value::Object(fields) => fields
                    .iter()
                    .map(|(name, value)| (name.clone(), form(value)))
                    .collect(),
                Value::Array(list) => list.first().map(form).into_iter().collect(),
                Value::String(_) => "string".into(),
                Value::Number(_) => "number".into(),
                Value::Bool(_) => "bool".into(),
                Value::Null => Value::Null,
            }
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/report/form.json");
        let expected: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let found = form(&serde_json::to_value(example()).unwrap());
        assert_eq!(found, expected, "{found:#}");
    }

    #[test]
    fn numbers_keep_what_says_something() {
        for (value, text) in [
            (12345.6, "12346"),
            (123.45, "123.5"),
            (12.345, "12.35"),
            (0.12345, "0.123"),
            (0.0, "0.000"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
