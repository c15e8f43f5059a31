//! Routes that show what the model would read.

use serde_json::{Value, json};

use crate::server::{MODEL, TestServer, chat_body, error_of, json_of};

const PICTURE: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4\
2mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

fn seen() -> Value {
    json!({"messages": [{"role": "user", "content": [
        {"type": "text", "text": "hi"},
        {"type": "image_url", "image_url": {"url": PICTURE}},
    ]}]})
}

#[tokio::test]
async fn a_text_is_tokenised_and_comes_back() {
    let server = TestServer::start().await;
    for route in ["/tokenize", "/v1/tokenize"] {
        let response = server.ask(route, &json!({"prompt": "hi<end>"})).await;
        assert_eq!(
            json_of(response).await,
            json!({"count": 3, "max_model_len": 4096, "tokens": [104, 105, 256],
                "token_strs": null})
        );
    }
    let spelled = json!({"model": MODEL, "prompt": "h ", "return_token_strs": true});
    let spelled = json_of(server.ask("/tokenize", &spelled).await).await;
    assert_eq!(spelled["token_strs"], json!(["h", "Ġ"]));
    let empty = json_of(server.ask("/tokenize", &json!({"prompt": ""})).await).await;
    assert_eq!((&empty["count"], &empty["tokens"]), (&json!(0), &json!([])));
    for route in ["/detokenize", "/v1/detokenize"] {
        let tokens = json!({"model": MODEL, "tokens": [104, 105, 256]});
        let response = server.ask(route, &tokens).await;
        assert_eq!(json_of(response).await, json!({"prompt": "hi<end>"}));
    }
}

#[tokio::test]
async fn a_conversation_is_tokenised_with_its_pictures() {
    let server = TestServer::start().await;
    let response = server.ask("/tokenize", &seen()).await;
    assert_eq!(
        json_of(response).await["tokens"],
        json!([104, 105, 0, 0, 0x60])
    );
    let stats = server.engine().stats();
    assert_eq!((stats.running, stats.waiting), (0, 0));
}

#[tokio::test]
async fn what_cannot_be_shown_is_refused() {
    let server = TestServer::start().await;
    let broken = json!({"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]});
    for (route, body, status, param) in [
        ("/tokenize", json!({}), 400, "prompt"),
        (
            "/tokenize",
            json!({"prompt": "a", "model": "x"}),
            404,
            "model",
        ),
        (
            "/tokenize",
            broken.clone(),
            400,
            "messages[0].content[0].image_url.url",
        ),
        ("/detokenize", json!({"tokens": [1, 257]}), 400, "tokens[1]"),
        (
            "/detokenize",
            json!({"tokens": [1], "model": "x"}),
            404,
            "model",
        ),
        (
            "/v1/chat/completions/render",
            json!({"model": "x", "messages": [{"role": "user", "content": "a"}]}),
            404,
            "model",
        ),
        (
            "/v1/chat/completions/render",
            chat_body(&broken),
            400,
            "messages[0].content[0].image_url.url",
        ),
        (
            "/v1/chat/completions/render",
            chat_body(&json!({"tools": [{"type": "function", "function": {"name": "f"}}]})),
            400,
            "tools",
        ),
        (
            "/v1/completions/render",
            json!({"model": MODEL}),
            400,
            "prompt",
        ),
        (
            "/v1/completions/render",
            json!({"model": MODEL, "prompt": [[300]]}),
            400,
            "prompt[0]",
        ),
    ] {
        let (got, error) = error_of(server.ask(route, &body).await).await;
        assert_eq!(got, status, "{route} {body}: {error}");
        assert_eq!(error["param"], param, "{route} {body}: {error}");
    }
}

#[tokio::test]
async fn prompts_are_rendered_without_the_model() {
    let server = TestServer::start().await;
    let chat = server
        .ask("/v1/chat/completions/render", &chat_body(&seen()))
        .await;
    let chat = json_of(chat).await;
    assert!(
        chat["request_id"]
            .as_str()
            .unwrap()
            .starts_with("chatcmpl-")
    );
    assert_eq!(chat["model"], MODEL);
    assert_eq!(chat["token_ids"], json!([104, 105, 0, 0, 0x60]));
    let features = &chat["features"];
    assert_eq!(
        features["mm_placeholders"],
        json!({"image": [{"offset": 2, "length": 2}]})
    );
    assert_eq!(
        features["mm_hashes"]["image"][0].as_str().unwrap().len(),
        64
    );
    let texts = json!({"model": MODEL, "prompt": ["hi", [104]]});
    let texts = json_of(server.ask("/v1/completions/render", &texts).await).await;
    assert!(
        texts[0]["request_id"]
            .as_str()
            .unwrap()
            .starts_with("cmpl-")
    );
    assert_eq!(
        (&texts[0]["prompt"], &texts[0]["token_ids"]),
        (&json!("hi"), &json!([104, 105]))
    );
    assert_eq!(
        (&texts[1]["prompt"], &texts[1]["token_ids"]),
        (&json!(null), &json!([104]))
    );
    assert_eq!(texts[1]["features"], json!(null));
    assert_eq!(texts.as_array().unwrap().len(), 2);
    // Nothing was asked of the engine.
    let metrics = server
        .get("/metrics")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let prompts = metrics
        .lines()
        .find(|line| line.starts_with("vllm:prompt_tokens_total"));
    assert!(prompts.unwrap().ends_with(" 0"), "{prompts:?}");
}
