//! The routes.

mod chat;
mod docs;
mod health;
mod metrics;
mod models;

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;

use crate::error::Refusal;
use crate::state::AppState;
use crate::{auth, observe};

pub(crate) use chat::__path_chat_completions;
pub(crate) use docs::__path_version;
pub(crate) use health::{__path_live, __path_ready};
pub(crate) use metrics::__path_metrics;
pub(crate) use models::{__path_get_model, __path_list_models};

/// All routes. A path must come without its trailing slash.
pub(crate) fn router(state: &AppState) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/models", get(models::list_models))
        // Names have slashes in them.
        .route("/v1/models/{*name}", get(models::get_model))
        .route("/v1/health/live", get(health::live))
        .route("/v1/health/ready", get(health::ready))
        .route("/health", get(health::ready))
        .route("/ping", get(health::ready))
        .route("/v1/metrics", get(metrics::metrics))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/version", get(docs::version))
        .route("/openapi.json", get(docs::openapi))
        .route("/docs", get(docs::docs))
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(from_fn_with_state(state.clone(), auth::require_key))
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(from_fn_with_state(state.clone(), observe::observe))
        .with_state(state.clone())
}

async fn unknown_route(request: Request) -> Refusal {
    Refusal::UnknownRoute(shown_path(&request))
}

async fn unknown_method(request: Request) -> Refusal {
    Refusal::Method {
        path: shown_path(&request),
        method: request.method().as_str().chars().take(16).collect(),
    }
}

/// The path, short enough to repeat.
fn shown_path(request: &Request) -> String {
    request.uri().path().chars().take(128).collect()
}
