//! `POST /v1/chat/completions`.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use tokio::task::spawn_blocking;
use tracing::{Instrument as _, info_span};
use vlmd_api::{
    AnswerMessage, ChatCompletion, ChatRequest, Choice, ChoiceLogprobs, Entity, ErrorBody, Null,
    RequestError, TokenLogprob, ToolCall, completion_id,
};

use crate::answer::End;
use crate::auth::Caller;
use crate::error::Refusal;
use crate::generation::{self, Generation};
use crate::state::{AppState, ServedModel, unix_time};
use crate::{body, prompt, sse, tool_calls};

/// Bodies from this size on are parsed on a blocking thread: it takes longer than an async
/// worker may be held up.
const PARSE_INLINE_BYTES: usize = 64 << 10;

/// Answers a conversation.
///
/// With `stream` the answer comes as server-sent events, one `ChatChunk` each, and ends with
/// `[DONE]`; an error after the first chunk is a `StreamErrorBody`.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "chat",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, `text/event-stream` of `ChatChunk`", body = ChatCompletion),
        (status = 400, description = "The request has to change", body = ErrorBody),
        (status = 401, description = "No valid API key", body = ErrorBody),
        (status = 404, description = "No such model", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The body is not JSON", body = ErrorBody),
        (status = 500, description = "The server failed", body = ErrorBody),
        (status = 503, description = "Not ready or overloaded; see `Retry-After`", body = ErrorBody),
    )
)]
pub(crate) async fn chat_completions(
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, Refusal> {
    let model = state.model()?;
    let admission = state.admit()?;
    let caller = request.extensions().get::<Caller>().copied();
    let body = body::read_json(request, state.config()).await?;
    let mut request = parse(body).await?;
    check_name(model, &request.model)?;
    generation::check_token_ids(model, &request)?;
    let grammar = tool_calls::grammar(&state, model, &request).await?;
    let prompt = prompt::prepare(&state, model, &mut request, caller)
        .instrument(info_span!("prepare"))
        .await?;
    let generation = Generation::submit(
        &state,
        admission,
        model,
        &request,
        &prompt,
        grammar.as_ref(),
    )?;
    let logprobs = request.wanted_logprobs().is_some();
    if request.stream == Some(true) {
        let envelope = sse::Envelope {
            id: completion_id(),
            created: unix_time(),
            model: request.model,
            options: request.stream_options,
            logprobs,
        };
        return Ok(sse::respond(generation, envelope));
    }
    let completion = whole(generation, request.model, logprobs).await?;
    Ok(Json(completion).into_response())
}

async fn parse(body: Vec<u8>) -> Result<ChatRequest, Refusal> {
    if body.len() < PARSE_INLINE_BYTES {
        return Ok(ChatRequest::from_slice(&body)?);
    }
    let parsed: Result<ChatRequest, RequestError> =
        spawn_blocking(move || ChatRequest::from_slice(&body))
            .await
            .map_err(|_| Refusal::Internal)?;
    Ok(parsed?)
}

fn check_name(model: &ServedModel, name: &str) -> Result<(), Refusal> {
    if model.names.iter().any(|served| served == name) {
        return Ok(());
    }
    Err(models_unknown(model, name))
}

/// The answer to a name that is not served.
pub(super) fn models_unknown(model: &ServedModel, name: &str) -> Refusal {
    Refusal::UnknownModel {
        name: name.chars().take(128).collect(),
        served: model
            .names
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// One answer that is being put together.
#[derive(Debug, Default)]
struct Draft {
    text: String,
    calls: Vec<ToolCall>,
    logprobs: Vec<TokenLogprob>,
    entities: Option<Vec<Entity>>,
    end: Option<End>,
}

/// Waits for all answers. Dropped with the connection, which gives them up.
async fn whole(
    mut generation: Generation,
    model: String,
    logprobs: bool,
) -> Result<ChatCompletion, Refusal> {
    let id = completion_id();
    let created = unix_time();
    let mut drafts: Vec<Draft> = Vec::new();
    let mut prompt_logprobs = None;
    drafts.resize_with(generation.len(), Draft::default);
    while let Some(next) = generation.next().await {
        let (index, mut piece) = next?;
        let draft = &mut drafts[index];
        draft.text.push_str(&piece.text);
        tool_calls::append(&mut draft.calls, piece.calls);
        draft.logprobs.append(&mut piece.logprobs);
        prompt_logprobs = piece.prompt_logprobs.or(prompt_logprobs);
        draft.entities = piece.entities;
        draft.end = piece.end;
    }
    let choices = drafts
        .into_iter()
        .zip(0..)
        .map(|(draft, index)| {
            let end = draft.end.ok_or(Refusal::Internal)?;
            Ok(Choice {
                index,
                message: AnswerMessage {
                    entities: draft.entities,
                    content: (draft.calls.is_empty() || !draft.text.is_empty())
                        .then_some(draft.text),
                    tool_calls: draft.calls,
                    ..AnswerMessage::text(String::new())
                },
                logprobs: logprobs.then_some(ChoiceLogprobs {
                    content: draft.logprobs,
                }),
                finish_reason: end.reason,
                stop_reason: end.stop,
            })
        })
        .collect::<Result<_, Refusal>>()?;
    Ok(ChatCompletion {
        id,
        object: ChatCompletion::OBJECT,
        created,
        model,
        choices,
        usage: generation.usage(),
        prompt_logprobs,
        kv_transfer_params: Null,
    })
}
