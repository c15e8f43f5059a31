//! What Prometheus asks.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use crate::auth;
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
    let config = state.config();
    let keys = auth::uses(&config.api_keys);
    let assets = state.assets().bytes();
    let metrics = state.metrics();
    let text = metrics.render(model, &keys, assets, config.metrics_legacy_names);
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
}
