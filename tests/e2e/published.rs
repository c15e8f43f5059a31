//! The published document of hosted models, `tests/openapi/published.yaml`: what it accepts is
//! accepted, by vlmd's own document and by vlmd, and what is answered is what it says.

use std::collections::BTreeSet;

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::support::{Server, png, project};

/// Of servers that ask for one.
const KEY: &str = "secret";

/// An OpenAPI document.
struct Document(Value);

impl Document {
    fn published() -> Self {
        let path = project().join("tests/openapi/published.yaml");
        Self(serde_saphyr::from_slice(&std::fs::read(path).unwrap()).unwrap())
    }

    async fn of(server: &Server) -> Self {
        let url = format!("{}/openapi.json", server.url);
        let answer = server.http.get(url).bearer_auth(KEY).send().await.unwrap();
        Self(answer.json().await.unwrap())
    }

    /// A validator for one of its schemas.
    fn schema(&self, name: &str) -> Validator {
        let schema = json!({
            "$ref": format!("#/components/schemas/{name}"),
            "components": self.0["components"],
        });
        jsonschema::validator_for(&schema).unwrap()
    }

    fn operation(&self) -> &Value {
        &self.0["paths"]["/v1/chat/completions"]["post"]
    }
}

/// Fails with all that is wrong with `value`.
fn check(schema: &Validator, value: &Value, of: &str) {
    let wrong: Vec<_> = schema.iter_errors(value).map(|e| e.to_string()).collect();
    assert!(wrong.is_empty(), "{of}: {wrong:?}\n{value}");
}

/// Requests at every bound that the document names, and in every form of content.
fn requests(document: &Document, picture: &str) -> Vec<Value> {
    let text = |text: &str| json!({"type": "text", "text": text});
    let image = json!({"type": "image_url", "image_url": {"url": picture}});
    let contents = [
        json!("Hello"),
        json!([text("Hello")]),
        json!([image, text("What is it?")]),
        json!([text("Before."), image, text("After.")]),
    ];
    let ask = |messages: Value| json!({"model": "test", "messages": messages, "max_tokens": 4});
    let mut all: Vec<Value> = contents
        .iter()
        .map(|content| ask(json!([{"role": "user", "content": content}])))
        .collect();
    all.push(ask(json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": contents[2]},
        {"role": "assistant", "content": [text("A square.")]},
        {"role": "user", "content": "Sure?"},
    ])));
    let properties = document.0["components"]["schemas"]["ChatRequest"]["properties"].as_object();
    let mut bounds = 0;
    for (name, schema) in properties.unwrap() {
        let both = [json!(true), json!(false)];
        let values = match &schema["type"] {
            Value::String(kind) if kind == "boolean" => both.iter().collect(),
            _ => [&schema["minimum"], &schema["maximum"]]
                .into_iter()
                .filter(|bound| !bound.is_null())
                .collect::<Vec<_>>(),
        };
        for value in values {
            bounds += 1;
            let mut request = ask(json!([{"role": "user", "content": "Hello"}]));
            request[name] = value.clone();
            all.push(request);
        }
    }
    assert!(bounds >= 6, "{bounds}");
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_published_document_accepts_is_accepted() {
    let published = Document::published();
    let server = Server::start(&["--served-model-name", "test"]).await;
    let own = Document::of(&server).await;
    let theirs = published.schema("ChatRequest");
    let ours = own.schema("ChatRequest");
    let (answer, chunk) = (
        published.schema("ChatCompletion"),
        published.schema("ChatChunk"),
    );
    let (own_answer, own_chunk) = (own.schema("ChatCompletion"), own.schema("ChatChunk"));
    let picture = png(&project().join("models/tiny/examples/shapes.png"));
    for request in requests(&published, &picture) {
        check(&theirs, &request, "the published request");
        check(&ours, &request, "by vlmd's document");
        let response = server.chat(&request).await;
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert_eq!(status, 200, "{request}: {text}");
        if request["stream"] == true {
            let frames = text.lines().filter_map(|line| line.strip_prefix("data: "));
            let frames: Vec<_> = frames.collect();
            let (done, chunks) = frames.split_last().unwrap();
            assert_eq!(*done, "[DONE]");
            assert!(chunks.len() >= 2);
            for frame in chunks {
                let frame: Value = serde_json::from_str(frame).unwrap();
                check(&chunk, &frame, "a published chunk");
                check(&own_chunk, &frame, "a chunk by vlmd's document");
            }
        } else {
            let body: Value = serde_json::from_str(&text).unwrap();
            check(&answer, &body, "the published answer");
            check(&own_answer, &body, "the answer by vlmd's document");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_those_of_the_published_document() {
    let published = Document::published();
    let limit = 20_000;
    let arguments = ["--api-key", KEY, "--max-body-bytes", &limit.to_string()];
    let server = Server::start(&arguments).await;
    let own = Document::of(&server).await;
    let schemas = [published.schema("Error"), own.schema("ErrorBody")];
    let good = json!({"model": "test", "messages": [{"role": "user", "content": "Hello"}]});
    let long = json!({"messages": "x".repeat(limit + 1)});
    let mut seen = BTreeSet::new();
    for (key, body, status) in [
        (KEY, json!({}).to_string(), 400),
        (KEY, "{".to_owned(), 400),
        ("other", good.to_string(), 401),
        (KEY, long.to_string(), 413),
    ] {
        let response = server
            .http
            .post(format!("{}/v1/chat/completions", server.url))
            .bearer_auth(key)
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), status);
        let body: Value = response.json().await.unwrap();
        for schema in &schemas {
            check(schema, &body, "a refusal");
        }
        seen.insert(status.to_string());
    }
    for document in [&published, &own] {
        let responses = document.operation()["responses"].as_object().unwrap();
        assert!(responses.contains_key("200"));
        for status in &seen {
            assert!(responses.contains_key(status), "{status}");
        }
    }
}
