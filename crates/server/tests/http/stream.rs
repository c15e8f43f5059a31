//! Answers as server-sent events.

use std::time::Duration;

use reqwest::Response;
use serde_json::{Value, json};

use crate::script::{ALPHABET, POISON};
use crate::server::{Setup, TestServer};

/// The frames of a stream: JSON, and at the end `[DONE]`, which is taken off.
pub(crate) async fn frames(response: Response) -> Vec<Value> {
    let text = response.text().await.unwrap();
    let body = text.strip_suffix("data: [DONE]\n\n").expect("a last frame");
    body.split_terminator("\n\n")
        .filter(|frame| !frame.starts_with(':'))
        .map(|frame| {
            let data = frame.strip_prefix("data: ").expect("one line of data");
            serde_json::from_str(data).unwrap()
        })
        .collect()
}

pub(crate) async fn stream(server: &TestServer, extra: &Value) -> Vec<Value> {
    let mut body = extra.clone();
    body["stream"] = json!(true);
    let response = server.chat(&body).await;
    assert_eq!(response.status(), 200);
    frames(response).await
}

/// The text of one answer of a stream.
fn text(frames: &[Value], index: u64) -> String {
    frames
        .iter()
        .flat_map(|frame| frame["choices"].as_array().unwrap())
        .filter(|choice| choice["index"] == index)
        .filter_map(|choice| choice["delta"]["content"].as_str())
        .collect()
}

fn finishes(frames: &[Value], index: u64) -> Vec<Value> {
    frames
        .iter()
        .flat_map(|frame| frame["choices"].as_array().unwrap())
        .filter(|choice| choice["index"] == index && !choice["finish_reason"].is_null())
        .cloned()
        .collect()
}

#[tokio::test]
async fn headers_keep_proxies_from_collecting_frames() {
    let server = TestServer::start().await;
    let response = server.chat(&json!({"stream": true})).await;
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert!(header("content-type").starts_with("text/event-stream"));
    assert_eq!(header("cache-control"), "no-cache");
    assert_eq!(header("x-accel-buffering"), "no");
}

#[tokio::test]
async fn a_stream_opens_with_the_role_and_ends_with_one_finish_reason() {
    let server = TestServer::start().await;
    let frames = stream(&server, &json!({})).await;
    let (first, rest) = frames.split_first().unwrap();
    assert_eq!(first["object"], "chat.completion.chunk");
    assert_eq!(
        first["choices"],
        json!([{"index": 0, "delta": {"role": "assistant", "content": ""},
            "logprobs": null, "finish_reason": null}])
    );
    let (last, middle) = rest.split_last().unwrap();
    assert_eq!(
        last["choices"],
        json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"}])
    );
    for frame in middle {
        let delta = &frame["choices"][0]["delta"];
        assert!(!delta["content"].as_str().unwrap().is_empty());
        assert!(delta["role"].is_null());
    }
    for frame in &frames {
        assert_eq!(frame["id"], first["id"]);
        assert_eq!(frame["created"], first["created"]);
        assert_eq!(frame["choices"].as_array().unwrap().len(), 1);
        assert!(frame.get("usage").is_none());
    }
    assert_eq!(text(&frames, 0), ALPHABET);
}

#[tokio::test]
async fn streamed_text_equals_the_whole_answer() {
    let server = TestServer::start().await;
    for extra in [
        json!({"stop": "xyz"}),
        json!({"stop": ["lmx", "mno"], "include_stop_str_in_output": true}),
        json!({"max_tokens": 7}),
        json!({"stop_token_ids": [110]}),
    ] {
        let whole = server.answer(&extra).await;
        let choice = &whole["choices"][0];
        let frames = stream(&server, &extra).await;
        assert_eq!(
            text(&frames, 0),
            choice["message"]["content"].as_str().unwrap()
        );
        let finishes = finishes(&frames, 0);
        assert_eq!(finishes.len(), 1);
        assert_eq!(finishes[0]["finish_reason"], choice["finish_reason"]);
        assert_eq!(finishes[0]["stop_reason"], choice["stop_reason"]);
    }
}

#[tokio::test]
async fn usage_comes_in_a_last_chunk_without_choices() {
    let server = TestServer::start().await;
    let frames = stream(&server, &json!({"stream_options": {"include_usage": true}})).await;
    let (last, rest) = frames.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(
        last["usage"],
        json!({"prompt_tokens": 3, "total_tokens": 30, "completion_tokens": 27,
            "prompt_tokens_details": null})
    );
    assert!(rest.iter().all(|frame| frame.get("usage").is_none()));
}

#[tokio::test]
async fn usage_may_come_with_every_chunk() {
    let server = TestServer::start().await;
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let frames = stream(
        &server,
        &json!({"stream_options": options, "max_tokens": 3}),
    )
    .await;
    let counts: Vec<_> = frames
        .iter()
        .map(|frame| frame["usage"]["completion_tokens"].as_u64().unwrap())
        .collect();
    assert_eq!(counts, [0, 1, 2, 3, 3, 3]);
}

#[tokio::test]
async fn several_answers_share_a_stream() {
    let server = TestServer::start().await;
    let frames = stream(&server, &json!({"n": 3, "max_tokens": 5})).await;
    for index in 0..3 {
        assert_eq!(text(&frames, index), "abcde");
        assert_eq!(finishes(&frames, index).len(), 1);
    }
}

#[tokio::test]
async fn every_token_has_its_log_probability_somewhere() {
    let server = TestServer::start().await;
    let extra = json!({"logprobs": true, "top_logprobs": 0, "stop": "ef"});
    let frames = stream(&server, &extra).await;
    let tokens: String = frames
        .iter()
        .filter_map(|frame| frame["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .map(|entry| entry["token"].as_str().unwrap())
        .collect();
    assert_eq!(tokens, "abcdef");
    assert_eq!(text(&frames, 0), "abcd");
}

#[tokio::test]
async fn an_error_in_mid_stream_is_a_frame_of_its_own() {
    let server = TestServer::start().await;
    let messages = json!([{"role": "user", "content": POISON}]);
    let frames = stream(&server, &json!({"messages": messages})).await;
    let error = &frames.last().unwrap()["error"];
    assert_eq!(error["object"], "error");
    assert_eq!(error["code"], "internal_error");
    assert!(error["message"].as_str().unwrap().contains("failed"));
    assert_eq!(server.idle().await.blocks_used, 0);
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_frees_its_blocks() {
    let server = TestServer::with(Setup {
        pace: Duration::from_millis(5),
        ..Setup::default()
    })
    .await;
    let mut response = server
        .chat(&json!({"stream": true, "ignore_eos": true}))
        .await;
    while !String::from_utf8_lossy(&response.chunk().await.unwrap().unwrap()).contains("\"b\"") {}
    assert!(server.engine().stats().blocks_used > 0);
    drop(response);
    let stats = server.idle().await;
    assert_eq!((stats.cancelled, stats.finished_length), (1, 0));
    assert_eq!(stats.blocks_used, 0);
}

/// A tag may follow that changes what was said before it, so the text comes as a whole.
#[tokio::test]
async fn answers_that_point_come_whole_with_their_entities() {
    let server = TestServer::with(Setup {
        points: true,
        ..Setup::default()
    })
    .await;
    let upper = ALPHABET.to_uppercase();
    let entities = json!([{"phrase": "abc", "substring": [0, 2],
        "bboxes": [[0.25, 0.0, 1.0, 0.5]]}]);
    let answer = server.answer(&json!({})).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], upper);
    assert_eq!(message["entities"], entities);

    let frames = stream(&server, &json!({"logprobs": true})).await;
    assert_eq!(text(&frames, 0), upper);
    let last = &finishes(&frames, 0)[0];
    assert_eq!(last["delta"], json!({"entities": entities}));
    let logprobs = frames
        .iter()
        .filter_map(|frame| frame["choices"][0]["logprobs"]["content"].as_array())
        .map(Vec::len);
    assert_eq!(logprobs.sum::<usize>(), 27);

    // As the model wrote it.
    let raw = json!({"skip_special_tokens": false});
    let answer = server.answer(&raw).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], ALPHABET);
    assert!(message.get("entities").is_none());
    let frames = stream(&server, &raw).await;
    assert_eq!(text(&frames, 0), ALPHABET);
    assert!(frames.len() > 20, "letter by letter");
}
