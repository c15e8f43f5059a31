//! How the server is set up.

use std::time::Duration;

use crate::ApiKeys;

/// How the server is set up; every field is a flag of `vlmd serve`.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Keys of which a request must present one. None means that every request is let in.
    pub api_keys: ApiKeys,
    /// Longest request body in bytes (`--max-body-bytes`).
    pub max_body_bytes: usize,
    /// Time in which a request's header must arrive, and after which an idle connection is
    /// closed (`--header-timeout`).
    pub header_timeout: Duration,
    /// Time in which a request's body must arrive (`--body-timeout`).
    pub body_timeout: Duration,
    /// Chat requests under way at a time, waiting ones included (`--max-inflight`). Beyond it
    /// the answer is a 503 at once, before the body is read.
    pub max_inflight: usize,
    /// Open connections (`--max-connections`). Beyond it, new ones wait to be accepted.
    pub max_connections: usize,
    /// Prompts prepared at a time (`--prepare-concurrency`): templates, tokenizing, resampling.
    pub prepare_concurrency: usize,
    /// Also export names of metrics that vLLM has given up (`--metrics-legacy-names`).
    pub metrics_legacy_names: bool,
    /// Tell how many tokens of a prompt were found in the cache
    /// (`--enable-prompt-tokens-details`).
    pub prompt_tokens_details: bool,
    /// Time in which a request must begin to run (`--queue-timeout`); `None` is any.
    pub queue_timeout: Option<Duration>,
    /// Time in which its answers must be complete (`--request-timeout`); `None` is any.
    pub request_timeout: Option<Duration>,
    /// Time that requests under way have to finish after a shutdown began (`--drain-timeout`).
    pub drain_timeout: Duration,
}

impl ServerConfig {
    /// 32 MiB: the 25 MiB of NVIDIA's hosted gateway and some room.
    pub const DEFAULT_MAX_BODY_BYTES: usize = 32 << 20;
    /// hyper's own.
    pub const DEFAULT_HEADER_TIMEOUT: Duration = Duration::from_secs(30);
    /// Half a megabyte per second for the largest body.
    pub const DEFAULT_BODY_TIMEOUT: Duration = Duration::from_secs(60);
    /// Twice the engine's default seats and line, so that its own 503 comes first.
    pub const DEFAULT_MAX_INFLIGHT: usize = 640;
    /// What fits under common limits on open files.
    pub const DEFAULT_MAX_CONNECTIONS: usize = 4096;
    /// Under the 30 s that Kubernetes grants a pod to stop.
    pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(25);
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            api_keys: ApiKeys::default(),
            max_body_bytes: Self::DEFAULT_MAX_BODY_BYTES,
            header_timeout: Self::DEFAULT_HEADER_TIMEOUT,
            body_timeout: Self::DEFAULT_BODY_TIMEOUT,
            max_inflight: Self::DEFAULT_MAX_INFLIGHT,
            max_connections: Self::DEFAULT_MAX_CONNECTIONS,
            metrics_legacy_names: false,
            prompt_tokens_details: false,
            queue_timeout: None,
            request_timeout: None,
            prepare_concurrency: std::thread::available_parallelism().map_or(1, usize::from),
            drain_timeout: Self::DEFAULT_DRAIN_TIMEOUT,
        }
    }
}
