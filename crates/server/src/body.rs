//! Request bodies: JSON, within a size and a time.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use futures::StreamExt;
use tokio::task::spawn_blocking;
use vlmd_api::RequestError;

use crate::ServerConfig;
use crate::error::Refusal;

/// How long the rest of a body that is too large is read and thrown away.
///
/// A client that is still sending when the connection closes sees a broken pipe and not the
/// answer. Reading on for a while, as nginx does ("lingering close"), lets it see the 413.
const LINGER: Duration = Duration::from_secs(5);

/// How much of it, as a multiple of the limit.
const LINGER_FACTOR: usize = 2;

/// Most memory that is set aside for a body before any of it is there.
const MAX_RESERVED: usize = 1 << 20;

/// Bodies from this size on are parsed on a blocking thread: it takes longer than an async worker
/// may be held up.
const PARSE_INLINE_BYTES: usize = 64 << 10;

/// Reads the body of a JSON request, and what it says by `parse`.
pub(crate) async fn read<T: Send + 'static>(
    request: Request,
    config: &ServerConfig,
    parse: impl FnOnce(&[u8]) -> Result<T, RequestError> + Send + 'static,
) -> Result<T, Refusal> {
    let body = read_json(request, config).await?;
    let parse = move |body: &[u8]| {
        vlmd_api::check_structure(body)?;
        parse(body)
    };
    if body.len() < PARSE_INLINE_BYTES {
        return Ok(parse(&body)?);
    }
    let parsed = spawn_blocking(move || parse(&body)).await;
    Ok(parsed.map_err(|_| Refusal::Internal)??)
}

async fn read_json(request: Request, config: &ServerConfig) -> Result<Vec<u8>, Refusal> {
    let (parts, body) = request.into_parts();
    check_content_type(&parts.headers)?;
    let declared = declared_length(&parts.headers);
    let limit = config.max_body_bytes;
    if let Some(length) = declared
        && length > limit as u64
    {
        // A client that asked first has sent nothing and will not.
        if !parts.headers.contains_key(EXPECT) {
            linger(body.into_data_stream(), limit).await;
        }
        return Err(Refusal::BodyTooLarge {
            limit,
            given: format!("has {length}"),
        });
    }
    let read = collect(body, limit, declared);
    match tokio::time::timeout(config.body_timeout, read).await {
        Ok(collected) => collected,
        Err(_) => Err(Refusal::BodyTimeout(config.body_timeout.as_secs())),
    }
}

async fn collect(body: Body, limit: usize, declared: Option<u64>) -> Result<Vec<u8>, Refusal> {
    // A length that is only declared reserves little.
    let capacity = declared.and_then(|length| usize::try_from(length).ok());
    let mut collected = Vec::with_capacity(capacity.unwrap_or(0).min(limit).min(MAX_RESERVED));
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| Refusal::BodyBroken)?;
        if chunk.len() > limit - collected.len() {
            linger(stream, limit).await;
            return Err(Refusal::BodyTooLarge {
                limit,
                given: "has more".into(),
            });
        }
        collected.extend_from_slice(&chunk);
    }
    Ok(collected)
}

/// Reads the rest of a body and throws it away, for a while.
pub(crate) async fn linger(mut stream: BodyDataStream, limit: usize) {
    let mut left = limit.saturating_mul(LINGER_FACTOR);
    let discard = async {
        while let Some(Ok(chunk)) = stream.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    // Whether the client has finished or not, the answer comes now.
    let _ = tokio::time::timeout(LINGER, discard).await;
}

/// What `Content-Length` says.
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Err(Refusal::ContentType("none".into()));
    };
    let value = value.to_str().unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    let (kind, subtype) = essence.split_once('/').unwrap_or_default();
    let subtype = subtype.to_ascii_lowercase();
    let json = subtype == "json" || subtype.ends_with("+json");
    if kind.eq_ignore_ascii_case("application") && json {
        return Ok(());
    }
    let shown: String = essence.chars().take(64).collect();
    Err(Refusal::ContentType(format!("`{shown}`")))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_json_is_taken() {
        for (value, taken) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/problem+json", true),
            ("text/json", false),
            ("application/x-www-form-urlencoded", false),
            ("multipart/form-data; boundary=application/json", false),
            ("", false),
            ("json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(check_content_type(&headers).is_ok(), taken, "{value}");
        }
        assert!(check_content_type(&HeaderMap::new()).is_err());
    }
}
