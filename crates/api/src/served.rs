//! Bodies of the routes that describe what is served: `/v1/metadata`, `/v1/manifest`,
//! `/v1/license` and vLLM's `/version`.

use serde::Serialize;
use utoipa::ToSchema;

use crate::Null;

/// What runs here and what it serves, with the keys that NIM's operator and newer NIMs have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Metadata {
    /// Of the server.
    #[schema(value_type = String)]
    pub version: &'static str,
    /// One entry.
    #[serde(rename = "modelInfo")]
    pub model_info: Vec<ModelInfo>,
    /// Files that the checkpoint is known to have, each as `name` or `name sha256:digest`.
    #[serde(rename = "assetInfo")]
    pub asset_info: Vec<String>,
    /// Of the model's weights.
    #[serde(rename = "licenseInfo")]
    pub license_info: LicenseInfo,
    /// Always `vlm`.
    #[schema(value_type = String)]
    pub model_type: &'static str,
    /// Short name of the architecture.
    pub model_variant: String,
    /// Where questions go.
    #[schema(value_type = String)]
    pub inference_endpoint: &'static str,
    /// Always null: models come from where `modelUrl` says.
    #[schema(value_type = Option<String>)]
    pub repository_override: Null,
}

/// Which model it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelInfo {
    /// `model:version`.
    pub short_name: String,
    /// Where it is from: `hf://owner/name@revision`, `local://name` for a directory or an archive
    /// on the server's disk, `embedded://name` for what is part of the program.
    pub model_url: String,
}

/// The licence of a model's weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LicenseInfo {
    /// SPDX expression; null where the catalog does not know the model.
    pub name: Option<String>,
}

/// A description of the served checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Manifest {
    /// YAML.
    pub manifest_file: String,
}

/// The server's own licence, and the name of the model's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct License {
    /// Of the server's licence, and of the model's if it is known.
    pub name: String,
    /// Where its text is in the project.
    #[schema(value_type = String)]
    pub path: &'static str,
    /// SHA-256 of `content`, in hexadecimal.
    pub sha: String,
    /// Bytes of `content`.
    pub size: usize,
    /// Where it can be read.
    #[schema(value_type = String)]
    pub url: &'static str,
    /// Always `file`.
    #[schema(value_type = String)]
    pub r#type: &'static str,
    /// The text.
    pub content: String,
}

/// The server's version, as vLLM tells its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct EngineVersion {
    /// Of the server.
    #[schema(value_type = String)]
    pub version: &'static str,
}
