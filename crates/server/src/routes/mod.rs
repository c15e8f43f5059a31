//! The routes.

mod assets;
mod chat;
mod completions;
mod docs;
mod health;
mod hosted;
mod invocations;
mod messages;
mod metrics;
mod models;
mod render;
mod responses;
mod served;
mod tokens;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post, put};
use tower_http::catch_panic::CatchPanicLayer;

use crate::error::Refusal;
use crate::observe::Panics;
use crate::state::AppState;
use crate::{anthropic, auth, head, observe};

pub(crate) use assets::{__path_create, __path_delete, __path_get, __path_list, __path_upload};
pub(crate) use chat::__path_chat_completions;
pub(crate) use completions::__path_completions;
pub(crate) use docs::__path_version;
pub(crate) use health::{__path_live, __path_ready};
pub(crate) use hosted::{__path_gr, __path_vlm};
pub(crate) use invocations::__path_invocations;
pub(crate) use messages::{__path_count_tokens, __path_messages};
pub(crate) use metrics::__path_metrics;
pub(crate) use models::{__path_get_model, __path_list_models};
pub(crate) use render::{__path_render_chat, __path_render_completions};
pub(crate) use responses::{
    __path_cancel_response, __path_create_response, __path_delete_response, __path_get_response,
    __path_input_items, __path_input_tokens,
};
pub(crate) use served::{__path_engine_version, __path_license, __path_manifest, __path_metadata};
pub(crate) use tokens::{__path_detokenize, __path_tokenize};

/// All routes, under the root path as well. A path must come without its trailing slash.
pub(crate) fn router(state: &AppState) -> Router {
    let router = Router::new()
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/chat/completions/render", post(render::render_chat))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/completions/render", post(render::render_completions))
        .route("/invocations", post(invocations::invocations))
        .route("/tokenize", post(tokens::tokenize))
        .route("/v1/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/v1/detokenize", post(tokens::detokenize))
        .route("/v1/messages", post(messages::messages))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route("/v1/responses", post(responses::create_response))
        .route("/v1/responses/input_tokens", post(responses::input_tokens))
        .route(
            "/v1/responses/{id}",
            get(responses::get_response).delete(responses::delete_response),
        )
        .route(
            "/v1/responses/{id}/input_items",
            get(responses::input_items),
        )
        .route(
            "/v1/responses/{id}/cancel",
            post(responses::cancel_response),
        )
        // Names have slashes in them.
        .route("/v1/vlm/{*name}", post(hosted::vlm))
        .route("/v1/gr/{*name}", post(hosted::gr))
        .route("/v2/nvcf/assets", get(assets::list).post(assets::create))
        .route(
            "/v2/nvcf/assets/{id}",
            get(assets::get).delete(assets::delete),
        )
        .route("/v1/models", get(models::list_models))
        .route("/v1/models/{*name}", get(models::get_model))
        .route("/v1/health/live", get(health::live))
        .route("/v1/health/ready", get(health::ready))
        .route("/health", get(health::ready))
        .route("/ping", get(health::ready).post(health::ready))
        .route("/v1/metrics", get(metrics::metrics))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/version", get(docs::version))
        .route("/version", get(served::engine_version))
        .route("/v1/metadata", get(served::metadata))
        .route("/v1/manifest", get(served::manifest))
        .route("/v1/license", get(served::license))
        .route("/openapi.json", get(docs::openapi))
        .route("/docs", get(docs::docs))
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(from_fn_with_state(state.clone(), leave_out))
        .layer(from_fn_with_state(state.clone(), auth::require_key))
        // Behind the layer, which it is not under: its address is the key.
        .route(
            "/v2/nvcf/assets/{id}/upload",
            put(assets::upload).fallback(unknown_method),
        )
        .layer(from_fn(head::check))
        .layer(CatchPanicLayer::custom(Panics(state.clone())));
    // Outside of auth: browsers send no key with a preflight request, and scripts must be able to
    // read why they were refused.
    let router = match &state.config().cors {
        Some(cors) => router.layer(cors.layer.clone()),
        None => router,
    };
    let router = router
        .layer(from_fn_with_state(state.clone(), observe::observe))
        .layer(from_fn(anthropic::envelope))
        .with_state(state.clone());
    state.config().root_path.mount(router)
}

/// Only what probes ask, for a port of its own.
pub(crate) fn probes(state: &AppState) -> Router {
    Router::new()
        .route("/v1/health/live", get(health::live))
        .route("/v1/health/ready", get(health::ready))
        .route("/health", get(health::ready))
        .route("/ping", get(health::ready))
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(from_fn(head::check))
        .layer(CatchPanicLayer::custom(Panics(state.clone())))
        .layer(from_fn_with_state(state.clone(), observe::observe))
        .with_state(state.clone())
}

/// Answers for routes that the operator has left out.
async fn leave_out(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let path = request.uri().path();
    let below = |route: &String| {
        path.strip_prefix(route.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if state.config().disabled_routes.iter().any(below) {
        return Err(Refusal::UnknownRoute(shown_path(&request)));
    }
    Ok(next.run(request).await)
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
