//! What holds for every route and is said at none: who needs a key, what is refused before a
//! route is asked, and that an answer may be streamed.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::anthropic;
use crate::auth::OPEN_PATHS;

/// Answers to a request with a body, whatever it is for: status and what it means.
const WITH_BODY: [(&str, &str); 7] = [
    ("400", "The request has to change"),
    ("408", "The body did not arrive in time"),
    ("413", "The body is too large"),
    ("415", "The body is not JSON"),
    ("500", "The server failed"),
    ("503", "Not ready or overloaded; see `Retry-After`"),
    ("504", "The answer took longer than the server allows"),
];

/// Answer to whoever asks for more than the key's limits grant; what only looks is free.
const KEY_USED_UP: &str = "The API key's limits are used up; see `Retry-After`";

/// Adds it to each operation. What an operation says itself stays.
pub(super) fn describe(document: &mut Value) {
    let schemes = json!({
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    });
    document["components"]["securitySchemes"] = schemes;
    let streaming = streaming(document);
    let Some(paths) = document["paths"].as_object_mut() else {
        return;
    };
    for (path, methods) in paths {
        let open = OPEN_PATHS.contains(&path.as_str());
        let envelope = if anthropic::is_at_home(path) {
            "AnthropicErrorBody"
        } else {
            "ErrorBody"
        };
        for (method, operation) in methods.as_object_mut().into_iter().flatten() {
            let Some(operation) = operation.as_object_mut() else {
                continue;
            };
            if !open {
                // A server without keys asks for none.
                operation.insert("security".into(), json!([{"bearer": []}, {"key": []}, {}]));
                refuse(operation, "401", "No valid API key", envelope);
                if method != "get" {
                    refuse(operation, "429", KEY_USED_UP, envelope);
                }
            }
            let body = operation.get("requestBody").and_then(schema);
            if body.is_some_and(|schema| streaming.contains(schema)) {
                stream(operation);
            }
            if operation.contains_key("requestBody") {
                for (status, meaning) in WITH_BODY {
                    refuse(operation, status, meaning, envelope);
                }
            }
        }
    }
}

/// References to the schemas of requests whose answers can be streamed.
fn streaming(document: &Value) -> BTreeSet<String> {
    let schemas = document["components"]["schemas"].as_object();
    schemas
        .into_iter()
        .flatten()
        .filter(|(_, schema)| schema.pointer("/properties/stream").is_some())
        .map(|(name, _)| format!("#/components/schemas/{name}"))
        .collect()
}

/// The reference to the schema of a request's body.
fn schema(body: &Value) -> Option<&str> {
    body.pointer("/content/application~1json/schema/$ref")?
        .as_str()
}

fn stream(operation: &mut Map<String, Value>) {
    let answer = operation
        .get_mut("responses")
        .and_then(|responses| responses.pointer_mut("/200/content"));
    if let Some(Value::Object(content)) = answer {
        let events = json!({"schema": {"type": "string"}});
        content.entry("text/event-stream").or_insert(events);
    }
}

fn refuse(operation: &mut Map<String, Value>, status: &str, meaning: &str, envelope: &str) {
    let schema = format!("#/components/schemas/{envelope}");
    let responses = operation.entry("responses").or_insert_with(|| json!({}));
    if let Some(responses) = responses.as_object_mut() {
        responses.entry(status).or_insert_with(|| {
            json!({
                "description": meaning,
                "content": {
                    "application/json": {"schema": {"$ref": schema}},
                },
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::openapi;

    #[test]
    fn routes_that_need_a_key_say_so_and_others_do_not() {
        let document = openapi();
        let operation = &document["paths"]["/v1/chat/completions"]["post"];
        assert!(
            operation["security"]
                .as_array()
                .is_some_and(|all| all.len() == 3)
        );
        for status in ["200", "401", "408", "429", "504"] {
            assert!(operation["responses"][status].is_object(), "{status}");
        }
        let events = operation.pointer("/responses/200/content/text~1event-stream");
        assert!(events.is_some());
        let schema = "/content/application~1json/schema/$ref";
        assert_eq!(
            operation["responses"]["504"].pointer(schema).unwrap(),
            operation["responses"]["400"].pointer(schema).unwrap()
        );
        let open = &document["paths"]["/v1/health/live"]["get"];
        assert!(open.get("security").is_none());
        assert!(open["responses"].get("401").is_none());
        let list = &document["paths"]["/v1/models"]["get"]["responses"];
        assert!(list["401"].is_object() && list.get("413").is_none() && list.get("429").is_none());
    }

    #[test]
    fn refusals_are_in_the_envelope_of_their_path() {
        let document = openapi();
        for (path, envelope) in [
            ("/v1/chat/completions", "ErrorBody"),
            ("/v1/messages", "AnthropicErrorBody"),
            ("/v1/messages/count_tokens", "AnthropicErrorBody"),
        ] {
            let content = &document["paths"][path]["post"]["responses"]["415"]["content"];
            let schema = &content["application/json"]["schema"]["$ref"];
            assert_eq!(
                *schema,
                format!("#/components/schemas/{envelope}"),
                "{path}"
            );
        }
    }
}
