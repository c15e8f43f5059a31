//! The routes of NVIDIA's hosted vision models, whose paths name the model.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use vlmd_api::{ChatCompletion, ChatRequest, ErrorBody, HostedCompletion, HostedRequest};
use vlmd_engine::Sampling;

use super::chat::{self, Form};
use crate::body;
use crate::entrance::{Entrance, check_name};
use crate::error::Refusal;
use crate::sse;
use crate::state::{AppState, ServedModel};

/// What the hosted endpoint took where a request said nothing.
const TEMPERATURE: f32 = 0.2;
const TOP_P: f32 = 0.7;
const MAX_TOKENS: usize = 1024;

/// Behind the model in paths of the second kind.
const CHAT: &str = "/chat/completions";

/// A path's name of a model. One that is not UTF-8 is no name of a model.
type Name = Result<Path<String>, PathRejection>;

fn name(path: Name) -> String {
    path.map_or_else(|_| String::new(), |Path(name)| name)
}

/// Answers a conversation, in the dialect of NVIDIA's hosted vision models.
///
/// The body is that of `POST /v1/chat/completions`; `model` may be left out. Where it does not say
/// them, `temperature` is 0.2, `top_p` 0.7 and `max_tokens` 1024. Kosmos-2 takes
/// `grounded_response`, `task` (`VQA` or `image captioning`) and `response_mode` (`brief` or
/// `detailed`). With `stream` the answer comes as server-sent events, one `HostedChunk` each, and
/// ends with `[DONE]`.
#[utoipa::path(
    post,
    path = "/v1/vlm/{model}",
    tag = "chat",
    params(("model" = String, Path, description = "A name, slashes included")),
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, `text/event-stream` of `HostedChunk`", body = HostedCompletion),
        (status = 404, description = "No such model", body = ErrorBody),
    )
)]
pub(crate) async fn vlm(
    State(state): State<AppState>,
    path: Name,
    request: Request,
) -> Result<Response, Refusal> {
    let path = name(path);
    // OpenAI's clients put this behind whatever address they are given.
    let name = path.strip_suffix(CHAT).unwrap_or(&path).to_owned();
    let mut entrance = Entrance::new(&state, &request)?;
    check_name(&entrance.model, &name)?;
    entrance.model = Arc::new(with_defaults(&entrance.model));
    let read = move |body: &[u8]| HostedRequest::from_slice(body, name);
    let HostedRequest {
        mut chat,
        kosmos_field,
    } = body::read(request, state.config(), read).await?;
    if let Some(field) = kosmos_field
        && entrance.model.processor.grounding().is_none()
    {
        return Err(Refusal::KosmosField { field });
    }
    let manner = chat::manner(&chat);
    let generation = entrance.submit(&state, &mut chat).await?;
    chat::send(generation, chat, manner, &HOSTED).await
}

/// Answers a conversation: `POST /v1/chat/completions` with the model in the path.
#[utoipa::path(
    post,
    path = "/v1/gr/{model}/chat/completions",
    tag = "chat",
    params(("model" = String, Path, description = "A name, slashes included")),
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, `text/event-stream` of `ChatChunk`", body = ChatCompletion),
        (status = 404, description = "No such model", body = ErrorBody),
    )
)]
pub(crate) async fn gr(
    State(state): State<AppState>,
    path: Name,
    request: Request,
) -> Result<Response, Refusal> {
    let path = name(path);
    let Some(name) = path.strip_suffix(CHAT).map(str::to_owned) else {
        return Err(super::unknown_route(request).await);
    };
    let entrance = Entrance::new(&state, &request)?;
    check_name(&entrance.model, &name)?;
    let read = move |body: &[u8]| ChatRequest::from_slice_for(body, name);
    let mut chat = body::read(request, state.config(), read).await?;
    let manner = chat::manner(&chat);
    let generation = entrance.submit(&state, &mut chat).await?;
    chat::send(generation, chat, manner, &Form::CHAT).await
}

/// How the hosted dialect writes answers.
const HOSTED: Form = Form {
    whole: |answer| Json(HostedCompletion::from(answer)).into_response(),
    chunk: sse::hosted,
};

/// The model with what the hosted endpoint took where a request said nothing. An operator's
/// tighter bound on answers holds.
fn with_defaults(model: &ServedModel) -> ServedModel {
    ServedModel {
        default_max_tokens: model.default_max_tokens.min(MAX_TOKENS),
        default_sampling: Sampling {
            temperature: TEMPERATURE,
            top_p: TOP_P,
            ..model.default_sampling.clone()
        },
        ..model.clone()
    }
}
