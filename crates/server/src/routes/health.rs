//! What orchestrators ask.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use vlmd_api::Health;

use crate::state::AppState;

/// Tells that the process answers.
#[utoipa::path(
    get,
    path = "/v1/health/live",
    tag = "health",
    responses((status = 200, description = "It does", body = Health))
)]
pub(crate) async fn live() -> Json<Health> {
    Json(Health::LIVE)
}

/// Tells whether chat requests are answered.
///
/// Follows the engine's worker and not the listener. `/health` and `/ping` are the same.
#[utoipa::path(
    get,
    path = "/v1/health/ready",
    tag = "health",
    responses(
        (status = 200, description = "They are", body = Health),
        (status = 503, description = "The model is loading, the engine is gone, or the server is shutting down", body = Health),
    )
)]
pub(crate) async fn ready(State(state): State<AppState>) -> (StatusCode, Json<Health>) {
    let health = state.health();
    let status = if health == Health::READY {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(health))
}
