//! `POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's dialect.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use vlmd_api::anthropic::{
    ApiErrorBody, CountTokensRequest, MessageBody, MessagesRequest, TokenCount, read_count,
    read_messages,
};

use crate::entrance::Entrance;
use crate::error::Refusal;
use crate::state::AppState;
use crate::{anthropic, body, whole};

/// Answers a conversation in Anthropic's dialect.
///
/// With `stream` the answer comes as server-sent events, one `AnthropicStreamEvent` each.
#[utoipa::path(
    post,
    path = "/v1/messages",
    tag = "messages",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, `text/event-stream` of `AnthropicStreamEvent`", body = MessageBody),
        (status = 404, description = "No such model", body = ApiErrorBody),
    )
)]
pub(crate) async fn messages(
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, Refusal> {
    let entrance = Entrance::new(&state, &request)?;
    let read = body::read(request, state.config(), read_messages).await?;
    let (mut chat, names) = (read.translated.chat, read.translated.names);
    let submitted = entrance.submit(&state, &mut chat).await;
    let mut generation = submitted.map_err(|refusal| refusal.renamed(&names))?;
    if read.stream {
        return Ok(anthropic::respond(generation, chat.model));
    }
    let whole = whole::collect(&mut generation).await?;
    let answer = whole.answers.into_iter().next().ok_or(Refusal::Internal)?;
    let message = anthropic::message(chat.model, answer, &generation.usage());
    Ok(Json(message).into_response())
}

/// Counts the tokens of a conversation, its pictures included, without answering it.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    tag = "messages",
    request_body = CountTokensRequest,
    responses(
        (status = 200, description = "How many there are", body = TokenCount),
        (status = 404, description = "No such model", body = ApiErrorBody),
    )
)]
pub(crate) async fn count_tokens(
    State(state): State<AppState>,
    request: Request,
) -> Result<Json<TokenCount>, Refusal> {
    let entrance = Entrance::new(&state, &request)?;
    let read = body::read(request, state.config(), read_count).await?;
    let (mut chat, names) = (read.translated.chat, read.translated.names);
    let counted = entrance.count(&state, &mut chat).await;
    let input_tokens = counted.map_err(|refusal| refusal.renamed(&names))?;
    Ok(Json(TokenCount { input_tokens }))
}
