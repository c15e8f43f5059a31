//! `POST /invocations`, the route of SageMaker's containers.

use axum::extract::{Request, State};
use axum::response::Response;
use vlmd_api::{ErrorBody, Invocation};

use super::{chat, completions};
use crate::body;
use crate::entrance::Entrance;
use crate::error::Refusal;
use crate::state::AppState;

/// Answers a conversation, or continues texts, by what the body has: `messages` are for
/// `/v1/chat/completions`, a `prompt` is for `/v1/completions`, with the answers of either.
#[utoipa::path(
    post,
    path = "/invocations",
    tag = "chat",
    request_body(content = Object, description = "A `ChatRequest` or a `CompletionRequest`"),
    responses(
        (status = 200, description = "A `ChatCompletion` or a `TextCompletion`, or a stream of their chunks"),
        (status = 404, description = "No such model", body = ErrorBody),
    )
)]
pub(crate) async fn invocations(
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, Refusal> {
    let entrance = Entrance::new(&state, &request)?;
    match body::read(request, state.config(), Invocation::from_slice).await? {
        Invocation::Chat(request) => chat::answer(&state, entrance, *request).await,
        Invocation::Completion(request) => completions::answer(&state, entrance, *request).await,
    }
}
