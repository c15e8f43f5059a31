//! What of a request only OpenTelemetry knows how to say: the trace that it belongs to, names and
//! attributes of the semantic conventions for HTTP, and spans of what is over when it is known.
//!
//! Where no exporter is at work all of this does nothing.

use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{MatchedPath, Request};
use opentelemetry::trace::{
    SpanBuilder, SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue, global};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use vlmd_engine::Timings;

use crate::trace_context::TraceParent;

/// Makes `span` a child of the caller's, or the root of a trace of its own, and a server's span
/// for `request`.
pub(crate) fn begin(span: &Span, parent: Option<TraceParent>, request: &Request) {
    let context = parent.map_or_else(Context::new, |parent| {
        Context::new().with_remote_span_context(remote(parent))
    });
    // Nobody exports it.
    if span.set_parent(context).is_err() {
        return;
    }
    let method = request.method().as_str();
    span.record("otel.kind", "server");
    span.set_attribute("http.request.method", method.to_owned());
    span.set_attribute("url.path", request.uri().path().to_owned());
    if let Some(route) = request.extensions().get::<MatchedPath>() {
        let route = route.as_str().to_owned();
        let name = format!("{method} {route}");
        span.set_attribute("http.route", route);
        span.context().span().update_name(name);
    }
}

/// Adds how the request was answered.
pub(crate) fn end(span: &Span, status: u16) {
    span.set_attribute("http.response.status_code", i64::from(status));
    // As the conventions have it, a client's mistake is no error of the server's.
    if status >= 500 {
        span.set_status(Status::error(""));
    }
}

fn remote(parent: TraceParent) -> SpanContext {
    let flags = TraceFlags::default().with_sampled(parent.sampled);
    SpanContext::new(
        TraceId::from(parent.trace_id.0),
        SpanId::from(parent.parent_id.0),
        flags,
        true,
        TraceState::default(),
    )
}

/// Adds the phases of a generation that began at `start` and ends now: `queue`, `prefill` and
/// `decode` as the engine timed them; of one that broke off, which the engine says nothing about,
/// `first_token`, and `decode` if there was one.
pub(crate) fn phases(
    span: &Span,
    start: Instant,
    first_token_ms: Option<u128>,
    timings: Option<Timings>,
) {
    let context = span.context();
    if !context.span().span_context().is_sampled() {
        return;
    }
    let whole = start.elapsed();
    let now = SystemTime::now();
    let Some(mut from) = now.checked_sub(whole) else {
        return;
    };
    let tracer = global::tracer("vlmd");
    let mut phase = |name: &'static str, length: Duration, attributes: Vec<KeyValue>| {
        // The engine's clock started a little later, and must not run ahead.
        let until = from.checked_add(length).map_or(now, |until| until.min(now));
        let builder = SpanBuilder {
            name: Cow::Borrowed(name),
            start_time: Some(from),
            attributes: Some(attributes),
            ..SpanBuilder::default()
        };
        let span = tracer.build_with_context(builder, &context);
        opentelemetry::trace::Span::end_with_timestamp(&mut { span }, until);
        from = until;
    };
    match (timings, first_token_ms) {
        (Some(timings), _) => {
            phase("queue", timings.queue, Vec::new());
            let prefill = vec![
                millis("encode_ms", timings.encode),
                number("cached_tokens", timings.cached_tokens),
            ];
            phase("prefill", timings.prefill, prefill);
            phase("decode", timings.decode, Vec::new());
        }
        (None, Some(first)) => {
            let first = Duration::from_millis(u64::try_from(first).unwrap_or(u64::MAX)).min(whole);
            phase("first_token", first, Vec::new());
            phase("decode", whole.saturating_sub(first), Vec::new());
        }
        (None, None) => phase("first_token", whole, Vec::new()),
    }
}

fn millis(name: &'static str, length: Duration) -> KeyValue {
    KeyValue::new(name, length.as_secs_f64() * 1e3)
}

fn number(name: &'static str, number: usize) -> KeyValue {
    KeyValue::new(name, i64::try_from(number).unwrap_or(i64::MAX))
}
