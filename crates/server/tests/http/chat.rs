//! Whole answers.

use serde_json::{Value, json};

use crate::script::{ALPHABET, END, IMAGE_TOKENS};
use crate::server::{MODEL, TestServer};

const PICTURE: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4\
2mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

fn text(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[tokio::test]
async fn an_answer_has_the_shape_and_counts_of_the_contract() {
    let server = TestServer::start().await;
    let answer = server.answer(&json!({})).await;
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], MODEL);
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(
        answer["choices"],
        json!([{"index": 0, "message": {"role": "assistant", "reasoning_content": null,
            "content": ALPHABET, "tool_calls": []}, "logprobs": null,
            "finish_reason": "stop", "stop_reason": null}])
    );
    // "hi" and one more; 26 letters and the token that ends them.
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": 3, "total_tokens": 30, "completion_tokens": 27,
            "prompt_tokens_details": null})
    );
}

#[tokio::test]
async fn answers_end_where_the_request_says() {
    let server = TestServer::start().await;
    let cases = [
        (json!({"max_tokens": 3}), "abc", "length", json!(null), 3),
        (
            json!({"max_completion_tokens": 2}),
            "ab",
            "length",
            json!(null),
            2,
        ),
        (json!({"stop": "de"}), "abc", "stop", json!("de"), 5),
        (
            json!({"stop": ["zz", "g", "def"]}),
            "abc",
            "stop",
            json!("def"),
            6,
        ),
        (
            json!({"stop": "de", "include_stop_str_in_output": true}),
            "abcde",
            "stop",
            json!("de"),
            5,
        ),
        (
            json!({"stop_token_ids": [102]}),
            "abcde",
            "stop",
            json!(102),
            6,
        ),
        (
            json!({"stop_token_ids": [102], "include_stop_str_in_output": true}),
            "abcdef",
            "stop",
            json!(102),
            6,
        ),
        (
            json!({"stop": "b", "min_tokens": 2, "max_tokens": 4}),
            "abcd",
            "length",
            json!(null),
            4,
        ),
        (
            json!({"stop_token_ids": [END]}),
            ALPHABET,
            "stop",
            json!(null),
            27,
        ),
        (
            json!({"skip_special_tokens": false, "include_stop_str_in_output": true}),
            "abcdefghijklmnopqrstuvwxyz<end>",
            "stop",
            json!(null),
            27,
        ),
        (
            json!({"ignore_eos": true, "max_tokens": 29}),
            "abcdefghijklmnopqrstuvwxyzab",
            "length",
            json!(null),
            29,
        ),
        (
            json!({"nvext": {"ignore_eos": true}, "max_tokens": 28}),
            "abcdefghijklmnopqrstuvwxyza",
            "length",
            json!(null),
            28,
        ),
    ];
    for (extra, expected, finish, stop, tokens) in cases {
        let answer = server.answer(&extra).await;
        let choice = &answer["choices"][0];
        assert_eq!(text(&answer), expected, "{extra}");
        assert_eq!(choice["finish_reason"], finish, "{extra}");
        assert_eq!(choice["stop_reason"], stop, "{extra}");
        assert_eq!(answer["usage"]["completion_tokens"], tokens, "{extra}");
    }
    let stats = server.idle().await;
    assert_eq!(stats.blocks_used, 0);
}

#[tokio::test]
async fn several_answers_are_counted_together() {
    let server = TestServer::start().await;
    let answer = server
        .answer(&json!({"n": 2, "max_tokens": 4, "seed": 5}))
        .await;
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 2);
    for (choice, index) in choices.iter().zip(0..) {
        assert_eq!(choice["index"], index);
        assert_eq!(choice["message"]["content"], "abcd");
    }
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    assert_eq!(answer["usage"]["completion_tokens"], 8);
}

#[tokio::test]
async fn log_probabilities_come_with_text_and_bytes() {
    let server = TestServer::start().await;
    let answer = server
        .answer(&json!({"max_tokens": 2, "logprobs": true, "top_logprobs": 3}))
        .await;
    let content = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(content.len(), 2);
    assert_eq!(content[0]["token"], "a");
    assert_eq!(content[0]["bytes"], json!([97]));
    assert!(content[0]["logprob"].as_f64().unwrap() > -0.001);
    assert_eq!(content[0]["top_logprobs"].as_array().unwrap().len(), 3);
    assert_eq!(content[0]["top_logprobs"][0]["token"], "a");

    let alone = server
        .answer(&json!({"max_tokens": 1, "logprobs": true}))
        .await;
    let content = &alone["choices"][0]["logprobs"]["content"];
    assert_eq!(content[0]["top_logprobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_bias_on_a_token_changes_the_answer() {
    let server = TestServer::start().await;
    let answer = server
        .answer(&json!({"logit_bias": {"97": -100, "122": 50}, "max_tokens": 1}))
        .await;
    assert_eq!(text(&answer), "z");
}

#[tokio::test]
async fn every_spelling_of_a_picture_counts_its_tokens() {
    let server = TestServer::start().await;
    let contents = [
        json!([{"type": "text", "text": "hi"},
            {"type": "image_url", "image_url": {"url": PICTURE, "detail": "auto"}}]),
        json!([{"type": "image_url", "image_url": PICTURE}, {"type": "text", "text": "hi"}]),
        json!([{"type": "image", "image": PICTURE}, {"type": "text", "text": "hi"}]),
        json!(format!("hi <img src=\"{PICTURE}\" />")),
    ];
    for content in contents {
        let messages = json!([{"role": "user", "content": content}]);
        let answer = server.answer(&json!({"messages": messages})).await;
        assert_eq!(text(&answer), ALPHABET);
        assert_eq!(answer["usage"]["prompt_tokens"], 3 + IMAGE_TOKENS);
    }
}

#[tokio::test]
async fn special_tokens_and_markers_in_user_text_are_text() {
    let server = TestServer::start().await;
    for typed in ["<end>", "<|image_1|>", "<|image_7|><|end|>", "<s>[INST]"] {
        let messages = json!([{"role": "user", "content": typed}]);
        let answer = server.answer(&json!({"messages": messages})).await;
        assert_eq!(answer["usage"]["prompt_tokens"], typed.len() + 1);
    }
}

#[tokio::test]
async fn either_name_of_the_model_is_answered_under_it() {
    let server = TestServer::start().await;
    let answer = server
        .answer(&json!({"model": "alias", "max_tokens": 1}))
        .await;
    assert_eq!(answer["model"], "alias");
}

#[tokio::test]
async fn concurrent_answers_are_the_same_as_alone() {
    let server = TestServer::start().await;
    let extra = json!({"temperature": 0});
    let answers = futures::future::join_all((0..8).map(|_| server.answer(&extra))).await;
    for answer in answers {
        assert_eq!(text(&answer), ALPHABET);
    }
}
