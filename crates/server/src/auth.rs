//! API keys.

use std::fmt;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::error::Refusal;
use crate::state::AppState;

/// Paths that need no key: what an orchestrator asks, which tells nothing but a state.
///
/// Everything else needs one, unknown routes included: a path that is spelled so that it is
/// taken for something else is taken for something that needs a key.
const OPEN_PATHS: [&str; 4] = ["/v1/health/live", "/v1/health/ready", "/health", "/ping"];

/// The keys that open the server. Only their SHA-256 digests are kept.
#[derive(Clone, Default)]
pub struct ApiKeys {
    digests: Vec<[u8; 32]>,
}

impl ApiKeys {
    /// Takes keys; empty ones are left out.
    pub fn new<K: AsRef<str>>(keys: impl IntoIterator<Item = K>) -> Self {
        let digests = keys
            .into_iter()
            .filter(|key| !key.as_ref().is_empty())
            .map(|key| digest(key.as_ref().as_bytes()))
            .collect();
        Self { digests }
    }

    /// Whether every request is let in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.digests.len()
    }

    /// Compares digests, all of them and in constant time, so that the time taken tells nothing
    /// about a key.
    fn accept(&self, key: &[u8]) -> bool {
        let given = digest(key);
        self.digests
            .iter()
            .fold(Choice::from(0), |found, known| found | known.ct_eq(&given))
            .into()
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({})", self.digests.len())
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// The key that a request presents: OpenAI's header, or Anthropic's.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_first_chunk::<7>()?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    });
    let key = bearer.or_else(|| headers.get("x-api-key").map(HeaderValue::as_bytes))?;
    Some(key.trim_ascii())
}

/// Lets a request through if it presents a key or needs none.
pub(crate) async fn require_key(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let keys = &state.config().api_keys;
    let open = keys.is_empty() || OPEN_PATHS.contains(&request.uri().path());
    if open || presented(request.headers()).is_some_and(|key| keys.accept(key)) {
        return Ok(next.run(request).await);
    }
    Err(Refusal::Unauthorized)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )])
    }

    #[test]
    fn only_whole_keys_are_accepted() {
        let keys = ApiKeys::new(["alpha", "", "beta"]);
        assert_eq!(keys.len(), 2);
        assert!(keys.accept(b"alpha") && keys.accept(b"beta"));
        for wrong in ["", "alph", "alphaa", "ALPHA", "alpha\0", "alphabeta"] {
            assert!(!keys.accept(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn keys_come_in_either_header() {
        for (name, value, key) in [
            ("authorization", "Bearer alpha", Some("alpha")),
            ("authorization", "bearer  alpha ", Some("alpha")),
            ("authorization", "Basic alpha", None),
            ("authorization", "alpha", None),
            ("x-api-key", "alpha", Some("alpha")),
            ("cookie", "alpha", None),
        ] {
            let headers = headers(name, value);
            assert_eq!(
                presented(&headers),
                key.map(str::as_bytes),
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn debug_output_shows_no_key() {
        assert_eq!(format!("{:?}", ApiKeys::new(["alpha"])), "ApiKeys(1)");
    }
}
