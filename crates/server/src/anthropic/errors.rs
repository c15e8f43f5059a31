//! Errors in Anthropic's envelope, on the paths of its dialect.

use axum::Json;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use vlmd_api::anthropic::ApiErrorBody;

use crate::error::Refused;
use crate::observe::REQUEST_ID;

const PATHS: [&str; 2] = ["/v1/messages", "/v1/messages/count_tokens"];

/// Where Anthropic's clients look for a request's id.
const ITS_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// Whether errors on this path are in Anthropic's envelope.
pub(crate) fn is_at_home(path: &str) -> bool {
    PATHS.contains(&path)
}

/// Puts every refusal on Anthropic's paths, whoever refuses, into its envelope. Stands around
/// everything else.
pub(crate) async fn envelope(request: Request, next: Next) -> Response {
    if !is_at_home(request.uri().path()) {
        return next.run(request).await;
    }
    let mut response = next.run(request).await;
    let id = response.headers().get(&REQUEST_ID).cloned();
    if let Some(Refused(body)) = response.extensions_mut().remove::<Refused>() {
        let shown = id.as_ref().and_then(|id| id.to_str().ok());
        let status = response.status();
        let (mut parts, _) = response.into_parts();
        let body = ApiErrorBody::new(
            status.as_u16(),
            body.error.message,
            shown.map(str::to_owned),
        );
        parts.headers.remove(CONTENT_LENGTH);
        parts
            .headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let (_, body) = Json(body).into_response().into_parts();
        response = Response::from_parts(parts, body);
    }
    if let Some(id) = id {
        response.headers_mut().insert(ITS_REQUEST_ID, id);
    }
    response
}
