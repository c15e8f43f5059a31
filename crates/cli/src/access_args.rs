//! What the command line says about who is let in, and how long clients are waited for.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use vlmd_server::ServerConfig;

use crate::args::{positive, seconds};

#[derive(Debug, Args)]
pub(crate) struct AccessArgs {
    /// File of further keys with names and limits, as lines of `name:key`, TOML or JSON; read
    /// again when it changes and on SIGHUP
    #[arg(long, env = "VLMD_API_KEY_FILE", value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Let metrics be read without a key
    #[arg(long, env = "VLMD_OPEN_METRICS")]
    pub(crate) open_metrics: bool,
    /// Seconds in which a client must take some of what is sent to it
    #[arg(long, env = "VLMD_WRITE_TIMEOUT", default_value = "30", value_parser = seconds)]
    pub(crate) write_timeout: Duration,
    /// Open connections from one address; more are closed at once. Not behind a proxy
    #[arg(long, env = "VLMD_MAX_CONNECTIONS_PER_IP", value_parser = positive)]
    pub(crate) max_connections_per_ip: Option<usize>,
}

impl AccessArgs {
    /// `config` with what is said here.
    ///
    /// # Errors
    /// When the key file cannot be used.
    pub(crate) fn apply(&self, config: ServerConfig) -> anyhow::Result<ServerConfig> {
        let api_keys = match &self.api_key_file {
            Some(path) => config.api_keys.with_file(path)?,
            None => config.api_keys,
        };
        Ok(ServerConfig {
            api_keys,
            open_metrics: self.open_metrics,
            write_timeout: self.write_timeout,
            max_connections_per_ip: self.max_connections_per_ip,
            ..config
        })
    }
}
