//! How a single request fails, and what the other side says about it.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

/// Characters of a server's message that are kept.
const MAX_MESSAGE_CHARS: usize = 300;

/// Why a request has no answer that could be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection.
    Unreachable(String),
    /// No complete answer within the time.
    TimedOut(Duration),
    /// The connection broke.
    Broken(String),
    /// Another status than 2xx.
    Status {
        /// The HTTP status.
        status: u16,
        /// What the server says.
        message: String,
    },
    /// An error in the middle of a stream.
    InStream(String),
    /// Something that is not the OpenAI format.
    Malformed(String),
    /// The stream ended before the answer did.
    CutOff,
}

impl Failure {
    /// The kind's name in reports.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut(_) => "timed_out",
            Self::Broken(_) => "broken",
            Self::Status { .. } => "status",
            Self::InStream(_) => "in_stream",
            Self::Malformed(_) => "malformed",
            Self::CutOff => "cut_off",
        }
    }

    /// The HTTP status, where there is one that says something.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// A sentence about it.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Unreachable(reason) => format!("cannot be reached: {reason}"),
            Self::TimedOut(bound) => {
                format!("no complete answer within {} s", bound.as_secs_f64())
            }
            Self::Broken(reason) => format!("the connection broke: {reason}"),
            Self::Status { status, message } => format!("{status}: {message}"),
            Self::InStream(message) => format!("an error in the stream: {message}"),
            Self::Malformed(reason) => format!("not the OpenAI format: {reason}"),
            Self::CutOff => "the stream ended before the answer did".to_owned(),
        }
    }

    /// Whether sending the same kind of request again is pointless.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Status { status, .. }
            if (300..500).contains(status) && ![408, 425, 429, 499].contains(status))
    }
}

/// How often requests failed in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FailureCount {
    /// The kind of failure.
    pub(crate) kind: &'static str,
    /// The HTTP status of kind `status`.
    pub(crate) status: Option<u16>,
    /// Requests that failed like this.
    pub(crate) count: u64,
    /// What the first of them said.
    pub(crate) message: String,
}

/// Counts failures by kind and status; the most frequent first.
pub(crate) fn count<'a>(failures: impl Iterator<Item = &'a Failure>) -> Vec<FailureCount> {
    let mut counts: BTreeMap<(&str, Option<u16>), FailureCount> = BTreeMap::new();
    for failure in failures {
        let key = (failure.kind(), failure.status());
        let entry = counts.entry(key).or_insert_with(|| FailureCount {
            kind: failure.kind(),
            status: failure.status(),
            count: 0,
            message: failure.message(),
        });
        entry.count = entry.count.saturating_add(1);
    }
    let mut counts: Vec<_> = counts.into_values().collect();
    counts.sort_by_key(|entry| std::cmp::Reverse(entry.count));
    counts
}

/// The innermost reason of an error: of reqwest's, the one that says something.
pub(crate) fn root_cause(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    printable(&error.to_string())
}

/// What an error's body says, in any of the spellings of OpenAI, NIM 1.x, FastAPI, and NVIDIA's
/// gateway (RFC 7807).
pub(crate) fn server_message(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let found = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|value| message_of(&value));
    let message = printable(found.as_deref().unwrap_or(&text));
    if message.is_empty() {
        "(no message)".to_owned()
    } else {
        message
    }
}

/// The message in an error object.
pub(crate) fn message_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => list.first().and_then(message_of),
        Value::Object(fields) => ["error", "message", "detail", "msg", "title"]
            .iter()
            .filter_map(|name| fields.get(*name))
            .find_map(message_of),
        _ => None,
    }
}

/// Text of another machine as one line without control characters, which a terminal might obey.
pub(crate) fn printable(text: &str) -> String {
    let clean: String = text
        .chars()
        .take(MAX_MESSAGE_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    clean.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_in_every_spelling() {
        for (body, message) in [
            (r#"{"error":{"message":"no","code":401}}"#, "no"),
            (r#"{"object":"error","message":"flat","code":400}"#, "flat"),
            (
                r#"{"detail":[{"loc":["body","x"],"msg":"extra field"}]}"#,
                "extra field",
            ),
            (
                r#"{"status":403,"title":"Forbidden","detail":"Authorization failed"}"#,
                "Authorization failed",
            ),
            (r#"{"error":"plain"}"#, "plain"),
            ("upstream\n\u{1b}[31mgone", "upstream [31mgone"),
            ("", "(no message)"),
        ] {
            assert_eq!(server_message(body.as_bytes()), message);
        }
    }

    #[test]
    fn failures_are_counted_by_kind_and_status() {
        let status = |status| Failure::Status {
            status,
            message: "busy".into(),
        };
        let failures = [status(429), Failure::CutOff, status(503), status(503)];
        let counts = count(failures.iter());
        let brief: Vec<_> = counts
            .iter()
            .map(|entry| (entry.kind, entry.status, entry.count))
            .collect();
        assert_eq!(
            brief,
            [
                ("status", Some(503), 2),
                ("cut_off", None, 1),
                ("status", Some(429), 1)
            ]
        );
        assert_eq!(counts[0].message, "503: busy");
    }

    #[test]
    fn refusals_are_what_does_not_pass() {
        for (status, refusal) in [
            (401, true),
            (404, true),
            (302, true),
            (429, false),
            (503, false),
        ] {
            let failure = Failure::Status {
                status,
                message: String::new(),
            };
            assert_eq!(failure.is_refusal(), refusal, "{status}");
        }
        assert!(!Failure::CutOff.is_refusal());
    }
}
