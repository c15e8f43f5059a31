//! How requests are served among others, and what is told of their prompts.

use std::time::Duration;

use serde_json::{Value, json};

use crate::server::{Setup, TestServer, error_of};

fn slow(seats: usize) -> Setup {
    Setup {
        max_num_seqs: seats,
        pace: Duration::from_millis(5),
        ..Setup::default()
    }
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_a_504_and_frees_its_place() {
    let mut setup = slow(4);
    setup.config.request_timeout = Some(Duration::from_millis(100));
    let server = TestServer::with(setup).await;
    let (status, error) = server
        .refusal(&json!({"ignore_eos": true, "max_tokens": 2000}))
        .await;
    assert_eq!((status, &error["code"]), (504, &json!("request_timeout")));
    assert_eq!(server.idle().await.timed_out, 1);

    // A stream has begun: its last frame is the error.
    let body = json!({"ignore_eos": true, "max_tokens": 2000, "stream": true});
    let response = server.chat(&body).await;
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    let frames: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let [.., error, done] = frames[..] else {
        panic!("{text}");
    };
    assert_eq!(done, "data: [DONE]");
    let error: Value = serde_json::from_str(error.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error["error"]["object"], "error");
    assert_eq!(error["error"]["code"], "request_timeout");
    server.idle().await;
}

#[tokio::test]
async fn a_request_that_waits_too_long_is_a_503_that_says_when_to_come_back() {
    let mut setup = slow(1);
    setup.config.queue_timeout = Some(Duration::from_millis(50));
    let server = TestServer::with(setup).await;
    let body = json!({"ignore_eos": true, "max_tokens": 200});
    let (first, second) = tokio::join!(server.chat(&body), async {
        server.busy(1).await;
        server.chat(&body).await
    });
    assert_eq!(first.status(), 200);
    assert_eq!(second.headers()["retry-after"], "1");
    let (status, error) = error_of(second).await;
    assert_eq!((status, &error["code"]), (503, &json!("queue_timeout")));
    server.idle().await;
}

#[tokio::test]
async fn the_prompts_probabilities_come_with_ranks_and_texts() {
    let server = TestServer::start().await;
    let answer = server
        .answer(&json!({"prompt_logprobs": 2, "max_tokens": 1, "n": 2}))
        .await;
    let tokens = answer["usage"]["prompt_tokens"].as_u64().unwrap() as usize;
    let scores = answer["prompt_logprobs"].as_array().unwrap();
    assert_eq!(scores.len(), tokens);
    assert_eq!(scores[0], Value::Null);
    for score in &scores[1..] {
        let entries = score.as_object().unwrap();
        // The best two, and the token itself unless it is one of them.
        assert!((2..=3).contains(&entries.len()), "{score}");
        for (id, entry) in entries {
            assert!(id.parse::<u32>().is_ok());
            assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
            assert!(entry["rank"].as_u64().unwrap() >= 1);
            assert!(entry["decoded_token"].is_string());
        }
    }
    let without = server.answer(&json!({"max_tokens": 1})).await;
    assert_eq!(without["prompt_logprobs"], Value::Null);

    for (body, param) in [
        (json!({"prompt_logprobs": 21}), "prompt_logprobs"),
        (
            json!({"prompt_logprobs": 1, "stream": true}),
            "prompt_logprobs",
        ),
        (json!({"priority": 1001}), "priority"),
        (json!({"priority": "high"}), "priority"),
    ] {
        let (status, error) = server.refusal(&body).await;
        assert_eq!((status, &error["param"]), (400, &json!(param)), "{body}");
    }
}

#[tokio::test]
async fn a_search_gives_its_answers_best_first() {
    let server = TestServer::start().await;
    let body = json!({"use_beam_search": true, "n": 2, "best_of": 2, "max_tokens": 4,
        "ignore_eos": true, "length_penalty": 1.0});
    let answer = server.answer(&body).await;
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 2);
    let greedy = server
        .answer(&json!({"temperature": 0, "max_tokens": 4, "ignore_eos": true}))
        .await;
    // The scripted model is sure of the next letter.
    let text = |choice: &Value| choice["message"]["content"].clone();
    assert_eq!(text(&choices[0]), text(&greedy["choices"][0]));
    assert_ne!(text(&choices[0]), text(&choices[1]));
    assert_eq!(choices[1]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 8);
    server.idle().await;
}
