//! Anthropic's Messages and OpenAI's Responses: the same model, the same answers.

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{Server, png, project, request};

/// A picture and a question of the embedded model's training, with its answer.
fn example() -> (String, String, String) {
    let folder = project().join("models/tiny/examples");
    let examples: Value =
        serde_json::from_slice(&std::fs::read(folder.join("examples.json")).unwrap()).unwrap();
    let text = |name: &str| examples[0][name].as_str().unwrap().to_owned();
    let picture = png(&folder.join(text("image")));
    (picture, text("question"), text("answer"))
}

async fn post(server: &Server, path: &str, body: &Value) -> Response {
    let request = server.http.post(format!("{}{path}", server.url));
    let request = request.header("content-type", "application/json");
    request.body(body.to_string()).send().await.unwrap()
}

async fn answered(server: &Server, path: &str, body: &Value) -> Value {
    let response = post(server, path, body).await;
    let status = response.status();
    let answer: Value = response.json().await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

/// The data of a stream's events.
async fn events(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["stream"] = json!(true);
    let response = post(server, path, &body).await;
    assert_eq!(response.status(), StatusCode::OK);
    let text = response.text().await.unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

/// All of one field of the events put together.
fn joined(events: &[Value], pointer: &str) -> String {
    let pieces = events.iter().filter_map(|event| event.pointer(pointer));
    pieces.filter_map(Value::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_answer_what_chat_answers() {
    let server = Server::start(&["--served-model-name", "test"]).await;
    let (picture, question, expected) = example();
    let chat = server
        .chat(&request(std::slice::from_ref(&picture), &question))
        .await;
    let chat: Value = chat.json().await.unwrap();
    let (_, data) = picture.split_once("base64,").unwrap();
    let source = json!({"type": "base64", "media_type": "image/png", "data": data});
    let said = json!([{"type": "image", "source": source}, {"type": "text", "text": question}]);
    let body = json!({"model": "test", "max_tokens": 64, "temperature": 0,
        "messages": [{"role": "user", "content": said}]});

    let message = answered(&server, "/v1/messages", &body).await;
    assert_eq!(message["content"][0]["text"], expected);
    assert_eq!(message["stop_reason"], "end_turn");
    let usage = &message["usage"];
    assert_eq!(usage["input_tokens"], chat["usage"]["prompt_tokens"]);
    assert_eq!(usage["output_tokens"], chat["usage"]["completion_tokens"]);
    let count = answered(&server, "/v1/messages/count_tokens", &body).await;
    assert_eq!(count["input_tokens"], usage["input_tokens"]);

    // From a beginning that it would have written itself, the answer is the rest.
    let (at, _) = expected.match_indices(' ').nth(1).unwrap();
    let (begun, rest) = expected.split_at(at);
    let mut prefilled = body.clone();
    let messages = prefilled["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": begun}));
    let message = answered(&server, "/v1/messages", &prefilled).await;
    assert_eq!(message["content"][0]["text"], rest);

    let told = events(&server, "/v1/messages", &body).await;
    assert_eq!(joined(&told, "/delta/text"), expected);
    assert_eq!(told.last().unwrap()["type"], "message_stop");

    let mut broken = body.clone();
    broken["messages"][0]["content"][0]["source"]["data"] = json!("iVBORw0KGgo=");
    let refused = post(&server, "/v1/messages", &broken).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let refused: Value = refused.json().await.unwrap();
    assert_eq!(refused["error"]["type"], "invalid_request_error");
    let message = refused["error"]["message"].as_str().unwrap();
    let field = "`messages[0].content[0].source.data`";
    assert!(message.starts_with(field), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_answer_what_chat_answers_and_go_on() {
    let server = Server::start(&["--served-model-name", "test"]).await;
    let (picture, question, expected) = example();
    let said = json!([{"type": "input_image", "image_url": picture},
        {"type": "input_text", "text": question}]);
    let body = json!({"model": "test", "temperature": 0,
        "input": [{"role": "user", "content": said}]});

    let response = answered(&server, "/v1/responses", &body).await;
    let text = |response: &Value| response["output"][0]["content"][0]["text"].clone();
    assert_eq!(text(&response), expected);
    assert_eq!(response["status"], "completed");
    let id = response["id"].as_str().unwrap();
    let kept: Value = server
        .get(&format!("/v1/responses/{id}"))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(kept, response);

    let told = events(&server, "/v1/responses", &body).await;
    let deltas: Vec<Value> = told
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .cloned()
        .collect();
    assert_eq!(joined(&deltas, "/delta"), expected);
    assert_eq!(told.last().unwrap()["type"], "response.completed");

    // Going on, the picture included, is the same as saying everything again.
    let next = json!({"model": "test", "temperature": 0, "input": "And now?",
        "previous_response_id": id});
    let next = answered(&server, "/v1/responses", &next).await;
    let mut talk = body["input"].as_array().unwrap().clone();
    talk.push(response["output"][0].clone());
    talk.push(json!({"role": "user", "content": "And now?"}));
    let at_once = json!({"model": "test", "temperature": 0, "input": talk});
    let at_once = answered(&server, "/v1/responses", &at_once).await;
    assert_eq!(text(&next), text(&at_once));
    let tokens = |response: &Value| response["usage"]["input_tokens"].clone();
    assert_eq!(tokens(&next), tokens(&at_once));
    assert_ne!(tokens(&next), tokens(&response));

    let begun = json!({"model": "test", "input": "Hello", "background": true});
    let begun = answered(&server, "/v1/responses", &begun).await;
    let path = format!("/v1/responses/{}", begun["id"].as_str().unwrap());
    loop {
        let now: Value = server.get(&path).await.json().await.unwrap();
        if now["status"] != "in_progress" {
            assert_eq!(now["status"], "completed", "{now}");
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_where_that_is_switched_off() {
    let arguments = ["--served-model-name", "test", "--responses-store", "0"];
    let server = Server::start(&arguments).await;
    let body = json!({"model": "test", "input": "Hello"});
    let response = answered(&server, "/v1/responses", &body).await;
    assert_eq!(response["store"], false);
    let path = format!("/v1/responses/{}", response["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_must_be_are_made_in_both() {
    let folder = project().join("tests/golden/mllama");
    let model = folder.to_str().unwrap();
    let server = Server::start(&["--model", model, "--served-model-name", "test"]).await;
    let schema = json!({"type": "object", "properties": {"city": {"enum": ["Köln", "Porto"]}},
        "required": ["city"], "additionalProperties": false});
    let tool = json!({"name": "forecast", "input_schema": schema});
    let body = json!({"model": "test", "max_tokens": 200, "seed": 3, "tools": [tool],
        "messages": [{"role": "user", "content": "Rain?"}], "tool_choice": {"type": "any"}});
    let message = answered(&server, "/v1/messages", &body).await;
    assert_eq!(message["stop_reason"], "tool_use");
    let call = &message["content"][0];
    assert_eq!(call["type"], "tool_use");
    let city = call["input"]["city"].as_str().unwrap();
    assert!(["Köln", "Porto"].contains(&city), "{call}");
    let told = events(&server, "/v1/messages", &body).await;
    let input: Value = serde_json::from_str(&joined(&told, "/delta/partial_json")).unwrap();
    assert_eq!(&input, &call["input"]);

    let result = json!([{"type": "tool_result", "tool_use_id": call["id"], "content": "Rain."}]);
    let mut next = body.clone();
    next["messages"] = json!([body["messages"][0],
        {"role": "assistant", "content": message["content"]}, {"role": "user", "content": result}]);
    next["tool_choice"] = json!({"type": "none"});
    next["max_tokens"] = json!(4);
    let next = answered(&server, "/v1/messages", &next).await;
    assert_eq!(next["content"][0]["type"], "text");

    let tool = json!({"type": "function", "name": "forecast", "parameters": schema});
    let body = json!({"model": "test", "max_output_tokens": 200, "seed": 3, "tools": [tool],
        "input": "Rain?", "tool_choice": "required"});
    let response = answered(&server, "/v1/responses", &body).await;
    let item = &response["output"][0];
    assert_eq!(
        (&item["type"], &item["name"]),
        (&json!("function_call"), &json!("forecast"))
    );
    let arguments: Value = serde_json::from_str(item["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, call["input"], "the same seed");
}
