//! `POST /v1/responses` and what belongs to it: OpenAI's newer dialect.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::task::spawn_blocking;
use tracing::Instrument as _;
use vlmd_api::responses::{
    Deleted, InputItems, InputTokens, ItemOrder, Page, ReadResponse, ResponseObject,
    ResponsesRequest, read_response,
};
use vlmd_api::{ChatRequest, ErrorBody, RequestError, Translated};

use crate::auth::Caller;
use crate::body;
use crate::entrance::Entrance;
use crate::error::Refusal;
use crate::generation::Generation;
use crate::prompt::at_work;
use crate::responses::{Kept, Shortening, Writer, find, respond, run};
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
    let (read, turns) = gather(&state, caller, read).await?;
    let Submitted {
        mut read,
        chat,
        mut generation,
    } = submit(&state, entrance, read, &turns).await?;

    let defaults = &model.default_sampling;
    read.settings.temperature = chat.temperature.unwrap_or(defaults.temperature);
    read.settings.top_p = chat.top_p.unwrap_or(defaults.top_p);
    let kept_input = read.kept_input.take().map(Arc::from);
    let turns: Vec<_> = turns.iter().cloned().chain(kept_input).collect();
    let is_background = read.settings.background;
    let mut response = ResponseObject::opening(read.settings, unix_time());
    let has_logprobs = chat.wanted_logprobs().is_some();

    if is_background {
        let background = state.responses().begin(caller, &response, turns)?;
        let writer = Writer::new(response.clone(), has_logprobs);
        let work = run(state, generation, writer, background);
        tokio::spawn(work.in_current_span());
        return Ok(Json(response).into_response());
    }
    response.settings.store &= state.responses().has_room(&response, &turns);
    let is_kept = response.settings.store;
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
    if is_kept && !state.responses().keep(caller, writer.response(), turns) {
        writer.note_unkept();
    }
    Ok(Json(writer.response()).into_response())
}

/// A request that is being answered.
struct Submitted {
    read: ReadResponse,
    chat: ChatRequest,
    generation: Generation,
}

/// Puts a request into the engine's line: if it is too long and may lose its beginning, without
/// that.
async fn submit(
    state: &AppState,
    entrance: Entrance,
    read: ReadResponse,
    turns: &Arc<[Arc<str>]>,
) -> Result<Submitted, Refusal> {
    let shortening = read.truncates().then(|| Shortening {
        read: Arc::new(read.clone()),
        turns: Arc::clone(turns),
    });
    let (read, Translated { mut chat, names }) = translate(read, turns).await?;
    let refusal = match entrance.clone().submit(state, &mut chat).await {
        Ok(generation) => {
            return Ok(Submitted {
                read,
                chat,
                generation,
            });
        }
        Err(refusal) => refusal.renamed(&names),
    };
    let Some(shortening) = shortening.filter(|_| refusal.is_of_length()) else {
        return Err(refusal);
    };
    let Some((read, translated)) = shortening.shortest(state, &entrance).await? else {
        return Err(refusal);
    };
    let Translated { mut chat, names } = translated;
    let generation = entrance.submit(state, &mut chat).await;
    Ok(Submitted {
        read,
        chat,
        generation: generation.map_err(|refusal| refusal.renamed(&names))?,
    })
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
    let (read, turns) = gather(&state, caller, read).await?;
    let (_, Translated { mut chat, names }) = translate(read, &turns).await?;
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

/// What a kept response answers: the items of its request, behind those that it went on from with
/// their answers.
#[utoipa::path(
    get,
    path = "/v1/responses/{id}/input_items",
    tag = "responses",
    params(
        ("id" = String, Path, description = "Of the response"),
        ("limit" = Option<u32>, Query, description = "Most items of the page. Default 20", minimum = 1, maximum = 100),
        ("order" = Option<ItemOrder>, Query, description = "`asc` begins with the oldest. Default `desc`"),
        ("after" = Option<String>, Query, description = "Id of the item behind which the page begins"),
    ),
    responses(
        (status = 200, description = "A page of them", body = InputItems),
        (status = 400, description = "There is no such page", body = ErrorBody),
        (status = 404, description = "None of this id, for this API key", body = ErrorBody),
    )
)]
pub(crate) async fn input_items(
    State(state): State<AppState>,
    Path(id): Path<String>,
    query: Result<Query<BTreeMap<String, String>>, QueryRejection>,
    request: Request,
) -> Result<Json<InputItems>, Refusal> {
    let query = query.map(|Query(query)| query).unwrap_or_default();
    let page = Page::read(|name| query.get(name).map(String::as_str))?;
    let turns = state.responses().inputs(caller(&request), &id)?;
    let listed = at_work(&state, move || {
        let read = |turn: &Arc<str>| serde_json::from_str::<Vec<Value>>(turn).unwrap_or_default();
        page.of(turns.iter().flat_map(read).collect())
    });
    Ok(Json(listed.await??))
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

/// The turns of the response that a request goes on from, and the request with the items that it
/// refers to.
async fn gather(
    state: &AppState,
    caller: Option<Caller>,
    mut read: ReadResponse,
) -> Result<(ReadResponse, Arc<[Arc<str>]>), Refusal> {
    let turns = match &read.settings.previous_response_id {
        None => Vec::new(),
        Some(id) => state.responses().turns(caller, id)?,
    };
    let ids: HashSet<String> = read.references().into_iter().map(str::to_owned).collect();
    if !ids.is_empty() {
        let kept = state.responses().all_turns(caller);
        let found = at_work(state, move || find(&kept, &ids)).await?;
        read.resolve(|id| found.get(id).cloned());
    }
    Ok((read, turns.into()))
}

/// Makes a chat request, behind the turns of the response that it goes on from.
async fn translate(
    mut read: ReadResponse,
    turns: &Arc<[Arc<str>]>,
) -> Result<(ReadResponse, Translated), Refusal> {
    if turns.is_empty() {
        let translated = read.translate::<&str>(&[])?;
        return Ok((read, translated));
    }
    let turns = Arc::clone(turns);
    // Whole conversations with their pictures: too much for an async worker.
    let work = spawn_blocking(move || {
        let translated = read.translate(&turns)?;
        Ok::<_, RequestError>((read, translated))
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
