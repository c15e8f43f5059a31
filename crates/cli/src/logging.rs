//! Where log lines go, and in what form.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::args::{LogFormat, LogLevel};

/// Sends log lines of `level` and above to standard error.
///
/// `RUST_LOG`, where it is set and valid, takes precedence: it can tell modules apart.
pub(crate) fn init(level: LogLevel, format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new(format!(
            "warn,vlmd={0},vlmd_server={0},vlmd_engine={0},vlmd_models={0},vlmd_media={0}",
            level.as_str()
        ))
    });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
