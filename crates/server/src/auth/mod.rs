//! API keys: who is let in, and how much each may ask for.

mod account;
mod file;
mod keys;
mod watch;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Frame, SizeHint};

use crate::error::Refusal;
use crate::metrics::KeyUse;
use crate::state::AppState;
use account::{Limited, Running, Standing};
use keys::Key;

pub use file::KeyFileError;
pub use keys::ApiKeys;
pub(crate) use keys::Caller;

/// Paths that need no key: what an orchestrator asks, which tells nothing but a state.
///
/// Everything else needs one, unknown routes included: a path that is spelled so that it is
/// taken for something else is taken for something that needs a key.
pub(crate) const OPEN_PATHS: [&str; 4] =
    ["/v1/health/live", "/v1/health/ready", "/health", "/ping"];

/// Paths that need none either where the operator says so (`--open-metrics`).
const METRICS_PATHS: [&str; 2] = ["/v1/metrics", "/metrics"];

/// How logs call the holder of the key that a request came with. An extension of its response.
#[derive(Debug, Clone)]
pub(crate) struct KeyName(pub(crate) Arc<str>);

/// The key that a request presents: in OpenAI's header, else in Anthropic's. A header that comes
/// twice presents none: proxies and servers differ on which of them counts.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let only = |name: HeaderName| {
        let mut values = headers.get_all(name).into_iter();
        let value = values.next()?;
        values.next().is_none().then_some(value.as_bytes())
    };
    let bearer = only(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.split_first_chunk::<7>()?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    });
    let key = bearer.or_else(|| only(HeaderName::from_static("x-api-key")))?;
    Some(key.trim_ascii())
}

/// Lets a request through if it presents a key and the key's limits allow it, or if it needs none.
pub(crate) async fn require_key(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let config = state.config();
    if config.api_keys.is_empty() || is_open(request.uri().path(), config.open_metrics) {
        return next.run(request).await;
    }
    let key = presented(request.headers()).and_then(|key| config.api_keys.accept(key));
    let Some(key) = key else {
        return Refusal::Unauthorized.into_response();
    };
    request.extensions_mut().insert(key.caller);
    let mut response = if counts(request.method()) {
        within_limits(&key, request, next).await
    } else {
        next.run(request).await
    };
    let name = KeyName(Arc::clone(&key.name));
    response.extensions_mut().insert(name);
    response
}

fn is_open(path: &str, open_metrics: bool) -> bool {
    OPEN_PATHS.contains(&path) || (open_metrics && METRICS_PATHS.contains(&path))
}

/// Whether limits hold: what only looks is free.
fn counts(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

async fn within_limits(key: &Key, request: Request, next: Next) -> Response {
    let (running, standing) = match key.account.enter(key.limits, Instant::now()) {
        Ok(entered) => entered,
        Err(limited) => return refuse(limited),
    };
    let response = next.run(request).await;
    let mut response = response.map(|body| {
        Body::new(Counted {
            body,
            running: Some(running),
        })
    });
    if let Some(standing) = standing {
        tell(&mut response, standing);
    }
    response
}

fn refuse(limited: Limited) -> Response {
    match limited {
        Limited::Concurrency(limit) => Refusal::TooManyAtOnce { limit }.into_response(),
        Limited::Rate(standing, wait) => {
            let limit = standing.limit;
            let wait = u32::try_from(whole_seconds(wait)).unwrap_or(u32::MAX);
            let mut response = Refusal::TooManyRequests { limit, wait }.into_response();
            tell(&mut response, standing);
            response
        }
    }
}

/// Puts OpenAI's headers about limits onto a response.
fn tell(response: &mut Response, standing: Standing) {
    let headers = response.headers_mut();
    for (name, value) in [
        ("x-ratelimit-limit-requests", standing.limit),
        ("x-ratelimit-remaining-requests", standing.remaining),
    ] {
        headers.insert(HeaderName::from_static(name), value.into());
    }
    if let Ok(reset) = HeaderValue::try_from(format!("{}s", whole_seconds(standing.reset))) {
        headers.insert(HeaderName::from_static("x-ratelimit-reset-requests"), reset);
    }
}

/// Rounded up: who comes back then is not too early.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// What each key was used for, for metrics.
pub(crate) fn uses(keys: &ApiKeys) -> Vec<KeyUse> {
    let used = keys.current();
    let used = used.iter().map(|key| {
        let [admitted, refused] = key.account.totals();
        KeyUse {
            name: Arc::clone(&key.name),
            admitted,
            refused,
            running: key.account.running(),
        }
    });
    used.collect()
}

/// A response's body. Its request is under way until it has been sent, or given up.
struct Counted {
    body: Body,
    running: Option<Running>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.running = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_either_header_and_once() {
        let bearer = "Bearer alpha";
        for (headers, key) in [
            (&[("authorization", bearer)][..], Some("alpha")),
            (&[("authorization", "bearer  alpha ")], Some("alpha")),
            (
                &[("authorization", "Bearer nvapi-a_b-0")],
                Some("nvapi-a_b-0"),
            ),
            (&[("authorization", "Basic alpha")], None),
            (&[("authorization", "alpha")], None),
            (&[("x-api-key", "alpha")], Some("alpha")),
            (
                &[("authorization", bearer), ("x-api-key", "beta")],
                Some("alpha"),
            ),
            (
                &[("authorization", "Basic x"), ("x-api-key", "beta")],
                Some("beta"),
            ),
            (
                &[("authorization", bearer), ("authorization", bearer)],
                None,
            ),
            (&[("x-api-key", "alpha"), ("x-api-key", "beta")], None),
            (&[("cookie", "alpha")], None),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(presented(&map), key.map(str::as_bytes), "{headers:?}");
        }
    }

    #[test]
    fn waits_are_rounded_up() {
        for (milliseconds, seconds) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(milliseconds)), seconds);
        }
    }
}
