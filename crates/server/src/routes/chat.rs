//! `POST /v1/chat/completions`.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use vlmd_api::{
    AnswerMessage, ChatCompletion, ChatRequest, Choice, ChoiceLogprobs, ErrorBody, Null,
    completion_id,
};

use crate::entrance::Entrance;
use crate::error::Refusal;
use crate::generation::Generation;
use crate::sse::Manner;
use crate::state::{AppState, unix_time};
use crate::whole::{self, WholeAnswer};
use crate::{body, sse};

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
        (status = 404, description = "No such model", body = ErrorBody),
    )
)]
pub(crate) async fn chat_completions(
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, Refusal> {
    let entrance = Entrance::new(&state, &request)?;
    let request = body::read(request, state.config(), ChatRequest::from_slice).await?;
    answer(&state, entrance, request).await
}

/// Answers a request that has been read.
pub(crate) async fn answer(
    state: &AppState,
    entrance: Entrance,
    mut request: ChatRequest,
) -> Result<Response, Refusal> {
    let manner = manner(&request);
    let generation = entrance.submit(state, &mut request).await?;
    send(generation, request, manner, &Form::CHAT).await
}

/// How a request wants its answers, which has its messages still. Nothing is begun with that says
/// nothing.
pub(super) fn manner(request: &ChatRequest) -> Manner {
    Manner {
        echo: request.echoed().filter(|echo| !echo.is_empty()),
        functions: request.speaks_of_functions(),
    }
}

/// How a dialect writes answers.
pub(super) struct Form {
    pub(super) whole: fn(ChatCompletion) -> Response,
    pub(super) chunk: sse::Write,
}

impl Form {
    /// OpenAI's.
    pub(super) const CHAT: Self = Self {
        whole: |answer| Json(answer).into_response(),
        chunk: sse::chat,
    };
}

/// Sends the answers to a request, whole or streamed.
pub(super) async fn send(
    mut generation: Generation,
    request: ChatRequest,
    manner: Manner,
    form: &Form,
) -> Result<Response, Refusal> {
    let logprobs = request.wanted_logprobs().is_some();
    if request.stream == Some(true) {
        let envelope = sse::Envelope {
            id: completion_id(),
            created: unix_time(),
            model: request.model,
            options: request.stream_options,
            logprobs,
            manner,
        };
        return Ok(sse::respond(generation, envelope, form.chunk));
    }
    let (id, created) = (completion_id(), unix_time());
    let whole = whole::collect(&mut generation).await?;
    Ok((form.whole)(ChatCompletion {
        id,
        object: ChatCompletion::OBJECT,
        created,
        model: request.model,
        choices: whole
            .answers
            .into_iter()
            .zip(0..)
            .map(|(answer, index)| choice(answer, index, logprobs, &manner))
            .collect(),
        usage: generation.usage(),
        prompt_logprobs: whole.prompt_logprobs,
        kv_transfer_params: Null,
    }))
}

fn choice(mut answer: WholeAnswer, index: u32, logprobs: bool, manner: &Manner) -> Choice {
    if let Some(echo) = &manner.echo {
        answer.text.insert_str(0, echo);
    }
    let choice = Choice {
        index,
        message: AnswerMessage {
            entities: answer.entities,
            content: (answer.calls.is_empty() || !answer.text.is_empty()).then_some(answer.text),
            tool_calls: answer.calls,
            ..AnswerMessage::text(String::new())
        },
        logprobs: logprobs.then_some(ChoiceLogprobs {
            content: answer.logprobs,
        }),
        finish_reason: answer.end.reason,
        stop_reason: answer.end.stop,
    };
    if manner.functions {
        choice.in_functions()
    } else {
        choice
    }
}
