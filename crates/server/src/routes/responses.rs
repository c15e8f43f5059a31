//! `POST /v1/responses` and what belongs to it: OpenAI's newer dialect.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tokio::task::spawn_blocking;
use tracing::Instrument as _;
use vlmd_api::responses::{
    Deleted, InputTokens, ReadResponse, ResponseObject, ResponsesRequest, read_response,
};
use vlmd_api::{ErrorBody, RequestError, Translated};

use crate::auth::Caller;
use crate::body;
use crate::entrance::Entrance;
use crate::error::Refusal;
use crate::responses::{Kept, Writer, respond, run};
use crate::state::{AppState, unix_time};

/// A response, whose beginning is `previous_response_id` if it names one.
///
/// With `stream` it comes as server-sent events, one `ResponseEvent` each. With `background` the
/// answer is there at once, `in_progress`, and the response is asked for by its id.
#[utoipa::path(
    post,
    path = "/v1/responses",
    tag = "responses",
    request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The response; with `stream`, `text/event-stream` of `ResponseEvent`", body = ResponseObject),
        (status = 404, description = "No such model", body = ErrorBody),
    )
)]
pub(crate) async fn create_response(
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, Refusal> {
    let entrance = Entrance::new(&state, &request)?;
    let (model, caller) = (Arc::clone(&entrance.model), entrance.caller);
    let read = body::read(request, state.config(), read_response).await?;
    let (mut read, translated, mut turns) = translate(&state, caller, read).await?;
    let Translated { mut chat, names } = translated;
    let submitted = entrance.submit(&state, &mut chat).await;
    let mut generation = submitted.map_err(|refusal| refusal.renamed(&names))?;

    let defaults = &model.default_sampling;
    read.settings.temperature = chat.temperature.unwrap_or(defaults.temperature);
    read.settings.top_p = chat.top_p.unwrap_or(defaults.top_p);
    read.settings.store &= state.responses().is_on();
    let is_kept = read.settings.store;
    turns.extend(read.kept_input.take().map(Arc::from));
    let is_background = read.settings.background;
    let response = ResponseObject::opening(read.settings, unix_time());
    let has_logprobs = chat.wanted_logprobs().is_some();

    if is_background {
        let background = state.responses().begin(caller, &response, turns)?;
        let writer = Writer::new(response.clone(), has_logprobs);
        let work = run(state, generation, writer, background);
        tokio::spawn(work.in_current_span());
        return Ok(Json(response).into_response());
    }
    let mut writer = Writer::new(response, has_logprobs);
    if read.stream {
        let store = state.clone();
        let keep = move |writer: &Writer| store.responses().keep(caller, writer.response(), turns);
        let keep = is_kept.then(|| Box::new(keep) as Box<_>);
        return Ok(respond(generation, writer, keep));
    }
    while let Some(next) = generation.next().await {
        let (_, piece) = next?;
        let usage = generation.usage();
        drop(writer.piece(piece, &usage));
    }
    if is_kept {
        state.responses().keep(caller, writer.response(), turns);
    }
    Ok(Json(writer.response()).into_response())
}

/// Counts the tokens of a request, its pictures included, without answering it.
#[utoipa::path(
    post,
    path = "/v1/responses/input_tokens",
    tag = "responses",
    request_body = ResponsesRequest,
    responses(
        (status = 200, description = "How many there are", body = InputTokens),
        (status = 404, description = "No such model", body = ErrorBody),
    )
)]
pub(crate) async fn input_tokens(
    State(state): State<AppState>,
    request: Request,
) -> Result<Json<InputTokens>, Refusal> {
    let entrance = Entrance::new(&state, &request)?;
    let caller = entrance.caller;
    let read = body::read(request, state.config(), read_response).await?;
    let (_, translated, _) = translate(&state, caller, read).await?;
    let Translated { mut chat, names } = translated;
    let counted = entrance.count(&state, &mut chat).await;
    Ok(Json(InputTokens {
        object: "response.input_tokens",
        input_tokens: counted.map_err(|refusal| refusal.renamed(&names))?,
    }))
}

/// A kept response.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}",
    tag = "responses",
    params(("id" = String, Path, description = "Of the response")),
    responses(
        (status = 200, description = "The response", body = ResponseObject),
        (status = 404, description = "None of this id, for this API key", body = ErrorBody),
    )
)]
pub(crate) async fn get_response(
    State(state): State<AppState>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    let stream = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("stream="));
    if let Some(stream) = stream
        && !matches!(stream, "" | "0" | "false")
    {
        return Err(Refusal::Request(RequestError::Unsupported {
            field: "stream".into(),
            neutral: "false: a kept response comes whole",
            value: stream.chars().take(16).collect(),
        }));
    }
    Ok(kept(&state.responses().get(caller(&request), &id)?))
}

/// Gives up a response that runs in the background. One that has ended stays as it is.
#[utoipa::path(
    post,
    path = "/v1/responses/{id}/cancel",
    tag = "responses",
    params(("id" = String, Path, description = "Of the response")),
    responses(
        (status = 200, description = "The response as it is now", body = ResponseObject),
        (status = 400, description = "It did not run in the background", body = ErrorBody),
        (status = 404, description = "None of this id, for this API key", body = ErrorBody),
    )
)]
pub(crate) async fn cancel_response(
    State(state): State<AppState>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    Ok(kept(&state.responses().cancel(caller(&request), &id)?))
}

/// Forgets a response, and gives it up if it runs.
#[utoipa::path(
    delete,
    path = "/v1/responses/{id}",
    tag = "responses",
    params(("id" = String, Path, description = "Of the response")),
    responses(
        (status = 200, description = "It is gone", body = Deleted),
        (status = 404, description = "None of this id, for this API key", body = ErrorBody),
    )
)]
pub(crate) async fn delete_response(
    State(state): State<AppState>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Deleted>, Refusal> {
    state.responses().delete(caller(&request), &id)?;
    Ok(Json(Deleted {
        id,
        object: "response",
        deleted: true,
    }))
}

/// Makes a chat request, behind the turns of the response that it goes on from, which are given
/// back.
async fn translate(
    state: &AppState,
    caller: Option<Caller>,
    mut read: ReadResponse,
) -> Result<(ReadResponse, Translated, Vec<Arc<str>>), Refusal> {
    let Some(id) = &read.settings.previous_response_id else {
        let translated = read.translate::<&str>(&[])?;
        return Ok((read, translated, Vec::new()));
    };
    let turns = state.responses().turns(caller, id)?;
    // Whole conversations with their pictures: too much for an async worker.
    let work = spawn_blocking(move || {
        let translated = read.translate(&turns)?;
        Ok::<_, RequestError>((read, translated, turns))
    });
    Ok(work.await.map_err(|_| Refusal::Internal)??)
}

fn caller(request: &Request) -> Option<Caller> {
    request.extensions().get::<Caller>().copied()
}

fn kept(kept: &Kept) -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, json)], kept.json.to_string()).into_response()
}
