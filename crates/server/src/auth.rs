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

    /// Whose key this is. Compares digests, all of them and in constant time, so that the time
    /// taken tells nothing about a key.
    fn accept(&self, key: &[u8]) -> Option<Caller> {
        let given = digest(key);
        let found = self
            .digests
            .iter()
            .fold(Choice::from(0), |found, known| found | known.ct_eq(&given));
        bool::from(found).then_some(Caller(given))
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({})", self.digests.len())
    }
}

/// Who makes a request, where the server asks for keys: the digest of the key that was presented.
/// An extension of each request that was let in by one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller([u8; 32]);

impl Caller {
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
impl From<[u8; 32]> for Caller {
    fn from(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

/// Not the digest: a weak key could be guessed from it.
impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Caller(..)")
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
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let keys = &state.config().api_keys;
    if keys.is_empty() || OPEN_PATHS.contains(&request.uri().path()) {
        return Ok(next.run(request).await);
    }
    let caller = presented(request.headers()).and_then(|key| keys.accept(key));
    let caller = caller.ok_or(Refusal::Unauthorized)?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
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
        let accepted = [b"alpha".as_slice(), b"beta"].map(|key| keys.accept(key).unwrap());
        assert_ne!(accepted[0], accepted[1]);
        for wrong in ["", "alph", "alphaa", "ALPHA", "alpha\0", "alphabeta"] {
            assert!(keys.accept(wrong.as_bytes()).is_none(), "{wrong}");
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
