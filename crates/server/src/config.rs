//! How the server is set up.

use std::time::Duration;

use crate::{ApiKeys, AssetLimits, Cors, ResponseMemory, RootPath, Tls};

/// How the server is set up; every field is a flag of `vlmd serve`.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Keys of which a request must present one. None means that every request is let in.
    pub api_keys: ApiKeys,
    /// Path under which all routes answer as well (`--root-path`).
    pub root_path: RootPath,
    /// Whether metrics need no key (`--open-metrics`).
    pub open_metrics: bool,
    /// Longest request body in bytes (`--max-body-bytes`).
    pub max_body_bytes: usize,
    /// Time in which a request's header must arrive, and after which an idle connection is
    /// closed (`--header-timeout`).
    pub header_timeout: Duration,
    /// Time in which a request's body must arrive (`--body-timeout`).
    pub body_timeout: Duration,
    /// Time in which a client must take some of what is sent to it, else its connection is closed
    /// (`--write-timeout`).
    pub write_timeout: Duration,
    /// Chat requests under way at a time, waiting ones included (`--max-inflight`). Beyond it
    /// the answer is a 503 at once, before the body is read.
    pub max_inflight: usize,
    /// Open connections (`--max-connections`). Beyond it, new ones wait to be accepted.
    pub max_connections: usize,
    /// Open connections from one address, of IPv6 from one /64 (`--max-connections-per-ip`); more
    /// are closed at once. `None` is any number: behind a proxy all come from one address.
    pub max_connections_per_ip: Option<usize>,
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
    /// Tokens of one chunk of a stream (`--stream-interval`); the first comes at once.
    pub stream_interval: usize,
    /// Routes that are answered as unknown, with all below them (`--disable-route`).
    pub disabled_routes: Vec<String>,
    /// How the API's port speaks TLS (`--ssl-certfile`); `None` is plain HTTP.
    pub tls: Option<Tls>,
    /// Which pages of other origins may call (`--cors-allow-origins`); `None` is none.
    pub cors: Option<Cors>,
    /// How much may be uploaded as assets (`--asset-bytes` and the like).
    pub assets: AssetLimits,
    /// How long and how much of responses is kept (`--responses-store`).
    pub responses: ResponseMemory,
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
    /// As long as a proxy commonly waits.
    pub const DEFAULT_WRITE_TIMEOUT: Duration = Duration::from_secs(30);
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
            root_path: RootPath::default(),
            open_metrics: false,
            max_body_bytes: Self::DEFAULT_MAX_BODY_BYTES,
            header_timeout: Self::DEFAULT_HEADER_TIMEOUT,
            body_timeout: Self::DEFAULT_BODY_TIMEOUT,
            write_timeout: Self::DEFAULT_WRITE_TIMEOUT,
            max_inflight: Self::DEFAULT_MAX_INFLIGHT,
            max_connections: Self::DEFAULT_MAX_CONNECTIONS,
            max_connections_per_ip: None,
            metrics_legacy_names: false,
            prompt_tokens_details: false,
            queue_timeout: None,
            request_timeout: None,
            stream_interval: 1,
            disabled_routes: Vec::new(),
            tls: None,
            cors: None,
            responses: ResponseMemory::default(),
            prepare_concurrency: std::thread::available_parallelism().map_or(1, usize::from),
            assets: AssetLimits::default(),
            drain_timeout: Self::DEFAULT_DRAIN_TIMEOUT,
        }
    }
}
