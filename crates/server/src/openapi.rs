//! The OpenAPI document, generated from the wire types.

mod everywhere;

use serde_json::{Map, Value, json};
use utoipa::OpenApi;
use vlmd_api::anthropic::StreamEvent;
use vlmd_api::responses::{ItemOrder, ResponseEvent};
use vlmd_api::{
    CHAT_FIELDS, ChatChunk, HostedChunk, StreamErrorBody, TextChunk, TextPrompt, UNSUPPORTED,
    UNSUPPORTED_IN_COMPLETIONS, Unsupported,
};

use crate::routes;

/// Fields of a chat request that `/tokenize` describes as its own.
const OF_PROMPTS: [&str; 3] = [
    "messages",
    "add_generation_prompt",
    "continue_final_message",
];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "vlmd",
        description = "Vision-language models over the OpenAI chat API, compatible with NVIDIA NIM for VLMs.",
    ),
    paths(
        routes::chat_completions,
        routes::completions,
        routes::invocations,
        routes::render_chat,
        routes::render_completions,
        routes::tokenize,
        routes::detokenize,
        routes::vlm,
        routes::gr,
        routes::create,
        routes::list,
        routes::get,
        routes::delete,
        routes::upload,
        routes::messages,
        routes::count_tokens,
        routes::create_response,
        routes::get_response,
        routes::cancel_response,
        routes::delete_response,
        routes::input_items,
        routes::input_tokens,
        routes::list_models,
        routes::get_model,
        routes::metadata,
        routes::manifest,
        routes::license,
        routes::live,
        routes::ready,
        routes::metrics,
        routes::version,
        routes::engine_version,
    ),
    // Frames of streams, which no response names, and what only a description of ours does.
    components(schemas(
        ChatChunk,
        HostedChunk,
        TextChunk,
        TextPrompt,
        StreamErrorBody,
        StreamEvent,
        ResponseEvent,
        ItemOrder
    )),
    tags(
        (name = "chat", description = "Questions and answers"),
        (name = "completions", description = "Texts and how they go on"),
        (name = "prompts", description = "What a model would read"),
        (name = "assets", description = "Pictures uploaded before they are asked about"),
        (name = "messages", description = "The same in Anthropic's dialect"),
        (name = "responses", description = "The same in OpenAI's newer dialect"),
        (name = "models", description = "What is served"),
        (name = "health", description = "For orchestrators and dashboards"),
    ),
)]
struct Document;

/// The OpenAPI document of the server.
///
/// Request fields that are accepted only with a neutral value are added from the table by
/// which they are refused, so that the two cannot differ; fields that text completions share with
/// the chat route are its.
#[must_use]
pub fn openapi() -> Value {
    let mut document = json!(Document::openapi());
    let mut chat = Map::new();
    if let Some(properties) = properties(&mut document, "ChatRequest") {
        properties.extend(UNSUPPORTED.iter().map(unsupported));
        chat = properties.clone();
    }
    let of_prompts: Vec<_> = OF_PROMPTS
        .iter()
        .filter_map(|name| chat.get_key_value(*name))
        .map(|(name, schema)| (name.clone(), schema.clone()))
        .collect();
    if let Some(properties) = properties(&mut document, "CompletionRequest") {
        properties.extend(UNSUPPORTED_IN_COMPLETIONS.iter().map(unsupported));
        for (name, schema) in chat {
            if !CHAT_FIELDS.contains(&name.as_str()) {
                properties.entry(name).or_insert(schema);
            }
        }
    }
    if let Some(properties) = properties(&mut document, "TokenizeRequest") {
        let own = [
            (
                "prompt",
                "string",
                "A text; control tokens that are written out are control tokens.",
            ),
            (
                "add_special_tokens",
                "boolean",
                "With `prompt`: whether the tokenizer puts its own tokens around it. Default true.",
            ),
        ];
        for (name, kind, description) in own {
            let schema = json!({"type": kind, "description": description});
            properties.insert(name.to_owned(), schema);
        }
        // And with them whatever else of a chat request makes its prompt.
        properties.extend(of_prompts);
    }
    everywhere::describe(&mut document);
    document
}

fn properties<'d>(document: &'d mut Value, schema: &str) -> Option<&'d mut Map<String, Value>> {
    document
        .pointer_mut(&format!("/components/schemas/{schema}/properties"))
        .and_then(Value::as_object_mut)
}

fn unsupported(field: &Unsupported) -> (String, Value) {
    let description = format!("Not supported: accepted if null or {}.", field.neutral);
    (field.name.to_owned(), json!({ "description": description }))
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

    #[test]
    fn text_completions_have_the_chat_routes_sampling_and_their_own_fields() {
        let document = openapi();
        let schemas = &document["components"]["schemas"];
        let (chat, text) = (&schemas["ChatRequest"], &schemas["CompletionRequest"]);
        let properties = text["properties"].as_object().unwrap();
        assert_eq!(properties["temperature"], chat["properties"]["temperature"]);
        for field in [
            "prompt", "suffix", "echo", "model", "n", "best_of", "logprobs",
        ] {
            assert!(properties.contains_key(field), "{field}");
        }
        for field in ["messages", "tools", "top_logprobs", "settings"] {
            assert!(!properties.contains_key(field), "{field}");
        }
        assert_eq!(properties["logprobs"]["maximum"], 20);
        let add = properties["add_special_tokens"]["type"].as_str();
        assert_eq!(add, Some("boolean"));
        let tokenize = &schemas["TokenizeRequest"]["properties"];
        assert!(tokenize["messages"]["items"].is_object());
        assert!(tokenize["add_generation_prompt"].is_object());
        assert_eq!(properties["max_tokens"]["minimum"], 0);
        assert_eq!(chat["properties"]["max_tokens"]["minimum"], 1);
    }
}
