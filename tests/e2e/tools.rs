//! Calls of tools by a model whose template carries them: the golden checkpoint of Llama-3.2-Vision.
//!
//! Its weights are random, so what it says where it decides is noise; where it must call, its calls
//! are valid all the same.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{Server, project};

async fn start() -> Server {
    let folder = project().join("tests/golden/mllama");
    let model = folder.to_str().unwrap();
    Server::start(&["--model", model, "--served-model-name", "test"]).await
}

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "city": {"enum": ["Köln", "São Paulo"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14}},
        "required": ["city", "days"], "additionalProperties": false})
}

fn body(extra: &Value) -> Value {
    let mut body = json!({"model": "test", "max_tokens": 200, "temperature": 1.5, "seed": 3,
        "messages": [{"role": "user", "content": "How will the weather be?"}],
        "tools": [
            {"type": "function", "function": {"name": "forecast", "description": "The weather.",
                "parameters": schema(), "strict": true}},
            {"type": "function", "function": {"name": "now"}}]});
    body.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    body
}

async fn whole(server: &Server, extra: &Value) -> Value {
    let response = server.chat(&body(extra)).await;
    let status = response.status();
    let answer: Value = response.json().await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["choices"][0].clone()
}

/// Name, arguments, text and end of a stream.
async fn streamed(server: &Server, extra: &Value) -> [String; 4] {
    let mut request = body(extra);
    request["stream"] = json!(true);
    let response = server.chat(&request).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut parts: [String; 4] = Default::default();
    for line in response.text().await.unwrap().lines() {
        let Some(data) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else {
            continue;
        };
        let chunk: Value = serde_json::from_str(data).unwrap();
        let choice = &chunk["choices"][0];
        let call = &choice["delta"]["tool_calls"][0]["function"];
        let found = [
            &call["name"],
            &call["arguments"],
            &choice["delta"]["content"],
            &choice["finish_reason"],
        ];
        for (part, found) in parts.iter_mut().zip(found) {
            part.push_str(found.as_str().unwrap_or_default());
        }
    }
    parts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_must_be_is_one_and_its_arguments_fit() {
    let server = start().await;
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let named = json!({"type": "function", "function": {"name": "forecast"}});
    for (choice, seed) in [
        (named.clone(), 1),
        (named, 2),
        (json!("required"), 3),
        (json!("required"), 4),
        (json!("required"), 5),
    ] {
        let extra = json!({"tool_choice": choice, "seed": seed});
        let answer = whole(&server, &extra).await;
        assert_eq!(answer["finish_reason"], "tool_calls", "{answer}");
        assert_eq!(answer["message"]["content"], json!(null));
        let [call] = answer["message"]["tool_calls"]
            .as_array()
            .unwrap()
            .as_slice()
        else {
            panic!("{answer}");
        };
        let name = call["function"]["name"].as_str().unwrap();
        let text = call["function"]["arguments"].as_str().unwrap();
        let arguments: Value = serde_json::from_str(text).unwrap();
        match name {
            "forecast" => assert!(validator.is_valid(&arguments), "{text}"),
            _ => assert_eq!((name, &arguments), ("now", &json!({}))),
        }
        let again = streamed(&server, &extra).await;
        assert_eq!(again, [name, text, "", "tool_calls"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_and_its_result_are_part_of_the_next_prompt() {
    let server = start().await;
    let asked = body(&json!({}))["messages"][0].clone();
    let first = whole(&server, &json!({"tool_choice": "required"})).await;
    let call = &first["message"]["tool_calls"][0];
    let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "Rain. <|eot_id|>"});
    let talk = json!([asked, first["message"], result]);
    // The model decides: whatever it says is well formed.
    let next = whole(&server, &json!({"messages": talk, "max_tokens": 8})).await;
    assert!(next["message"]["tool_calls"].is_array(), "{next}");
    let without = json!({"messages": talk, "tool_choice": "none", "max_tokens": 8});
    let next = whole(&server, &without).await;
    assert_eq!(next["message"]["tool_calls"], json!([]));
    assert!(next["message"]["content"].is_string(), "{next}");
}
