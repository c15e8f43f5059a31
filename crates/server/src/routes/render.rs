//! `POST /v1/chat/completions/render` and `POST /v1/completions/render`.

use axum::Json;
use axum::extract::{Request, State};
use vlmd_api::{
    ChatRequest, CompletionRequest, ErrorBody, Images, MultiModalFeatures, PlaceholderRange,
    RenderedPrompt,
};
use vlmd_backend::{ImageKey, ImageSpan, Prepared};

use crate::body;
use crate::entrance::{Entrance, check_name};
use crate::error::Refusal;
use crate::prompt::{Origin, Prompt};
use crate::state::AppState;

/// Shows the prompt that a conversation becomes. The model is not asked.
#[utoipa::path(
    post,
    path = "/v1/chat/completions/render",
    tag = "prompts",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The prompt", body = RenderedPrompt),
        (status = 404, description = "No such model", body = ErrorBody),
    )
)]
pub(crate) async fn render_chat(
    State(state): State<AppState>,
    request: Request,
) -> Result<Json<RenderedPrompt>, Refusal> {
    let entrance = Entrance::new(&state, &request)?;
    let mut request = body::read(request, state.config(), ChatRequest::from_slice).await?;
    check_name(&entrance.model, &request.model)?;
    let prompt = entrance.show(&state, &mut request).await?;
    Ok(Json(rendered(prompt, request.model)))
}

/// Shows the prompts that texts become: an array, one for each. The model is not asked.
#[utoipa::path(
    post,
    path = "/v1/completions/render",
    tag = "prompts",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The prompts", body = Vec<RenderedPrompt>),
        (status = 404, description = "No such model", body = ErrorBody),
    )
)]
pub(crate) async fn render_completions(
    State(state): State<AppState>,
    request: Request,
) -> Result<Json<Vec<RenderedPrompt>>, Refusal> {
    let entrance = Entrance::new(&state, &request)?;
    let mut request = body::read(request, state.config(), CompletionRequest::from_slice).await?;
    let model = request.settings.model.clone();
    check_name(&entrance.model, &model)?;
    let prompts = entrance.show_texts(&state, &mut request).await?;
    let rendered = |prompt| rendered(prompt, model.clone());
    Ok(Json(prompts.into_iter().map(rendered).collect()))
}

fn rendered(prompt: Prompt, model: String) -> RenderedPrompt {
    let Prepared {
        tokens,
        images,
        spans,
        ..
    } = prompt.prepared;
    let place = |span: &ImageSpan| PlaceholderRange {
        offset: span.tokens.start,
        length: span.tokens.len(),
    };
    let features = (!images.is_empty()).then(|| MultiModalFeatures {
        mm_hashes: Images {
            image: images
                .iter()
                .map(|image| hexadecimal(image.key()))
                .collect(),
        },
        mm_placeholders: Images {
            image: spans.iter().map(place).collect(),
        },
    });
    RenderedPrompt {
        request_id: RenderedPrompt::id(prompt.origin == Origin::Text),
        model,
        prompt: prompt.text,
        token_ids: tokens,
        features,
    }
}

fn hexadecimal(key: ImageKey) -> String {
    key.as_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
