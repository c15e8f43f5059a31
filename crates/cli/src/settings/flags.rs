//! Flags of how the server is deployed: what surrounds it, and not what it computes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use vlmd_server::{Cors, CorsRules, ServerConfig, Tls};

use super::tls::tls_files;
use super::values;
use crate::args::positive;

/// How the server is deployed.
#[derive(Debug, Args)]
pub(crate) struct DeploymentArgs {
    /// Print each setting with its value and where that came from, and end
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "text"
    )]
    pub(crate) print_config: Option<PrintFormat>,
    /// Cache of models as NIM containers keep it: looked into, and fetched into. By default
    /// /opt/nim/.cache is looked into, and models are fetched into Hugging Face's own cache
    #[arg(long, env = "VLMD_CACHE_PATH", value_name = "DIR")]
    pub(crate) cache_path: Option<PathBuf>,
    /// Program that serves in place of this one, with the same arguments; by default the one in
    /// ../lib/vlmd that is compiled for this host's cards, where there are such
    #[arg(long, env = "VLMD_BINARY", value_name = "FILE")]
    pub(crate) binary: Option<PathBuf>,
    /// Never fetch a model: it must be there
    #[arg(long, env = "VLMD_OFFLINE")]
    pub(crate) offline: bool,
    /// Share of the memory that is free at the start that everything planned may take together,
    /// above 0 and at most 1, as vLLM's flag of this name; by default 0.9 on a CUDA device and no
    /// bound on a CPU; `--kv-cache-memory` goes before it
    #[arg(
        long,
        env = "VLMD_GPU_MEMORY_UTILIZATION",
        value_name = "SHARE",
        value_parser = values::share
    )]
    pub(crate) gpu_memory_utilization: Option<f64>,
    /// Tokens of one chunk of a stream; the first comes at once
    #[arg(long, env = "VLMD_STREAM_INTERVAL", default_value_t = 1, value_parser = positive)]
    pub(crate) stream_interval: usize,
    /// Port for probes alone, in plain HTTP whatever the other port speaks; 0 takes a free one
    #[arg(long, env = "VLMD_HEALTH_PORT")]
    pub(crate) health_port: Option<u16>,
    /// Whether traces are exported by a binary that can; `auto` does where an endpoint is named
    #[arg(long, env = "VLMD_TRACING", value_enum, default_value_t)]
    pub(crate) tracing: Tracing,

    /// Routes that are left out, with all below them, such as /v1/responses
    #[arg(
        long,
        env = "VLMD_DISABLE_ROUTE",
        value_delimiter = ',',
        value_name = "PATH,...",
        value_parser = values::path
    )]
    pub(crate) disable_route: Vec<String>,

    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    #[command(flatten)]
    pub(crate) cors: CorsArgs,
}

impl DeploymentArgs {
    /// `config` with what they say of the server.
    ///
    /// # Errors
    /// When the files of TLS or the rules for other origins do not serve.
    pub(crate) fn apply(&self, config: ServerConfig) -> Result<ServerConfig> {
        let files = tls_files(&self.tls)?;
        let tls = files.map(|files| Tls::from_files(&files)).transpose();
        Ok(ServerConfig {
            stream_interval: self.stream_interval,
            disabled_routes: self.disable_route.clone(),
            tls: tls.context("TLS is not to be had")?,
            cors: Cors::new(&self.cors.rules())?,
            ..config
        })
    }
}

/// TLS on the API's port.
#[derive(Debug, Args)]
pub(crate) struct TlsArgs {
    /// Certificate of the server, with those between it and its authority, as PEM: turns TLS on
    #[arg(long, env = "VLMD_SSL_CERTFILE", value_name = "FILE")]
    pub(crate) ssl_certfile: Option<PathBuf>,
    /// Its private key as PEM, not encrypted
    #[arg(long, env = "VLMD_SSL_KEYFILE", value_name = "FILE")]
    pub(crate) ssl_keyfile: Option<PathBuf>,
    /// Authorities of clients as PEM: a client must show a certificate of one of them
    #[arg(long, env = "VLMD_SSL_CA_CERTS", value_name = "FILE")]
    pub(crate) ssl_ca_certs: Option<PathBuf>,
}

/// Pages of other origins.
#[derive(Debug, Args)]
pub(crate) struct CorsArgs {
    /// Origins whose pages may call the server, such as `https://app.example.org`, or `*`
    #[arg(
        long,
        env = "VLMD_CORS_ALLOW_ORIGINS",
        value_delimiter = ',',
        value_name = "ORIGIN,..."
    )]
    pub(crate) cors_allow_origins: Vec<String>,
    /// Methods that they may use, or `*`
    #[arg(
        long,
        env = "VLMD_CORS_ALLOW_METHODS",
        value_delimiter = ',',
        value_name = "METHOD,...",
        default_value = "GET,POST,PUT,DELETE,OPTIONS"
    )]
    pub(crate) cors_allow_methods: Vec<String>,
    /// Headers that they may send, or `*`
    #[arg(
        long,
        env = "VLMD_CORS_ALLOW_HEADERS",
        value_delimiter = ',',
        value_name = "NAME,...",
        default_value = "*"
    )]
    pub(crate) cors_allow_headers: Vec<String>,
    /// Headers that they may read
    #[arg(
        long,
        env = "VLMD_CORS_EXPOSE_HEADERS",
        value_delimiter = ',',
        value_name = "NAME,...",
        default_value = "x-request-id,retry-after"
    )]
    pub(crate) cors_expose_headers: Vec<String>,
    /// Let browsers send cookies along; needs the origins to be named
    #[arg(long, env = "VLMD_CORS_ALLOW_CREDENTIALS")]
    pub(crate) cors_allow_credentials: bool,
    /// Seconds that browsers may remember what is allowed
    #[arg(long, env = "VLMD_CORS_MAX_AGE", default_value_t = CorsRules::DEFAULT_MAX_AGE.as_secs())]
    pub(crate) cors_max_age: u64,
}

impl CorsArgs {
    /// The rules that they make.
    pub(crate) fn rules(&self) -> CorsRules {
        let named = |list: &[String]| -> Vec<String> {
            let items = list.iter().map(|item| item.trim().to_owned());
            items.filter(|item| !item.is_empty()).collect()
        };
        CorsRules {
            origins: named(&self.cors_allow_origins),
            methods: named(&self.cors_allow_methods),
            headers: named(&self.cors_allow_headers),
            exposed_headers: named(&self.cors_expose_headers),
            credentials: self.cors_allow_credentials,
            max_age: Duration::from_secs(self.cors_max_age),
        }
    }
}

/// How settings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrintFormat {
    Text,
    Json,
}

/// Whether traces are exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tracing {
    #[default]
    Auto,
    On,
    Off,
}
