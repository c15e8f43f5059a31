//! One endpoint and the connections to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Client, RequestBuilder, Response};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::answer::{Answer, StreamReader, whole};
use crate::error::BenchError;
use crate::failure::{Failure, printable, root_cause, server_message};
use crate::hosted::Pace;
use crate::sse::SseReader;
use crate::target::Target;

const USER_AGENT: &str = concat!("vlmd-bench/", env!("CARGO_PKG_VERSION"));

/// Time for a connection, its TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for the list of models.
const MODELS_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of an error's body that are read.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// Bytes of a whole answer or a list of models.
const MAX_BODY_BYTES: usize = 64 << 20;

/// Models that an error message lists.
const MAX_LISTED: usize = 10;

/// An endpoint that answers, with the model that it is asked for.
#[derive(Debug)]
pub(crate) struct Endpoint {
    target: Target,
    model: String,
    /// Fields of each request.
    fields: Map<String, Value>,
    client: Client,
    timeout: Duration,
    /// Shared by all that keep to the same limit.
    pace: Option<Arc<Pace>>,
}

/// What became of one request.
#[derive(Debug)]
pub(crate) struct Record {
    /// When it was sent.
    pub(crate) sent: Instant,
    /// How much later than it was due, in an open loop.
    pub(crate) lag: Option<Duration>,
    /// From sending until nothing more was to come.
    pub(crate) taken: Duration,
    /// Its measures, or why there are none.
    pub(crate) outcome: Result<Answer, Failure>,
}

/// HTTP/1.1 with connections kept open, as many as there are requests at a time, and the
/// certificate authorities of the system (or of `SSL_CERT_FILE` and `SSL_CERT_DIR`).
///
/// # Errors
/// [`BenchError::Flag`] for a proxy that is none, [`BenchError::System`] without TLS.
pub(crate) fn client(proxy: Option<&str>) -> Result<Client, BenchError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BenchError::system("setting up TLS", &error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(USER_AGENT)
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(usize::MAX)
        // Followed redirects would carry the key elsewhere, and tries hidden from the clock would
        // make it lie.
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never());
    let builder = match proxy {
        None => builder.no_proxy(),
        Some(url) => {
            let proxy = reqwest::Proxy::all(url)
                .map_err(|error| BenchError::flag("--proxy", root_cause(&error)))?;
            builder.proxy(proxy)
        }
    };
    builder
        .build()
        .map_err(|error| BenchError::system("setting up HTTP", &root_cause(&error)))
}

impl Endpoint {
    /// Looks for the model at the endpoint. One that does not list its models, as some gateways
    /// do not, is believed to have any that is named.
    ///
    /// # Errors
    /// [`BenchError::Unreachable`], [`BenchError::Refused`] and [`BenchError::UnknownModel`].
    pub(crate) async fn find(
        target: Target,
        client: Client,
        timeout: Duration,
        fields: Map<String, Value>,
        pace: Option<Arc<Pace>>,
    ) -> Result<Self, BenchError> {
        let mut endpoint = Self {
            target,
            model: String::new(),
            fields,
            client,
            timeout,
            pace,
        };
        endpoint.model = endpoint.find_model().await?;
        Ok(endpoint)
    }

    /// Its URL without a query.
    pub(crate) fn name(&self) -> &str {
        &self.target.name
    }

    /// What is asked for.
    pub(crate) fn model(&self) -> &str {
        &self.model
    }

    /// Fields of each request beside prompt, model and `stream`.
    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// Waits until the limits let another request begin.
    pub(crate) async fn turn(&self) {
        if let Some(pace) = &self.pace {
            pace.turn().await;
        }
    }

    /// Sends one request and reads its answer, with the clock on it.
    pub(crate) async fn measure(&self, body: Vec<u8>, lag: Option<Duration>) -> Record {
        let request = self
            .authorised(self.client.post(self.target.chat.clone()))
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "text/event-stream, application/json")
            .body(body);
        let sent = Instant::now();
        let answered = tokio::time::timeout(self.timeout, self.answer(request, sent)).await;
        let outcome = answered.unwrap_or(Err(Failure::TimedOut(self.timeout)));
        Record {
            sent,
            lag,
            taken: sent.elapsed(),
            outcome: outcome.map_err(|failure| self.redacted(failure)),
        }
    }

    async fn answer(&self, request: RequestBuilder, sent: Instant) -> Result<Answer, Failure> {
        let mut response = request.send().await.map_err(|error| of_transport(&error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(Failure::Status {
                status: status.as_u16(),
                message: server_message(&beginning(response).await),
            });
        }
        let kind = response.headers().get(CONTENT_TYPE);
        let is_stream = kind
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| {
                kind.trim_start()
                    .to_ascii_lowercase()
                    .starts_with("text/event-stream")
            });
        if !is_stream {
            let body = read(response, MAX_BODY_BYTES).await?;
            return whole(sent.elapsed(), &body);
        }
        let mut events = SseReader::default();
        let mut answer = StreamReader::default();
        let mut completed = Vec::new();
        while let Some(bytes) = response
            .chunk()
            .await
            .map_err(|error| of_transport(&error))?
        {
            // One piece of the network, one time, before anything is made of it.
            let at = sent.elapsed();
            let pushed = events.push(&bytes, &mut completed);
            pushed.map_err(|error| Failure::Malformed(error.to_string()))?;
            for event in completed.drain(..) {
                answer.event(at, &event)?;
            }
        }
        let end = sent.elapsed();
        if let Some(event) = events.finish() {
            answer.event(end, &event)?;
        }
        answer.finish(end)
    }

    async fn find_model(&self) -> Result<String, BenchError> {
        let url = self.target.name.clone();
        let request = self
            .authorised(self.client.get(self.target.models.clone()))
            .timeout(MODELS_TIMEOUT);
        let response = request
            .send()
            .await
            .map_err(|error| BenchError::Unreachable {
                url: url.clone(),
                reason: root_cause(&error),
            })?;
        let status = response.status().as_u16();
        if matches!(status, 401 | 403) {
            let message = server_message(&beginning(response).await);
            let message = self.redact(message);
            return Err(BenchError::Refused {
                url,
                status,
                message,
            });
        }
        let listed = match (status, read(response, MAX_BODY_BYTES).await) {
            (200, Ok(body)) => serde_json::from_slice::<Models>(&body).ok(),
            _ => None,
        };
        let listed = listed.map(|models| models.data).unwrap_or_default();
        let Some(wanted) = &self.target.model else {
            let first = listed.first().map(|model| model.id.clone());
            return first.ok_or(BenchError::Refused {
                url,
                status,
                message: "no list of models at /models: name one with --model or --vs-model".into(),
            });
        };
        if listed.is_empty() || listed.iter().any(|model| model.id == *wanted) {
            return Ok(wanted.clone());
        }
        let names = listed.iter().take(MAX_LISTED);
        let mut served: Vec<_> = names
            .map(|model| format!("`{}`", printable(&model.id)))
            .collect();
        if listed.len() > MAX_LISTED {
            served.push(format!("{} more", listed.len() - MAX_LISTED));
        }
        Err(BenchError::UnknownModel {
            url,
            model: wanted.clone(),
            served: served.join(", "),
        })
    }

    fn authorised(&self, request: RequestBuilder) -> RequestBuilder {
        match self.target.key.as_ref().and_then(super::key::Key::header) {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        }
    }

    fn redact(&self, text: String) -> String {
        match &self.target.key {
            Some(key) => key.redact(&text),
            None => text,
        }
    }

    fn redacted(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Status { status, message } => Failure::Status {
                status,
                message: self.redact(message),
            },
            Failure::InStream(message) => Failure::InStream(self.redact(message)),
            Failure::Malformed(message) => Failure::Malformed(self.redact(message)),
            other => other,
        }
    }
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

fn of_transport(error: &reqwest::Error) -> Failure {
    let reason = root_cause(error);
    if error.is_connect() {
        Failure::Unreachable(reason)
    } else {
        Failure::Broken(reason)
    }
}

/// A whole body.
async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(bytes) = response
        .chunk()
        .await
        .map_err(|error| of_transport(&error))?
    {
        if body.len().saturating_add(bytes.len()) > limit {
            return Err(Failure::Malformed(format!(
                "an answer of more than {limit} bytes"
            )));
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

/// As much of an error's body as says what is wrong, however the rest fails.
async fn beginning(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(bytes)) = response.chunk().await {
        body.extend_from_slice(&bytes);
        if body.len() > MAX_ERROR_BYTES {
            body.truncate(MAX_ERROR_BYTES);
            break;
        }
    }
    body
}
