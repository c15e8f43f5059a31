//! Request ids, the access log, and a count of responses.

use std::any::Any;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::ResponseForPanic;
use tracing::field::{Empty, display};
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use crate::auth::KeyName;
use crate::error::Refusal;
use crate::state::AppState;
use crate::trace_context::TraceParent;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is taken from a client.
const MAX_REQUEST_ID: usize = 128;

/// Gives the request an id, logs its answer, counts it.
///
/// Neither headers, query nor body are logged: they may hold keys and pictures.
pub(crate) async fn observe(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    let start = Instant::now();
    let id = request_id(&request);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = span(&request, &id);
    let mut response = next.run(request).instrument(span.clone()).await;
    response.headers_mut().insert(REQUEST_ID, id);

    let status = response.status();
    state.metrics().responded(status);
    let latency_ms = start.elapsed().as_millis();
    let status = status.as_u16();
    #[cfg(feature = "otlp")]
    crate::telemetry::end(&span, status);
    let key = response.extensions().get::<KeyName>();
    let key = key.map(|KeyName(name)| &**name);
    let _entered = span.enter();
    // Probes come every few seconds and say nothing new.
    if method == Method::GET && status < 400 {
        tracing::debug!(%method, path, status, latency_ms, key, "answered");
    } else {
        tracing::info!(%method, path, status, latency_ms, key, "answered");
    }
    response
}

/// The span of a request, which everything that is done for it belongs to.
///
/// What only looks has a target of its own, `vlmd_server::probe`, that exporters leave out:
/// probes and scrapes come every few seconds and would be most of the traces.
fn span(request: &Request, id: &HeaderValue) -> Span {
    macro_rules! span {
        ($target:expr) => {
            tracing::info_span!(
                target: $target,
                "request",
                id = id.to_str().unwrap_or_default(),
                trace_id = Empty,
                parent_id = Empty,
                otel.kind = Empty,
            )
        };
    }
    let span = if request.method() == Method::GET {
        span!("vlmd_server::probe")
    } else {
        span!("vlmd_server::request")
    };
    let parent = TraceParent::of(request.headers());
    if let Some(parent) = parent {
        span.record("trace_id", display(parent.trace_id));
        span.record("parent_id", display(parent.parent_id));
    }
    #[cfg(feature = "otlp")]
    crate::telemetry::begin(&span, parent, request);
    span
}

/// The client's id if it is short and printable, so that it can be logged as it is; else a new
/// one.
fn request_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID).filter(|id| {
        let bytes = id.as_bytes();
        (1..=MAX_REQUEST_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    });
    match given {
        Some(id) => id.clone(),
        None => HeaderValue::try_from(Uuid::new_v4().simple().to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("unknown")),
    }
}

/// What panics in handlers become: counted, and answered without their words, which stay in the
/// process.
#[derive(Debug, Clone)]
pub(crate) struct Panics(pub(crate) AppState);

impl ResponseForPanic for Panics {
    type ResponseBody = Body;

    fn response_for_panic(&mut self, _panic: Box<dyn Any + Send>) -> Response {
        self.0.metrics().panicked();
        Refusal::Internal.into_response()
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower::ServiceExt as _;
    use tower_http::catch_panic::CatchPanicLayer;

    use super::*;
    use crate::{ModelSlot, ServerConfig};

    async fn broken() -> &'static str {
        panic!("words of the inside")
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_500_and_counted() {
        let state = AppState::new(ServerConfig::default(), ModelSlot::default());
        let router = Router::new()
            .route("/", get(broken))
            .layer(CatchPanicLayer::custom(Panics(state.clone())))
            .layer(from_fn_with_state(state.clone(), observe));
        let request = Request::builder().body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(response.headers().contains_key(REQUEST_ID));
        let body = axum::body::to_bytes(response.into_body(), 10_000).await;
        let body = String::from_utf8(body.unwrap().to_vec()).unwrap();
        assert!(
            body.contains("internal_error") && !body.contains("words"),
            "{body}"
        );
        let metrics = state.metrics().render(None, &[], 0, false);
        for line in [
            "vlmd:handler_panics_total 1",
            "vlmd:http_responses_total{status=\"500\"} 1",
        ] {
            assert!(metrics.lines().any(|found| found == line), "{metrics}");
        }
    }

    fn id_for(given: &str) -> String {
        let request = Request::builder()
            .header(REQUEST_ID, given)
            .body(Body::empty())
            .unwrap();
        request_id(&request).to_str().unwrap().to_owned()
    }

    #[test]
    fn short_printable_ids_are_kept_and_others_replaced() {
        assert_eq!(id_for("run-7/a"), "run-7/a");
        let long = "x".repeat(129);
        for odd in ["", "two words", "t\tab", &long] {
            let id = id_for(odd);
            assert_eq!(id.len(), 32);
            assert_ne!(id, odd);
        }
    }
}
