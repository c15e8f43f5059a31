//! Bodies of the routes that only tell: models, health, version.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Null;

/// The served models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    #[schema(value_type = String)]
    object: &'static str,
    /// One entry per name, the first name first.
    data: Vec<Model>,
}

impl ModelList {
    /// A list of models.
    #[must_use]
    pub fn new(data: Vec<Model>) -> Self {
        Self {
            object: "list",
            data,
        }
    }
}

/// A served model.
///
/// `root` equals `id`, by which ChatNVIDIA tells a base model from an adapter, and `model_type`
/// makes it a known chat model there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Model {
    /// The name that requests give.
    id: String,
    /// Always `model`.
    #[schema(value_type = String)]
    object: &'static str,
    /// Seconds since the Unix epoch at which the server took it up.
    created: u64,
    /// Always `system`.
    #[schema(value_type = String)]
    owned_by: &'static str,
    /// The same as `id`.
    root: String,
    /// Always null.
    #[schema(value_type = Option<String>)]
    parent: Null,
    /// Most tokens of prompt and answer together.
    max_model_len: usize,
    /// Always `vlm`.
    #[schema(value_type = String)]
    model_type: &'static str,
    /// One entry.
    permission: [ModelPermission; 1],
}

impl Model {
    /// A model under one of its names.
    #[must_use]
    pub fn new(id: String, created: u64, max_model_len: usize) -> Self {
        Self {
            root: id.clone(),
            id,
            object: "model",
            created,
            owned_by: "system",
            parent: Null,
            max_model_len,
            model_type: "vlm",
            permission: [ModelPermission::new(created)],
        }
    }
}

/// What may be done with a model; the same for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ModelPermission {
    /// `modelperm-` and 32 hexadecimal digits.
    id: String,
    /// Always `model_permission`.
    #[schema(value_type = String)]
    object: &'static str,
    /// As of the model.
    created: u64,
    /// Always false.
    allow_create_engine: bool,
    /// Always true.
    allow_sampling: bool,
    /// Always true.
    allow_logprobs: bool,
    /// Always false.
    allow_search_indices: bool,
    /// Always true.
    allow_view: bool,
    /// Always false.
    allow_fine_tuning: bool,
    /// Always `*`.
    #[schema(value_type = String)]
    organization: &'static str,
    /// Always null.
    #[schema(value_type = Option<String>)]
    group: Null,
    /// Always false.
    is_blocking: bool,
}

impl ModelPermission {
    fn new(created: u64) -> Self {
        Self {
            id: format!("modelperm-{}", Uuid::new_v4().simple()),
            object: "model_permission",
            created,
            allow_create_engine: false,
            allow_sampling: true,
            allow_logprobs: true,
            allow_search_indices: false,
            allow_view: true,
            allow_fine_tuning: false,
            organization: "*",
            group: Null,
            is_blocking: false,
        }
    }
}

/// The state of the server, with the keys of every NIM release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Health {
    /// Always `health.response`.
    #[schema(value_type = String)]
    object: &'static str,
    /// A sentence.
    #[schema(value_type = String)]
    message: &'static str,
    /// A word: `live`, `ready`, `loading`, `stopped` or `draining`.
    #[schema(value_type = String)]
    status: &'static str,
}

impl Health {
    /// The process answers.
    pub const LIVE: Self = Self::new("Service is live", "live");
    /// Requests are answered.
    pub const READY: Self = Self::new("Service is ready", "ready");
    /// The model is on its way.
    pub const LOADING: Self = Self::new("Service is loading the model", "loading");
    /// The worker is gone.
    pub const STOPPED: Self = Self::new("Service has no running engine", "stopped");
    /// The server finishes what it has and takes nothing new.
    pub const DRAINING: Self = Self::new("Service is shutting down", "draining");

    const fn new(message: &'static str, status: &'static str) -> Self {
        Self {
            object: "health.response",
            message,
            status,
        }
    }

    /// The sentence.
    #[must_use]
    pub fn message(&self) -> &'static str {
        self.message
    }
}

/// What runs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Version {
    /// Of the server.
    #[schema(value_type = String)]
    pub release: &'static str,
    /// Of the API: the `v1` that its paths begin with.
    #[schema(value_type = String)]
    pub api: &'static str,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_model_card_has_what_chatnvidia_and_the_operator_read() {
        let list = ModelList::new(vec![Model::new("org/name".into(), 9, 4096)]);
        let list = serde_json::to_value(list).unwrap();
        let card = &list["data"][0];
        assert_eq!(list["object"], "list");
        assert_eq!(card["object"], "model");
        assert_eq!(card["root"], card["id"]);
        assert_eq!(card["model_type"], "vlm");
        assert_eq!(card["max_model_len"], 4096);
        assert_eq!(card["parent"], json!(null));
        let permission = card["permission"].as_array().unwrap();
        assert_eq!(permission.len(), 1);
        assert_eq!(permission[0].as_object().unwrap().len(), 12);
    }
}
