//! The OpenAPI document, generated from the wire types.

use serde_json::{Value, json};
use utoipa::OpenApi;
use vlmd_api::{ChatChunk, StreamErrorBody, UNSUPPORTED};

use crate::routes;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "vlmd",
        description = "Vision-language models over the OpenAI chat API, compatible with NVIDIA NIM for VLMs.",
    ),
    paths(
        routes::chat_completions,
        routes::list_models,
        routes::get_model,
        routes::live,
        routes::ready,
        routes::metrics,
        routes::version,
    ),
    // Frames of streams, which no response names.
    components(schemas(ChatChunk, StreamErrorBody)),
    tags(
        (name = "chat", description = "Questions and answers"),
        (name = "models", description = "What is served"),
        (name = "health", description = "For orchestrators and dashboards"),
    ),
)]
struct Document;

/// The OpenAPI document of the server.
///
/// Request fields that are accepted only with a neutral value are added from the table by
/// which they are refused, so that the two cannot differ.
#[must_use]
pub fn openapi() -> Value {
    let mut document = json!(Document::openapi());
    let properties = document
        .pointer_mut("/components/schemas/ChatRequest/properties")
        .and_then(Value::as_object_mut);
    if let Some(properties) = properties {
        for field in UNSUPPORTED {
            let description = format!("Not supported: accepted if null or {}.", field.neutral);
            properties.insert(field.name.to_owned(), json!({ "description": description }));
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_that_is_named_is_there() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(name)) = fields.get("$ref") {
                        found.push(name.clone());
                    }
                    fields.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = openapi();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 10);
        for name in found {
            let pointer = name.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{name}");
        }
    }

    #[test]
    fn fields_that_are_refused_are_documented() {
        let document = openapi();
        let properties = &document["components"]["schemas"]["ChatRequest"]["properties"];
        assert!(properties["chat_template"]["description"].is_string());
        assert!(properties["temperature"]["maximum"].is_number());
    }
}
