//! What Prometheus asks.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use crate::state::AppState;

/// Gives all metrics as Prometheus text. `/metrics` is the same.
#[utoipa::path(
    get,
    path = "/v1/metrics",
    tag = "health",
    responses((status = 200, description = "Prometheus text, version 0.0.4", body = String, content_type = "text/plain"))
)]
pub(crate) async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    let model = state.slot().get().map(AsRef::as_ref);
    let text = state
        .metrics()
        .render(model, state.config().metrics_legacy_names);
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
}
