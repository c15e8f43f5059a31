//! `GET /v1/models`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use vlmd_api::{ErrorBody, Model, ModelList};

use crate::entrance::check_name;
use crate::error::Refusal;
use crate::state::AppState;

/// Lists the names under which the model is served.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "models",
    responses(
        (status = 200, description = "The names", body = ModelList),
        (status = 503, description = "The model is not loaded", body = ErrorBody),
    )
)]
pub(crate) async fn list_models(State(state): State<AppState>) -> Result<Json<ModelList>, Refusal> {
    let model = state.model()?;
    let since = state.slot().since();
    let cards = model
        .names
        .iter()
        .map(|name| Model::new(name.clone(), since, model.engine.max_model_len()))
        .collect();
    Ok(Json(ModelList::new(cards)))
}

/// Describes one model.
#[utoipa::path(
    get,
    path = "/v1/models/{model}",
    tag = "models",
    params(("model" = String, Path, description = "A name, slashes included")),
    responses(
        (status = 200, description = "The model", body = Model),
        (status = 404, description = "No such model", body = ErrorBody),
        (status = 503, description = "The model is not loaded", body = ErrorBody),
    )
)]
pub(crate) async fn get_model(
    State(state): State<AppState>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, Refusal> {
    let model = state.model()?;
    // A name that is not UTF-8 is no name of a model.
    let name = name.map_or_else(|_| String::new(), |Path(name)| name);
    check_name(model, &name)?;
    let since = state.slot().since();
    Ok(Json(Model::new(name, since, model.engine.max_model_len())))
}
