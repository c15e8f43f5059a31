//! What a request's head may be, beyond what hyper insists on.
//!
//! hyper bounds the whole head (`MAX_HEADER_BYTES` of `serve`, and 100 fields), refuses lengths
//! and encodings that contradict themselves, and closes a connection whose request had both
//! `Content-Length` and `Transfer-Encoding` after its answer, so that nothing can hide behind it.
//! What is here is answered in the envelope.

use axum::extract::Request;
use axum::http::header::HOST;
use axum::http::uri::{Authority, Scheme};
use axum::http::{HeaderMap, Uri, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::error::Refusal;

/// Longest URL in bytes, as with nginx and Apache. No route has a query.
const MAX_URL_BYTES: usize = 8 << 10;

/// Most bytes of names and values of a header, as with Node.js and Tomcat at their largest.
const MAX_HEADER_BYTES: usize = 32 << 10;

/// Refuses requests with an odd head.
pub(crate) async fn check(request: Request, next: Next) -> Response {
    match judge(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

fn judge(request: &Request) -> Result<(), Refusal> {
    let url = url_bytes(request.uri());
    if url > MAX_URL_BYTES {
        return Err(Refusal::UrlTooLong {
            limit: MAX_URL_BYTES,
            given: url,
        });
    }
    let headers = request.headers();
    let bytes = headers.iter().map(|(name, value)| {
        let name: &str = name.as_str();
        name.len() + value.len()
    });
    let bytes = bytes.sum();
    if bytes > MAX_HEADER_BYTES {
        return Err(Refusal::HeaderTooLarge {
            limit: MAX_HEADER_BYTES,
            what: "bytes",
            given: bytes,
        });
    }
    check_target(request.uri())?;
    check_host(headers, request.version())
}

fn url_bytes(uri: &Uri) -> usize {
    let authority = uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    let target = uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    authority + target
}

/// A target in absolute form (RFC 9112, 3.2.2) must be taken. Only its path is looked at.
fn check_target(uri: &Uri) -> Result<(), Refusal> {
    if let Some(scheme) = uri.scheme()
        && *scheme != Scheme::HTTP
        && *scheme != Scheme::HTTPS
    {
        return Err(Refusal::BadHead(
            "names a URL that is neither http nor https",
        ));
    }
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err(Refusal::BadHead("names a URL with credentials"));
    }
    Ok(())
}

/// `Host` must come once with HTTP/1.1, and be a host (RFC 9112, 3.2). Nothing here depends on it,
/// but a proxy before this server may.
fn check_host(headers: &HeaderMap, version: Version) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(HOST).into_iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) if version < Version::HTTP_11 => return Ok(()),
        (None, _) => return Err(Refusal::BadHead("has no `Host`")),
        (Some(_), Some(_)) => return Err(Refusal::BadHead("has more than one `Host`")),
        (Some(host), None) => host.as_bytes(),
    };
    // Empty where the target has no authority. A comma is legal in a name, and what becomes of two
    // `Host`s that a proxy has joined.
    let valid = host.is_empty()
        || (!host.iter().any(|byte| matches!(byte, b'@' | b','))
            && Authority::try_from(host).is_ok_and(|host| !host.host().is_empty()));
    if valid {
        Ok(())
    } else {
        Err(Refusal::BadHead("has a `Host` that is none"))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::HeaderValue;

    use super::*;

    fn outcome(uri: &str, version: Version, hosts: &[&'static [u8]]) -> u16 {
        let mut request = Request::builder()
            .uri(uri)
            .version(version)
            .body(Body::empty())
            .unwrap();
        for host in hosts {
            let host = HeaderValue::from_bytes(host).unwrap();
            request.headers_mut().append(HOST, host);
        }
        judge(&request).map_or_else(|refusal| refusal.status().as_u16(), |()| 200)
    }

    #[test]
    fn hosts_come_once_and_are_hosts() {
        for (version, hosts, status) in [
            (Version::HTTP_11, &[&b"x"[..]][..], 200),
            (Version::HTTP_11, &[b"x:8000"], 200),
            (Version::HTTP_11, &[b"127.0.0.1:8000"], 200),
            (Version::HTTP_11, &[b"[::1]:8000"], 200),
            (Version::HTTP_11, &[b""], 200),
            (Version::HTTP_10, &[], 200),
            (Version::HTTP_11, &[], 400),
            (Version::HTTP_11, &[b"x", b"x"], 400),
            (Version::HTTP_11, &[b"x", b"y"], 400),
            (Version::HTTP_10, &[b"x", b"y"], 400),
            (Version::HTTP_11, &[b"x/v1/health/live"], 400),
            (Version::HTTP_11, &[b"x?/health"], 400),
            (Version::HTTP_11, &[b"health@x"], 400),
            (Version::HTTP_11, &[b"x y"], 400),
            (Version::HTTP_11, &[b"x\\y"], 400),
            (Version::HTTP_11, &[b"[::1"], 400),
            (Version::HTTP_11, &[b":80"], 400),
            (Version::HTTP_11, &[b"x,y"], 400),
            (Version::HTTP_11, &[b"\xff"], 400),
        ] {
            assert_eq!(outcome("/health", version, hosts), status, "{hosts:?}");
        }
    }

    #[test]
    fn targets_are_bounded_and_http() {
        let long = format!("/{}", "a".repeat(MAX_URL_BYTES));
        let query = format!("/?{}", "a".repeat(MAX_URL_BYTES));
        for (uri, status) in [
            ("/v1/models", 200),
            ("http://x/v1/models", 200),
            ("https://x:1/v1/models", 200),
            ("ftp://x/v1/models", 400),
            ("http://user@x/v1/models", 400),
            (&long[..MAX_URL_BYTES], 200),
            (&long, 414),
            (&query, 414),
        ] {
            assert_eq!(outcome(uri, Version::HTTP_11, &[b"x"]), status, "{uri:.40}");
        }
    }

    #[test]
    fn headers_are_bounded_in_bytes() {
        for (bytes, fits) in [(MAX_HEADER_BYTES - 6, true), (MAX_HEADER_BYTES - 5, false)] {
            let request = Request::builder()
                .header(HOST, "x")
                .header("y", "z".repeat(bytes))
                .body(Body::empty())
                .unwrap();
            let error = judge(&request).err().map(|refusal| refusal.to_string());
            assert_eq!(error.is_none(), fits, "{error:?}");
            assert!(error.is_none_or(|text| text.contains("32768 bytes, this one has 32769")));
        }
    }
}
