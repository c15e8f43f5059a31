//! Where log lines go, and in what form; with the feature `otlp`, where traces go.

use std::io::IsTerminal;

use tokio::runtime::Handle;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::args::{LogFormat, LogLevel};
use crate::settings::Tracing;

/// A consumer of spans and events.
pub(crate) type Sink = Box<dyn Layer<Registry> + Send + Sync>;

/// What must be ended in order when the server has.
#[derive(Debug)]
#[must_use]
pub(crate) struct Logging {
    #[cfg(feature = "otlp")]
    exporter: Option<crate::otlp::Exporter>,
}

/// Sends log lines of `level` and above to standard error, and traces where the environment says,
/// if the binary can do that. Those are sent on `runtime`.
///
/// `RUST_LOG`, where it is set and valid, takes precedence: it can tell modules apart. Traces have
/// their own filter.
pub(crate) fn init(
    level: LogLevel,
    format: LogFormat,
    tracing: Tracing,
    runtime: &Handle,
) -> Logging {
    let sinks = vec![lines(level, format)];
    #[cfg(feature = "otlp")]
    return with_traces(sinks, tracing, runtime);
    #[cfg(not(feature = "otlp"))]
    {
        let _ = runtime;
        tracing_subscriber::registry().with(sinks).init();
        if tracing == Tracing::On {
            tracing::warn!("no traces are exported: this binary was built without `otlp`");
        }
        Logging {}
    }
}

#[cfg(feature = "otlp")]
fn with_traces(mut sinks: Vec<Sink>, tracing: Tracing, runtime: &Handle) -> Logging {
    let started = crate::otlp::start(tracing, runtime);
    let (exporter, trouble) = match started {
        Ok(Some((exporter, sink))) => {
            sinks.push(sink);
            (Some(exporter), None)
        }
        Ok(None) => (None, None),
        Err(error) => (None, Some(error)),
    };
    tracing_subscriber::registry().with(sinks).init();
    if let Some(error) = trouble {
        tracing::warn!(error = format!("{error:#}"), "no traces are exported");
    }
    Logging { exporter }
}

impl Logging {
    /// Sends what has not been sent. The runtime must still be there.
    pub(crate) fn finish(self) {
        #[cfg(feature = "otlp")]
        if let Some(exporter) = self.exporter {
            exporter.finish();
        }
    }
}

fn lines(level: LogLevel, format: LogFormat) -> Sink {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new(format!(
            "warn,vlmd={0},vlmd_server={0},vlmd_engine={0},vlmd_models={0},vlmd_media={0}",
            level.as_str()
        ))
    });
    let lines = fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_target(false).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    }
}
