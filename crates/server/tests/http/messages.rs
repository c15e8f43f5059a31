//! Anthropic's dialect.

use reqwest::Response;
use serde_json::{Value, json};
use vlmd_server::{ApiKeys, ServerConfig};
use vlmd_text::ToolFamily;

use crate::script::Role;
use crate::server::{MODEL, Setup, TestServer, json_of};

const CALL: &str =
    "I look. <tool_call>{\"name\": \"look\", \"arguments\": {\"at\": 1}}</tool_call>";

async fn post(server: &TestServer, path: &str, extra: &Value) -> Response {
    let mut body = json!({"model": MODEL, "max_tokens": 12,
        "messages": [{"role": "user", "content": "hi"}]});
    let fields = body.as_object_mut().unwrap();
    fields.extend(extra.as_object().unwrap().clone());
    let request = server.client.post(format!("{}{path}", server.base));
    request
        .header("content-type", "application/json")
        .body(body.to_string())
        .send()
        .await
        .unwrap()
}

async fn answer(server: &TestServer, extra: &Value) -> Value {
    let response = post(server, "/v1/messages", extra).await;
    assert_eq!(response.status(), 200);
    assert!(response.headers().contains_key("request-id"));
    json_of(response).await
}

/// Names and data of a stream's events.
async fn events(server: &TestServer, extra: &Value) -> Vec<(String, Value)> {
    let mut extra = extra.clone();
    extra["stream"] = json!(true);
    let response = post(server, "/v1/messages", &extra).await;
    assert_eq!(response.status(), 200);
    events_of(response).await
}

pub(crate) async fn events_of(response: Response) -> Vec<(String, Value)> {
    let text = response.text().await.unwrap();
    let frames = text.split("\n\n").filter(|frame| frame.contains("data: "));
    let read = |frame: &str| {
        let (name, data) = frame.split_once('\n').unwrap();
        let name = name.strip_prefix("event: ").unwrap().to_owned();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data["type"], name);
        (name, data)
    };
    frames.map(read).collect()
}

/// Status and error, which must have Anthropic's envelope.
async fn refusal(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let id = response.headers()["request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let body = json_of(response).await;
    assert_eq!(
        (&body["type"], &body["request_id"]),
        (&json!("error"), &json!(id))
    );
    (status, body["error"].clone())
}

async fn calling() -> TestServer {
    let role = Some(Role::new(Some(ToolFamily::Hermes), CALL));
    let setup = Setup {
        role,
        ..Setup::default()
    };
    TestServer::with(setup).await
}

fn tools() -> Value {
    json!([{"name": "look", "input_schema": {"type": "object", "properties": {"at": {}}}}])
}

#[tokio::test]
async fn an_answer_has_anthropics_shape_and_chats_words() {
    let server = TestServer::start().await;
    let chat = server.answer(&json!({"max_tokens": 12})).await;
    let message = answer(&server, &json!({})).await;
    assert!(message["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!(message["type"], "message");
    assert_eq!(message["role"], "assistant");
    assert_eq!(message["model"], MODEL);
    let text = &chat["choices"][0]["message"]["content"];
    assert_eq!(message["content"], json!([{"type": "text", "text": text}]));
    assert_eq!(message["stop_reason"], "max_tokens");
    assert_eq!(message["stop_sequence"], json!(null));
    let usage = &message["usage"];
    assert_eq!(usage["input_tokens"], chat["usage"]["prompt_tokens"]);
    assert_eq!(usage["output_tokens"], 12);

    let stop = text.as_str().unwrap().chars().nth(3).unwrap().to_string();
    let stopped = answer(&server, &json!({"stop_sequences": [stop]})).await;
    assert_eq!(stopped["stop_reason"], "stop_sequence");
    assert_eq!(stopped["stop_sequence"], json!(stop));
}

#[tokio::test]
async fn a_stream_tells_what_the_whole_answer_says() {
    let server = TestServer::start().await;
    let whole = answer(&server, &json!({})).await;
    let events = events(&server, &json!({})).await;
    let names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..3], ["message_start", "ping", "content_block_start"]);
    let last = names.len() - 3;
    assert_eq!(
        names[last..],
        ["content_block_stop", "message_delta", "message_stop"]
    );
    let start = &events[0].1["message"];
    assert_eq!(
        start["usage"]["input_tokens"],
        whole["usage"]["input_tokens"]
    );
    assert_eq!(start["content"], json!([]));
    let text: String = events
        .iter()
        .filter_map(|(_, data)| data["delta"]["text"].as_str())
        .collect();
    assert_eq!(whole["content"][0]["text"], text);
    let end = &events[last + 1].1;
    assert_eq!(end["delta"]["stop_reason"], whole["stop_reason"]);
    assert_eq!(end["usage"], whole["usage"]);
}

#[tokio::test]
async fn calls_are_blocks_whole_and_streamed() {
    let server = calling().await;
    let extra = json!({"tools": tools(), "max_tokens": 200});
    let whole = answer(&server, &extra).await;
    assert_eq!(whole["stop_reason"], "tool_use");
    assert_eq!(whole["content"][0]["type"], "text");
    let call = &whole["content"][1];
    assert_eq!(
        (&call["name"], &call["input"]),
        (&json!("look"), &json!({"at": 1}))
    );

    let events = events(&server, &extra).await;
    let input: String = events
        .iter()
        .filter_map(|(_, data)| data["delta"]["partial_json"].as_str())
        .collect();
    assert_eq!(
        serde_json::from_str::<Value>(&input).unwrap(),
        json!({"at": 1})
    );
    let started = |(name, _): &&(String, Value)| name == "content_block_start";
    assert_eq!(events.iter().filter(started).count(), 2);

    // A model that has no place for tools says so, in this dialect's words.
    let plain = TestServer::start().await;
    let past = json!([{"role": "user", "content": "a"},
        {"role": "assistant", "content": [{"type": "text", "text": "b"},
            {"type": "tool_use", "id": "c", "name": "look", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c"}]}]);
    let response = post(&plain, "/v1/messages", &json!({"messages": past})).await;
    let (status, error) = refusal(response).await;
    assert_eq!(status, 400);
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("`messages[1].content[1]`"), "{message}");
}

#[tokio::test]
async fn tokens_are_counted_as_they_are_used() {
    let server = TestServer::start().await;
    let used = answer(&server, &json!({})).await["usage"]["input_tokens"].clone();
    let response = post(
        &server,
        "/v1/messages/count_tokens",
        &json!({"max_tokens": null}),
    )
    .await;
    assert_eq!(response.status(), 200);
    assert_eq!(json_of(response).await, json!({"input_tokens": used}));
    server.idle().await;
}

#[tokio::test]
async fn every_refusal_has_anthropics_envelope() {
    let keys = ApiKeys::new(["key"]);
    let locked = TestServer::with(Setup {
        config: ServerConfig {
            api_keys: keys,
            ..ServerConfig::default()
        },
        ..Setup::default()
    })
    .await;
    let (status, error) = refusal(post(&locked, "/v1/messages", &json!({})).await).await;
    assert_eq!(
        (status, &error["type"]),
        (401, &json!("authentication_error"))
    );

    let server = TestServer::with(Setup {
        config: ServerConfig {
            max_body_bytes: 500,
            ..ServerConfig::default()
        },
        max_model_len: 64,
        ..Setup::default()
    })
    .await;
    let picture = |data: &str| {
        json!({"messages": [{"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}]}]})
    };
    let long = "x".repeat(600);
    for (extra, expected, kind, named) in [
        (json!({"model": "x"}), 404, "not_found_error", "`x`"),
        (
            json!({"max_tokens": null}),
            400,
            "invalid_request_error",
            "`max_tokens`",
        ),
        (
            json!({"max_tokens": 999}),
            400,
            "invalid_request_error",
            "`max_tokens` of 999",
        ),
        (json!({"system": long}), 413, "request_too_large", "500"),
        (
            picture("AAAA"),
            400,
            "invalid_request_error",
            "`messages[0].content[0].source.data`",
        ),
    ] {
        let response = post(&server, "/v1/messages", &extra).await;
        let (status, error) = refusal(response).await;
        assert_eq!(
            (status, &error["type"]),
            (expected, &json!(kind)),
            "{error}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(named), "{message}");
    }
    let response = server.get("/v1/messages").send().await.unwrap();
    assert_eq!(refusal(response).await.0, 405);
    let url = format!("{}/v1/messages", server.base);
    let response = server.client.post(url).body("{}").send().await.unwrap();
    assert_eq!(refusal(response).await.0, 415);
}
