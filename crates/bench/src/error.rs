//! What keeps a benchmark from running at all. What goes wrong with single requests is counted
//! instead: see `failure`.

use std::path::PathBuf;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A flag's value cannot be used.
    #[error("{flag}: {reason}")]
    Flag {
        /// The flag, with its dashes.
        flag: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read, or holds something else than was expected.
    #[error("{flag}: {}: {reason}", path.display())]
    File {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers at an endpoint.
    #[error("{url} cannot be reached: {reason}")]
    Unreachable {
        /// The endpoint, without its query.
        url: String,
        /// What the connection failed with.
        reason: String,
    },
    /// An endpoint answers that it will not serve these requests.
    #[error("{url} answers {status}: {message}")]
    Refused {
        /// The endpoint, without its query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the endpoint says.
        message: String,
    },
    /// An endpoint does not serve the model.
    #[error("{url} does not serve the model `{model}`; it serves {served}")]
    UnknownModel {
        /// The endpoint, without its query.
        url: String,
        /// What was asked for.
        model: String,
        /// What there is.
        served: String,
    },
    /// More than the hosted endpoint takes.
    #[error("{0}; --ignore-limits sends it all the same")]
    HostedLimit(String),
    /// Not one request was answered.
    #[error("none of {requests} requests to {url} was answered: {message}")]
    NothingAnswered {
        /// The endpoint, without its query.
        url: String,
        /// Requests that were sent.
        requests: u64,
        /// The most frequent failure.
        message: String,
    },
    /// The machine does not let the benchmark run.
    #[error("{action}: {reason}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why it did not work.
        reason: String,
    },
}

impl BenchError {
    /// A value of `flag` that cannot be used.
    pub(crate) fn flag(flag: &'static str, reason: impl Into<String>) -> Self {
        Self::Flag {
            flag,
            reason: reason.into(),
        }
    }

    /// Something that this machine refused.
    pub(crate) fn system(action: &'static str, error: &dyn std::fmt::Display) -> Self {
        Self::System {
            action,
            reason: error.to_string(),
        }
    }
}
