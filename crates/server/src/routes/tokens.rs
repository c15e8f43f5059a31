//! `POST /tokenize` and `POST /detokenize`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use vlmd_api::{
    DetokenizeRequest, Detokenized, ErrorBody, RequestError, TokenizeInput, TokenizeRequest,
    Tokenized,
};

use crate::entrance::{Entrance, check_name};
use crate::error::Refusal;
use crate::prompt::at_work;
use crate::state::{AppState, ServedModel};
use crate::{body, text_prompt};

/// Tokenises a text or a conversation. `/v1/tokenize` is the same.
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "prompts",
    request_body = TokenizeRequest,
    responses(
        (status = 200, description = "The tokens", body = Tokenized),
        (status = 404, description = "No such model", body = ErrorBody),
    )
)]
pub(crate) async fn tokenize(
    State(state): State<AppState>,
    request: Request,
) -> Result<Json<Tokenized>, Refusal> {
    let entrance = Entrance::new(&state, &request)?;
    let request = body::read(request, state.config(), TokenizeRequest::from_slice).await?;
    let model = &entrance.model;
    check_given_name(model, request.model.as_deref())?;
    let tokens = match request.input {
        TokenizeInput::Text {
            prompt,
            add_special_tokens,
        } => text_prompt::tokens(&state, model, prompt, add_special_tokens).await?,
        TokenizeInput::Chat(mut chat) => {
            let prompt = entrance.show(&state, &mut chat).await?;
            prompt.prepared.tokens
        }
    };
    let max_model_len = model.engine.max_model_len();
    let tokenizer = Arc::clone(model.processor.tokenizer());
    let (tokens, token_strs) = if request.return_token_strs {
        // As many as a body may hold: too much for an async worker.
        let spelled = move || {
            let spell = |id: &u32| tokenizer.id_to_token(*id).unwrap_or_default();
            let spelled = tokens.iter().map(spell).collect();
            (tokens, Some(spelled))
        };
        at_work(&state, spelled).await?
    } else {
        (tokens, None)
    };
    Ok(Json(Tokenized {
        count: tokens.len(),
        max_model_len,
        token_strs,
        tokens,
    }))
}

/// Gives the text of tokens. `/v1/detokenize` is the same.
#[utoipa::path(
    post,
    path = "/detokenize",
    tag = "prompts",
    request_body = DetokenizeRequest,
    responses(
        (status = 200, description = "The text", body = Detokenized),
        (status = 404, description = "No such model", body = ErrorBody),
    )
)]
pub(crate) async fn detokenize(
    State(state): State<AppState>,
    request: Request,
) -> Result<Json<Detokenized>, Refusal> {
    let entrance = Entrance::new(&state, &request)?;
    let request = body::read(request, state.config(), DetokenizeRequest::from_slice).await?;
    let model = &entrance.model;
    check_given_name(model, request.model.as_deref())?;
    let tokens = request.tokens;
    let vocab_size = model.engine.input_vocab_size();
    let unknown = |id: &u32| *id as usize >= vocab_size;
    if let Some((at, id)) = tokens.iter().enumerate().find(|(_, id)| unknown(id)) {
        return Err(Refusal::Request(RequestError::Value {
            field: format!("tokens[{at}]"),
            bound: format!("a token id below {vocab_size}, the size of the vocabulary"),
            value: id.to_string(),
        }));
    }
    let tokenizer = Arc::clone(model.processor.tokenizer());
    let prompt = at_work(&state, move || tokenizer.decode(&tokens, false)).await?;
    let prompt = prompt.map_err(|error| {
        tracing::error!(%error, "tokens cannot be decoded");
        Refusal::Internal
    })?;
    Ok(Json(Detokenized { prompt }))
}

/// Refuses a name that is given and not served.
fn check_given_name(model: &ServedModel, name: Option<&str>) -> Result<(), Refusal> {
    name.map_or(Ok(()), |name| check_name(model, name))
}
