//! Streaming, company, and clients that go away.

use std::time::{Duration, Instant};

use futures::StreamExt;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{PATIENCE, Server, golden_checkpoint, png, request};

async fn start() -> Server {
    let checkpoint = golden_checkpoint();
    Server::start(&[
        "--model",
        checkpoint.to_str().unwrap(),
        "--served-model-name",
        "test",
    ])
    .await
}

/// The chunks of a streamed answer, without the closing `[DONE]`, which must be there.
async fn stream(server: &Server, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["stream"] = json!(true);
    let response = server.chat(&body).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(
        response.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/event-stream")
    );
    let text = response.text().await.unwrap();
    let mut frames: Vec<_> = text
        .split("\n\n")
        .filter_map(|frame| frame.strip_prefix("data: "))
        .collect();
    assert_eq!(frames.pop(), Some("[DONE]"), "{text}");
    frames
        .iter()
        .map(|frame| serde_json::from_str(frame).unwrap())
        .collect()
}

fn text_of(chunks: &[Value]) -> String {
    chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect()
}

/// Requests of unequal length, with and without pictures.
fn assorted(count: usize) -> Vec<Value> {
    let images = golden_checkpoint().join("images");
    let pictures = [
        None,
        Some("a_97x41.png"),
        Some("g_square_56.png"),
        Some("e_gray_120x80.png"),
    ];
    (0..count)
        .map(|i| {
            let urls: Vec<_> = pictures[i % pictures.len()]
                .iter()
                .map(|name| png(&images.join(name)))
                .collect();
            let mut body = request(&urls, &"Tell me more. ".repeat(1 + i));
            body["max_tokens"] = json!(12 + i);
            body["ignore_eos"] = json!(true);
            body
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_streams_at_once_say_what_each_says_alone() {
    let server = start().await;
    let requests = assorted(8);
    let mut alone = Vec::new();
    for body in &requests {
        let whole = server.text(body).await;
        assert!(!whole.is_empty());
        alone.push(whole);
    }
    let together =
        futures::future::join_all(requests.iter().map(|body| stream(&server, body))).await;
    for (chunks, alone) in together.iter().zip(&alone) {
        assert_eq!(&text_of(chunks), alone);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_the_form_that_clients_expect() {
    let server = start().await;
    let mut body = assorted(2).remove(1);
    body["stream_options"] = json!({"include_usage": true});
    let chunks = stream(&server, &body).await;
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks[0]["choices"][0]["delta"]["content"], "");
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 13);
    let finishes: Vec<_> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["finish_reason"].as_str())
        .collect();
    assert_eq!(finishes, ["length"]);
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["id"], chunks[0]["id"]);
    }
}

async fn until_blocks_are(server: &Server, wanted: impl Fn(f64) -> bool) {
    let begin = Instant::now();
    while !wanted(server.metric("vlmd:kv_blocks_used").await) {
        assert!(begin.elapsed() < PATIENCE, "blocks do not change");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_frees_its_blocks() {
    let server = start().await;
    for streamed in [true, false] {
        let mut body = request(&[], "Tell me everything.");
        body["max_tokens"] = json!(3000);
        body["ignore_eos"] = json!(true);
        body["stream"] = json!(streamed);
        let call = server
            .http
            .post(format!("{}/v1/chat/completions", server.url))
            .json(&body)
            .send();
        if streamed {
            let mut chunks = call.await.unwrap().bytes_stream();
            chunks.next().await.unwrap().unwrap();
            until_blocks_are(&server, |used| used > 0.0).await;
            drop(chunks);
        } else {
            let call = tokio::spawn(call);
            until_blocks_are(&server, |used| used > 0.0).await;
            call.abort();
        }
        let generated = server.metric("vllm:generation_tokens_total").await;
        until_blocks_are(&server, |used| used == 0.0).await;
        let wasted = server.metric("vllm:generation_tokens_total").await - generated;
        assert!(wasted < 1000.0, "{wasted} tokens were made for nobody");
    }
    assert!(server.metric("vlmd:requests_cancelled_total").await >= 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_strings_end_the_answer_before_them() {
    let server = start().await;
    let mut body = assorted(1).remove(0);
    let whole = server.text(&body).await;
    let from = whole
        .char_indices()
        .nth(whole.chars().count() / 2)
        .unwrap()
        .0;
    let stop: String = whole[from..].chars().take(3).collect();
    body["stop"] = json!([stop]);
    let expected = &whole[..whole.find(&stop).unwrap()];
    assert_eq!(server.text(&body).await, expected);
    assert_eq!(text_of(&stream(&server, &body).await), expected);
    body["include_stop_str_in_output"] = json!(true);
    assert_eq!(server.text(&body).await, format!("{expected}{stop}"));
}
