//! What is served: `GET /v1/metadata`, `/v1/manifest`, `/v1/license` and vLLM's `/version`.

use axum::Json;
use axum::extract::State;
use sha2::{Digest, Sha256};
use vlmd_api::{EngineVersion, ErrorBody, License, Manifest, Metadata};

use crate::checkpoint;
use crate::error::Refusal;
use crate::state::AppState;

/// The server's own licence; which of the two is for its user to choose.
const LICENCES: [&str; 2] = [
    include_str!("../../../../LICENSE-MIT"),
    include_str!("../../../../LICENSE-APACHE"),
];

/// Describes the served model and the server.
#[utoipa::path(
    get,
    path = "/v1/metadata",
    tag = "models",
    responses(
        (status = 200, description = "The description", body = Metadata),
        (status = 503, description = "The model is not loaded", body = ErrorBody),
    )
)]
pub(crate) async fn metadata(State(state): State<AppState>) -> Result<Json<Metadata>, Refusal> {
    Ok(Json(checkpoint::metadata(state.model()?)))
}

/// Describes the served checkpoint, as YAML in a string.
#[utoipa::path(
    get,
    path = "/v1/manifest",
    tag = "models",
    responses(
        (status = 200, description = "The description", body = Manifest),
        (status = 503, description = "The model is not loaded", body = ErrorBody),
    )
)]
pub(crate) async fn manifest(State(state): State<AppState>) -> Result<Json<Manifest>, Refusal> {
    let manifest_file = checkpoint::manifest(state.model()?);
    Ok(Json(Manifest { manifest_file }))
}

/// Gives the server's licence, and names that of the model's weights.
#[utoipa::path(
    get,
    path = "/v1/license",
    tag = "models",
    responses(
        (status = 200, description = "The licence", body = License),
        (status = 503, description = "The model is not loaded", body = ErrorBody),
    )
)]
pub(crate) async fn license(State(state): State<AppState>) -> Result<Json<License>, Refusal> {
    let model = state.model()?;
    let name = checkpoint::first_name(model);
    let own = "vlmd is licensed under MIT or Apache-2.0, as its user chooses.";
    let weights = match &model.checkpoint.licence {
        Some(licence) => format!("The weights of {name} are licensed under {licence}."),
        None => format!("Under what licence the weights of {name} are is not known to the server."),
    };
    let content = format!("{own}\n{weights}\n\n{}", LICENCES.join("\n\n"));
    let digest = Sha256::digest(content.as_bytes());
    let of_model = model.checkpoint.licence.as_deref();
    Ok(Json(License {
        name: match of_model {
            Some(licence) => format!("vlmd: MIT OR Apache-2.0; {name}: {licence}"),
            None => "vlmd: MIT OR Apache-2.0".to_owned(),
        },
        path: "LICENSE-MIT",
        sha: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        size: content.len(),
        url: "https://spdx.org/licenses/MIT.html",
        r#type: "file",
        content,
    }))
}

/// Tells the server's version, in vLLM's shape.
#[utoipa::path(
    get,
    path = "/version",
    tag = "health",
    responses((status = 200, description = "The version", body = EngineVersion))
)]
pub(crate) async fn engine_version() -> Json<EngineVersion> {
    Json(EngineVersion {
        version: env!("CARGO_PKG_VERSION"),
    })
}
