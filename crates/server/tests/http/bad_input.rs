//! Requests that are refused, beside a good one that is not harmed.

use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::script::{ALPHABET, BOMB, POISON};
use crate::server::{Setup, TestServer, chat_body, error_of};

fn user(content: Value) -> Value {
    let mut message = json!({"role": "user"});
    message["content"] = content;
    json!({ "messages": [message] })
}

/// Runs a good request beside the bad ones that `bad` sends.
async fn unharmed(server: &TestServer, bad: impl Future<Output = ()>) {
    let extra = json!({"n": 4});
    let (good, ()) = futures::join!(server.answer(&extra), bad);
    for choice in good["choices"].as_array().unwrap() {
        assert_eq!(choice["message"]["content"], ALPHABET);
    }
    assert_eq!(server.idle().await.blocks_used, 0);
}

#[tokio::test]
async fn bodies_that_are_no_chat_request() {
    let server = TestServer::start().await;
    let bad = async {
        for body in [
            "",
            "{",
            "hello",
            "[1,",
            "{\"model\": NaN}",
            "{\"model\": \"m\"} x",
        ] {
            let (status, error) = error_of(server.post(body).send().await.unwrap()).await;
            assert_eq!(
                (status, &error["code"]),
                (400, &json!("invalid_json")),
                "{body}"
            );
        }
        for body in ["null", "[]", "7"] {
            let (status, error) = error_of(server.post(body).send().await.unwrap()).await;
            assert_eq!(
                (status, &error["code"]),
                (400, &json!("invalid_type")),
                "{body}"
            );
        }
    };
    unharmed(&server, bad).await;
}

#[tokio::test]
async fn fields_at_fault_are_named() {
    let server = TestServer::start().await;
    let cases = [
        (json!({"messages": []}), "messages"),
        (json!({"messages": "hi"}), "messages"),
        (
            json!({"messages": [{"role": "wizard", "content": "hi"}]}),
            "messages[0].role",
        ),
        (
            user(json!([{"type": "hologram"}])),
            "messages[0].content[0].type",
        ),
        (
            user(json!([{"type": "video_url", "video_url": {"url": "x"}}])),
            "messages[0].content[0].type",
        ),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"max_tokens": 1_000_000_000}), "max_tokens"),
        (json!({"max_tokens": 1e300}), "max_tokens"),
        (
            json!({"max_completion_tokens": 1_000_000}),
            "max_completion_tokens",
        ),
        (json!({"max_tokens": "5"}), "max_tokens"),
        (json!({"n": 0}), "n"),
        (json!({"n": 1000}), "n"),
        (json!({"temperature": -1}), "temperature"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"temperature": "NaN"}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"top_p": 2}), "top_p"),
        (json!({"stream": 1}), "stream"),
        (json!({"logit_bias": {"257": 1}}), "logit_bias"),
        (json!({"stop_token_ids": [100_000]}), "stop_token_ids"),
        (json!({"guided_json": {"not": {}}}), "guided_json"),
        (
            json!({"nvext": {"guided_choice": []}}),
            "nvext.guided_choice",
        ),
        (
            json!({"response_format": {"type": "xml"}}),
            "response_format.type",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
            "tools",
        ),
        (json!({"chat_template": "{{ 1 }}"}), "chat_template"),
    ];
    let bad = async {
        for (extra, param) in &cases {
            let (status, error) = server.refusal(extra).await;
            assert_eq!(status, 400, "{extra}: {error}");
            assert_eq!(error["param"], *param, "{error}");
            assert_eq!(error["type"], "invalid_request_error");
        }
    };
    unharmed(&server, bad).await;
}

#[tokio::test]
async fn a_missing_or_unknown_model() {
    let server = TestServer::start().await;
    let (status, error) = server.refusal(&json!({"model": null})).await;
    assert_eq!((status, &error["param"]), (400, &json!("model")));
    let (status, error) = server.refusal(&json!({"model": "gpt-0"})).await;
    assert_eq!((status, &error["code"]), (404, &json!("model_not_found")));
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("`gpt-0`") && message.contains("`org/alphabet`"),
        "{message}"
    );
}

#[tokio::test]
async fn prompts_longer_than_the_context() {
    let server = TestServer::with(Setup {
        max_model_len: 64,
        ..Setup::default()
    })
    .await;
    for length in [63, 64, 5000] {
        let (status, error) = server.refusal(&user(json!("x".repeat(length)))).await;
        assert_eq!(
            (status, &error["code"]),
            (400, &json!("context_length_exceeded"))
        );
        assert_eq!(error["param"], "messages");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&(length + 1).to_string()), "{message}");
        assert!(message.contains("64"), "{message}");
    }
    let mut request = user(json!("x".repeat(60)));
    request["max_tokens"] = json!(4);
    let (status, error) = server.refusal(&request).await;
    assert_eq!((status, &error["param"]), (400, &json!("max_tokens")));
    request["max_tokens"] = json!(3);
    assert_eq!(server.answer(&request).await["usage"]["total_tokens"], 64);
    let room = server.answer(&user(json!("x".repeat(60)))).await;
    assert_eq!(room["choices"][0]["finish_reason"], "length");
    assert_eq!(room["usage"]["total_tokens"], 64);
}

#[tokio::test]
async fn a_step_that_fails_fails_its_request_alone() {
    let server = TestServer::start().await;
    let (status, error) = server.refusal(&user(json!(POISON))).await;
    assert_eq!((status, &error["type"]), (500, &json!("server_error")));
    assert!(!error["message"].as_str().unwrap().contains("poisoned"));
    assert_eq!(
        server
            .get("/v1/health/ready")
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(
        server.answer(&json!({})).await["usage"]["completion_tokens"],
        27
    );
}

#[tokio::test]
async fn a_processor_that_panics_fails_its_request_alone() {
    let server = TestServer::start().await;
    let bad = async {
        let (status, error) = server.refusal(&user(json!(BOMB))).await;
        assert_eq!((status, &error["code"]), (500, &json!("internal_error")));
    };
    unharmed(&server, bad).await;
}

#[tokio::test]
async fn bodies_beyond_the_limit_and_of_other_types() {
    let mut setup = Setup::default();
    setup.config.max_body_bytes = 1000;
    let server = TestServer::with(setup).await;
    let large = chat_body(&user(json!("x".repeat(2000)))).to_string();
    let declared = server.post(large.clone()).send().await.unwrap();
    let (status, error) = error_of(declared).await;
    assert_eq!((status, &error["code"]), (413, &json!("request_too_large")));
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("1000") && message.contains("--max-body-bytes"),
        "{message}"
    );

    let pieces: Vec<Result<String, std::io::Error>> = large
        .as_bytes()
        .chunks(100)
        .map(|piece| Ok(String::from_utf8_lossy(piece).into()))
        .collect();
    let chunked = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    let (status, _) = error_of(server.post(chunked).send().await.unwrap()).await;
    assert_eq!(status, 413);

    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        let url = format!("{}/v1/chat/completions", server.base);
        let request = server.client.post(url).header(CONTENT_TYPE, content_type);
        let response = request
            .body(chat_body(&json!({})).to_string())
            .send()
            .await
            .unwrap();
        let (status, error) = error_of(response).await;
        assert_eq!(
            (status, &error["code"]),
            (415, &json!("unsupported_content_type"))
        );
    }
    server.answer(&json!({})).await;
}

#[tokio::test]
async fn unknown_routes_and_methods() {
    let server = TestServer::start().await;
    for path in [
        "/",
        "/v1",
        "/v2/chat/completions",
        "/v1/embeddings",
        "/v1/models/x",
        "/v1/models/%ff",
        "/%2e%2e/",
    ] {
        let (status, error) = error_of(server.get(path).send().await.unwrap()).await;
        assert_eq!(
            (status, &error["type"]),
            (404, &json!("not_found_error")),
            "{path}"
        );
    }
    let response = server.get("/v1/chat/completions").send().await.unwrap();
    assert_eq!(response.headers()["allow"], "POST");
    let (status, error) = error_of(response).await;
    assert_eq!(
        (status, &error["code"]),
        (405, &json!("method_not_allowed"))
    );
}
