//! Traces for an OpenTelemetry collector, by OTLP over HTTP with protobuf.
//!
//! Set up by the variables that all OpenTelemetry SDKs share
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/> and
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>). Contrary to those nothing is
//! sent unless an endpoint is named, or `--tracing on` asks for the usual one on this machine. Headers, timeouts, samplers, batches and resource attributes
//! are read by the SDK itself.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Key, KeyValue, global};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::logging::Sink;
use crate::settings::Tracing;

/// What the server is called where nothing else is said.
const SERVICE: &str = "vlmd";

/// Longest time that the end of the process waits for the collector.
const FAREWELL: Duration = Duration::from_secs(3);

/// Longest time that a batch may take, as the specification has it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Sends finished spans, in batches, from a thread of its own.
#[derive(Debug)]
pub(crate) struct Exporter {
    provider: SdkTracerProvider,
}

/// Starts the export that `tracing` and the environment ask for, if it does, with a sink for what is to be
/// exported. Batches are sent on `runtime`.
///
/// # Errors
/// When a variable has a value that cannot be followed. A collector that does not answer is no
/// error: the SDK warns of each batch that is lost.
pub(crate) fn start(tracing: Tracing, runtime: &Handle) -> Result<Option<(Exporter, Sink)>> {
    if !wanted(tracing, variable)? {
        return Ok(None);
    }
    let client = OnRuntime {
        client: client(timeout(variable)?)?,
        runtime: runtime.clone(),
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .build()
        .context("the exporter cannot be set up")?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource())
        .build();
    global::set_tracer_provider(provider.clone());
    let sink = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(SERVICE))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(exported())
        .boxed();
    Ok(Some((Exporter { provider }, sink)))
}

impl Exporter {
    /// Sends what has not been sent, for a short time.
    pub(crate) fn finish(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FAREWELL) {
            tracing::warn!(%error, "the last traces are lost");
        }
    }
}

/// Our own spans whatever the log level is, but for those of probes; and nothing of the crates
/// that send them.
fn exported() -> Targets {
    Targets::new()
        .with_target("vlmd", LevelFilter::INFO)
        .with_target("vlmd_server::probe", LevelFilter::OFF)
}

/// A variable of the environment. Empty is as good as unset, says the specification.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether traces are to be sent.
fn wanted(tracing: Tracing, variable: impl Fn(&str) -> Option<String>) -> Result<bool> {
    let disabled =
        variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let endpoint = [
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ];
    let somewhere = tracing == Tracing::On || endpoint.iter().any(|name| variable(name).is_some());
    if disabled || !somewhere || tracing == Tracing::Off {
        return Ok(false);
    }
    match variable("OTEL_TRACES_EXPORTER").as_deref() {
        Some("none") => return Ok(false),
        None | Some("otlp") => {}
        Some(other) => bail!("OTEL_TRACES_EXPORTER must be `otlp` or `none`, not `{other}`"),
    }
    let (name, protocol) = first(
        &variable,
        [
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "OTEL_EXPORTER_OTLP_PROTOCOL",
        ],
    );
    match protocol.as_deref() {
        None | Some("http/protobuf") => Ok(true),
        Some(other) => bail!("{name} must be `http/protobuf`, not `{other}`"),
    }
}

/// Longest time that a batch may take, in whole milliseconds.
fn timeout(variable: impl Fn(&str) -> Option<String>) -> Result<Duration> {
    let (name, value) = first(
        &variable,
        [
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
            "OTEL_EXPORTER_OTLP_TIMEOUT",
        ],
    );
    let Some(value) = value else {
        return Ok(TIMEOUT);
    };
    match value.parse() {
        Ok(millis @ 1..) => Ok(Duration::from_millis(millis)),
        _ => bail!("{name} must be a number of milliseconds from 1 on, not `{value}`"),
    }
}

/// The first of two variables that is set, with its name.
fn first(
    variable: impl Fn(&str) -> Option<String>,
    [special, general]: [&'static str; 2],
) -> (&'static str, Option<String>) {
    match variable(special) {
        Some(value) => (special, Some(value)),
        None => (general, variable(general)),
    }
}

/// Who we are: what the environment says, and what it leaves open.
fn resource() -> Resource {
    let name = Key::from_static_str("service.name");
    let found = Resource::builder().build();
    let named = found
        .get(&name)
        .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let ours = (!named).then(|| KeyValue::new(name, SERVICE));
    Resource::builder()
        .with_attributes(ours.into_iter().chain([version]))
        .build()
}

/// The HTTP client, with the same TLS as the fetcher of pictures: rustls with ring, and the
/// certificate authorities of the system, or those in `SSL_CERT_FILE` and `SSL_CERT_DIR`.
fn client(timeout: Duration) -> Result<reqwest::Client> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        // Headers may hold keys, which are meant for one host.
        .redirect(reqwest::redirect::Policy::none())
        .timeout(timeout)
        .build()
        .context("the HTTP client cannot be set up")
}

/// Sends on a runtime for a caller, the SDK's thread, that has none.
#[derive(Debug)]
struct OnRuntime {
    client: reqwest::Client,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self
            .runtime
            .spawn(async move { client.send_bytes(request).await });
        sent.await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An environment with nothing but this.
    fn only<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| {
            let found = set.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        }
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    #[test]
    fn traces_are_sent_only_where_somewhere_is_named() {
        for (set, expected) in [
            (&[][..], false),
            (&[("OTEL_TRACES_EXPORTER", "otlp")], false),
            (&[ENDPOINT], true),
            (
                &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/v1/traces")],
                true,
            ),
            (&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "otlp")], true),
            (&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")], false),
            (&[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")], false),
            (
                &[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")],
                true,
            ),
        ] {
            let found = wanted(Tracing::Auto, only(set)).unwrap();
            assert_eq!(found, expected, "{set:?}");
            assert!(!wanted(Tracing::Off, only(set)).unwrap(), "{set:?}");
        }
    }

    #[test]
    fn traces_are_sent_where_they_usually_are_if_asked_for() {
        assert!(wanted(Tracing::On, only(&[])).unwrap());
        let none = [("OTEL_TRACES_EXPORTER", "none")];
        assert!(!wanted(Tracing::On, only(&none)).unwrap());
    }

    #[test]
    fn values_that_cannot_be_followed_are_named() {
        let message =
            |set: &[(&str, &str)]| wanted(Tracing::Auto, only(set)).unwrap_err().to_string();
        assert_eq!(
            message(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "zipkin")]),
            "OTEL_TRACES_EXPORTER must be `otlp` or `none`, not `zipkin`"
        );
        assert_eq!(
            message(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]),
            "OTEL_EXPORTER_OTLP_PROTOCOL must be `http/protobuf`, not `grpc`"
        );
        for odd in ["0", "-1", "10s", "1e3"] {
            let error = timeout(only(&[("OTEL_EXPORTER_OTLP_TIMEOUT", odd)])).unwrap_err();
            assert!(error.to_string().contains(odd), "{error}");
        }
    }

    #[test]
    fn the_special_timeout_goes_before_the_general_one() {
        let both = [
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "700"),
        ];
        let of = |set: &[(&str, &str)]| timeout(only(set)).unwrap().as_millis();
        assert_eq!([of(&both), of(&both[..1]), of(&[])], [700, 500, 10_000]);
    }
}
