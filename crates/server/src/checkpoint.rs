//! What is told of the files that are served.

use std::fmt::Write as _;

use serde_json::{Value, json};
use vlmd_api::{LicenseInfo, Metadata, ModelInfo, Null};

use crate::state::ServedModel;

/// What is known of a model's files (`/v1/metadata`, `/v1/manifest`, `/v1/license`). Nothing in it
/// may name a place on the server's disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where they are from: `hf://owner/name@revision`, `local://name`, `embedded://name`.
    pub url: String,
    /// A revision, the program's version, or `local`.
    pub version: String,
    /// The architecture's short name.
    pub architecture: String,
    /// What the weights are computed in, if that is not what the files hold.
    pub precision: Option<String>,
    /// Size of the weights in bytes.
    pub weight_bytes: u64,
    /// SPDX expression of the weights' licence, where it is known.
    pub licence: Option<String>,
    /// Those that are known by name.
    pub files: Vec<CheckpointFile>,
}

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointFile {
    /// Its name.
    pub name: String,
    /// SHA-256 in hexadecimal that it was held against, where one is known.
    pub sha256: Option<String>,
}

/// What `GET /v1/metadata` tells.
pub(crate) fn metadata(model: &ServedModel) -> Metadata {
    let checkpoint = &model.checkpoint;
    let name = first_name(model);
    let name = name.rsplit('/').next().unwrap_or(name);
    let asset = |file: &CheckpointFile| match &file.sha256 {
        Some(sum) => format!("{} sha256:{sum}", file.name),
        None => file.name.clone(),
    };
    Metadata {
        version: env!("CARGO_PKG_VERSION"),
        model_info: vec![ModelInfo {
            short_name: format!("{name}:{}", checkpoint.version),
            model_url: checkpoint.url.clone(),
        }],
        asset_info: checkpoint.files.iter().map(asset).collect(),
        license_info: LicenseInfo {
            name: checkpoint.licence.clone(),
        },
        model_type: "vlm",
        model_variant: checkpoint.architecture.clone(),
        inference_endpoint: "/v1/chat/completions",
        repository_override: Null,
    }
}

/// The name under which the model is reported.
pub(crate) fn first_name(model: &ServedModel) -> &str {
    model.names.first().map_or("", String::as_str)
}

/// What `GET /v1/manifest` tells, as YAML: each value is JSON, which YAML takes.
pub(crate) fn manifest(model: &ServedModel) -> String {
    let Checkpoint {
        url,
        version,
        architecture,
        precision,
        weight_bytes,
        licence,
        files,
    } = &model.checkpoint;
    let precision = precision.as_deref().unwrap_or("as stored");
    let fields: [(&str, Value); 9] = [
        ("names", json!(model.names)),
        ("source", json!(url)),
        ("version", json!(version)),
        ("model_type", json!("vlm")),
        ("architecture", json!(architecture)),
        ("precision", json!(precision)),
        ("weight_bytes", json!(weight_bytes)),
        ("max_model_len", json!(model.engine.max_model_len())),
        ("licence", json!(licence)),
    ];
    let mut yaml = format!(
        "manifest_version: 1\nserver: vlmd {}\nmodel:\n",
        env!("CARGO_PKG_VERSION")
    );
    // Writing into a String cannot fail.
    for (name, value) in fields {
        let _ = writeln!(yaml, "  {name}: {value}");
    }
    if files.is_empty() {
        yaml.push_str("  files: []\n");
        return yaml;
    }
    yaml.push_str("  files:\n");
    for CheckpointFile { name, sha256 } in files {
        let _ = writeln!(
            yaml,
            "    - name: {}\n      sha256: {}",
            json!(name),
            json!(sha256)
        );
    }
    yaml
}
