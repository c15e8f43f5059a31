//! What the server says about itself.

use axum::Json;
use axum::extract::State;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::IntoResponse;
use vlmd_api::Version;

use crate::state::AppState;

/// Tells what runs here.
#[utoipa::path(
    get,
    path = "/v1/version",
    tag = "health",
    responses((status = 200, description = "The version", body = Version))
)]
pub(crate) async fn version() -> Json<Version> {
    Json(Version {
        release: env!("CARGO_PKG_VERSION"),
        api: "1",
    })
}

/// `GET /openapi.json`.
pub(crate) async fn openapi(State(state): State<AppState>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], state.openapi())
}

/// `GET /docs`.
pub(crate) async fn docs(State(state): State<AppState>) -> impl IntoResponse {
    (
        [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            // One static page: no scripts, nothing from elsewhere.
            (
                CONTENT_SECURITY_POLICY,
                "default-src 'none'; style-src 'unsafe-inline'",
            ),
        ],
        state.docs(),
    )
}
