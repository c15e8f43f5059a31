//! What all requests of a load say together.
//!
//! Definitions are AIPerf's (its metrics reference, 0.13), which genai-perf shares:
//! throughputs are counts of answered requests over the time from the first request's sending to
//! the last answer's last content; inter-token latency is one figure for each request. Time that
//! the other endpoint of a comparison had in between does not count.

use std::time::Duration;

use serde::Serialize;

use crate::answer::{Answer, CountedBy};
use crate::endpoint::Record;
use crate::failure::{self, Failure, FailureCount};
use crate::load::{Finished, Load};
use crate::statistics::Distribution;

/// The figures of one load on one endpoint. Times are in milliseconds, throughputs a second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// Place of the endpoint in the report's list.
    pub(crate) endpoint: usize,
    /// How requests followed each other.
    pub(crate) load: Load,
    /// Parts that the load was run in.
    pub(crate) rounds: usize,
    /// Seconds in which it ran.
    pub(crate) duration_s: f64,
    /// What became of the requests.
    pub(crate) requests: Requests,
    /// Tokens of all answered requests.
    pub(crate) tokens: Tokens,
    /// Answered requests a second.
    pub(crate) request_throughput: f64,
    /// Tokens of answers a second; `None` where nobody has counted them.
    pub(crate) output_token_throughput: Option<f64>,
    /// From sending to the first content.
    pub(crate) time_to_first_token_ms: Option<Distribution>,
    /// (latency - time to first token) / (tokens - 1), also called time per output token.
    pub(crate) inter_token_latency_ms: Option<Distribution>,
    /// Between one chunk and the next, over all chunks of all requests.
    pub(crate) inter_chunk_latency_ms: Option<Distribution>,
    /// From sending to the last content.
    pub(crate) request_latency_ms: Option<Distribution>,
    /// Tokens a second that one reader sees: the inverse of the inter-token latency.
    pub(crate) output_token_throughput_per_user: Option<Distribution>,
    /// Tokens of an answer.
    pub(crate) output_tokens: Option<Distribution>,
    /// Tokens of a prompt.
    pub(crate) prompt_tokens: Option<Distribution>,
    /// How late this client was itself: open loops only.
    pub(crate) schedule_lag_ms: Option<Distribution>,
    /// The open loop was ended early, since too many requests were under way.
    pub(crate) overrun: bool,
    /// How requests failed.
    pub(crate) errors: Vec<FailureCount>,
}

/// What became of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Requests {
    /// Those with an answer or a failure.
    pub(crate) sent: u64,
    /// Those with a whole answer.
    pub(crate) answered: u64,
    /// Those that failed.
    pub(crate) failed: u64,
    /// Those that were under way when the user ended the run; they count nowhere else.
    pub(crate) abandoned: u64,
}

/// Sums of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Tokens {
    /// Of prompts, by `usage`.
    pub(crate) prompt: u64,
    /// Of answers.
    pub(crate) output: u64,
    /// Who counted those of the answers.
    pub(crate) counted_by: Counting,
}

/// Who counted the tokens of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Counting {
    /// The server, in `usage`.
    Usage,
    /// The client: a chunk was taken for a token.
    Chunks,
    /// The server for some answers, the client or nobody for others.
    Mixed,
    /// Nobody.
    Nobody,
}

impl Summary {
    /// Of the rounds of one load on one endpoint.
    pub(crate) fn of(endpoint: usize, load: Load, rounds: &[Finished]) -> Self {
        let records = || rounds.iter().flat_map(|round| &round.records);
        let answers: Vec<&Answer> = records().filter_map(|r| r.outcome.as_ref().ok()).collect();
        let failures = || records().filter_map(|record| record.outcome.as_ref().err());
        let duration: Duration = rounds.iter().map(|round| span(&round.records)).sum();
        let duration_s = duration.as_secs_f64();
        let per_second = |count: u64| {
            if duration_s > 0.0 {
                count as f64 / duration_s
            } else {
                0.0
            }
        };
        let times = |of: &dyn Fn(&Answer) -> Option<Duration>| {
            Distribution::of(answers.iter().filter_map(|a| of(a).map(ms)).collect())
        };
        let counts = |of: &dyn Fn(&Answer) -> Option<u64>| {
            Distribution::of(
                answers
                    .iter()
                    .filter_map(|a| of(a).map(|n| n as f64))
                    .collect(),
            )
        };
        let sum = |of: &dyn Fn(&Answer) -> Option<u64>| answers.iter().filter_map(|a| of(a)).sum();
        let output: u64 = sum(&|answer| answer.output_tokens);
        let counted_by = counting(&answers);
        let speeds = answers.iter().filter_map(|a| a.inter_token_latency());
        let speeds = speeds.filter(|latency| !latency.is_zero());
        let failed = failures().count() as u64;
        let answered = answers.len() as u64;
        Self {
            endpoint,
            load,
            rounds: rounds.len(),
            duration_s,
            requests: Requests {
                sent: answered.saturating_add(failed),
                answered,
                failed,
                abandoned: rounds.iter().map(|round| round.abandoned).sum(),
            },
            tokens: Tokens {
                prompt: sum(&|answer| answer.prompt_tokens),
                output,
                counted_by,
            },
            request_throughput: per_second(answered),
            output_token_throughput: (counted_by != Counting::Nobody).then(|| per_second(output)),
            time_to_first_token_ms: times(&|answer| answer.first),
            inter_token_latency_ms: times(&Answer::inter_token_latency),
            inter_chunk_latency_ms: Distribution::of(
                answers
                    .iter()
                    .flat_map(|a| &a.gaps)
                    .copied()
                    .map(ms)
                    .collect(),
            ),
            request_latency_ms: times(&|answer| Some(answer.latency)),
            output_token_throughput_per_user: Distribution::of(
                speeds
                    .map(|latency| latency.as_secs_f64().recip())
                    .collect(),
            ),
            output_tokens: counts(&|answer| answer.output_tokens),
            prompt_tokens: counts(&|answer| answer.prompt_tokens),
            schedule_lag_ms: Distribution::of(
                records().filter_map(|record| record.lag.map(ms)).collect(),
            ),
            overrun: rounds.iter().any(|round| round.overrun),
            errors: failure::count(failures()),
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// From the first sending to the last answer's last content. Where nothing was answered, to the
/// last failure.
fn span(records: &[Record]) -> Duration {
    let end = |record: &Record| {
        let taken = match &record.outcome {
            Ok(answer) => answer.latency,
            Err(_) => record.taken,
        };
        record.sent.checked_add(taken)
    };
    let begin = records.iter().map(|record| record.sent).min();
    let end = records.iter().filter_map(end).max();
    match (begin, end) {
        (Some(begin), Some(end)) => end.saturating_duration_since(begin),
        _ => Duration::ZERO,
    }
}

fn counting(answers: &[&Answer]) -> Counting {
    let by = |who| answers.iter().filter(|a| a.counted_by == who).count();
    let (usage, chunks) = (by(CountedBy::Usage), by(CountedBy::Chunks));
    match (usage, chunks, by(CountedBy::Nobody)) {
        (0, 0, _) => Counting::Nobody,
        (_, 0, 0) => Counting::Usage,
        (0, _, 0) => Counting::Chunks,
        _ => Counting::Mixed,
    }
}

/// Failures that are the same for every request, which is to say those that would waste a run.
pub(crate) fn refusal(records: &[Record]) -> Option<&Failure> {
    let failures = records
        .iter()
        .filter_map(|record| record.outcome.as_ref().err());
    failures.into_iter().find(|failure| failure.is_refusal())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Instant;

    use super::*;

    fn answer(first: u64, latency: u64, tokens: u64) -> Answer {
        let millis = Duration::from_millis;
        Answer {
            first: Some(millis(first)),
            latency: millis(latency),
            gaps: vec![millis(latency - first)],
            prompt_tokens: Some(10),
            output_tokens: Some(tokens),
            counted_by: CountedBy::Usage,
        }
    }

    fn record(begin: Instant, at: u64, taken: u64, outcome: Result<Answer, Failure>) -> Record {
        Record {
            sent: begin + Duration::from_millis(at),
            lag: None,
            taken: Duration::from_millis(taken),
            outcome,
        }
    }

    /// Two rounds with a pause between them, an answer of 3 tokens, one of 5, one failure.
    pub(crate) fn example(endpoint: usize, slower: u64) -> Summary {
        let begin = Instant::now();
        let busy = Failure::Status {
            status: 503,
            message: "<b>busy</b> & \"full\"".into(),
        };
        let first = Finished {
            records: vec![
                record(begin, 0, 0, Ok(answer(100, 200 * slower, 3))),
                record(begin, 0, 50, Err(busy)),
            ],
            abandoned: 0,
            overrun: false,
        };
        let second = Finished {
            records: vec![record(begin, 5000, 0, Ok(answer(300, 500 * slower, 5)))],
            abandoned: 1,
            overrun: false,
        };
        Summary::of(endpoint, Load::Closed { concurrency: 2 }, &[first, second])
    }

    #[test]
    fn figures_are_those_of_the_definitions() {
        let summary = example(0, 1);
        // 200 ms and 500 ms; the pause between the rounds does not count.
        assert!((summary.duration_s - 0.7).abs() < 1e-9);
        let requests = Requests {
            sent: 3,
            answered: 2,
            failed: 1,
            abandoned: 1,
        };
        assert_eq!(summary.requests, requests);
        assert_eq!((summary.tokens.prompt, summary.tokens.output), (20, 8));
        let near = |value: f64, expected: f64| assert!((value - expected).abs() < 1e-6, "{value}");
        near(summary.request_throughput, 2.0 / 0.7);
        near(summary.output_token_throughput.unwrap(), 8.0 / 0.7);
        near(summary.time_to_first_token_ms.unwrap().mean, 200.0);
        near(summary.request_latency_ms.unwrap().mean, 350.0);
        // (200 - 100) / 2 and (500 - 300) / 4 are both 50.
        near(summary.inter_token_latency_ms.unwrap().p99, 50.0);
        near(summary.inter_chunk_latency_ms.unwrap().mean, 150.0);
        near(summary.output_token_throughput_per_user.unwrap().mean, 20.0);
        assert_eq!(summary.errors[0].status, Some(503));
        assert_eq!(summary.schedule_lag_ms, None);
    }

    #[test]
    fn a_load_without_answers_has_no_times() {
        let begin = Instant::now();
        let finished = Finished {
            records: vec![record(begin, 0, 20, Err(Failure::CutOff))],
            abandoned: 0,
            overrun: false,
        };
        let summary = Summary::of(0, Load::Closed { concurrency: 1 }, &[finished]);
        assert_eq!(summary.time_to_first_token_ms, None);
        assert_eq!(summary.output_token_throughput, None);
        assert_eq!(
            (summary.request_throughput, summary.requests.failed),
            (0.0, 1)
        );
        let nothing = Summary::of(0, Load::Closed { concurrency: 1 }, &[]);
        assert_eq!((nothing.duration_s, nothing.requests.sent), (0.0, 0));
    }
}
