//! Doors for the fuzz targets of `tests/fuzz`; in no other build.

use axum::body::to_bytes;

/// The body of a stream whose one answer comes in these pieces. The first is the model's name,
/// too.
pub async fn stream(texts: Vec<String>) -> Vec<u8> {
    let body = crate::sse::of_texts(texts).into_body();
    to_bytes(body, usize::MAX)
        .await
        .map_or_else(|_| Vec::new(), Into::into)
}
