//! Start, readiness, keys, and an orderly end.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{PATIENCE, Server, golden_checkpoint, request, vlmd};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_guards_everything_but_health() {
    let server = Server::start(&["--api-key", "right,also-right"]).await;
    let status = async |path: &str, key: Option<&str>| {
        let mut call = server.http.get(format!("{}{path}", server.url));
        if let Some(key) = key {
            call = call.bearer_auth(key);
        }
        call.send().await.unwrap().status()
    };
    for path in [
        "/v1/models",
        "/metrics",
        "/openapi.json",
        "//v1/models",
        "/v1/models/",
    ] {
        assert_eq!(status(path, None).await, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(
            status(path, Some("wrong")).await,
            StatusCode::UNAUTHORIZED,
            "{path}"
        );
    }
    for key in ["right", "also-right"] {
        assert_eq!(status("/v1/models", Some(key)).await, StatusCode::OK);
    }
    assert_eq!(status("/v1/health/live", None).await, StatusCode::OK);
    assert_eq!(status("/v1/health/ready", None).await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_running_answers_finish() {
    let checkpoint = golden_checkpoint();
    let mut server = Server::start(&[
        "--model",
        checkpoint.to_str().unwrap(),
        "--served-model-name",
        "test",
    ])
    .await;
    let mut body = request(&[], "Count.");
    body["max_tokens"] = json!(200);
    body["ignore_eos"] = json!(true);
    let call = server
        .http
        .post(format!("{}/v1/chat/completions", server.url))
        .json(&body)
        .send();
    let call = tokio::spawn(call);
    let begin = Instant::now();
    while server.metric("vllm:num_requests_running").await == 0.0 {
        assert!(
            begin.elapsed() < PATIENCE && !call.is_finished(),
            "the request does not run"
        );
    }
    server.terminate();
    let answer: Value = call.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(answer["usage"]["completion_tokens"], 200);
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = server.child.try_wait().unwrap() {
            break status;
        }
        assert!(begin.elapsed() < PATIENCE, "the server does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_describes_itself() {
    let server = Server::start(&["--served-model-name", "first,second"]).await;
    let models: Value = server.get("/v1/models").await.json().await.unwrap();
    let ids: Vec<_> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| &model["id"])
        .collect();
    assert_eq!(ids, ["first", "second"]);
    for model in models["data"].as_array().unwrap() {
        assert_eq!(model["root"], model["id"]);
        assert!(model["max_model_len"].as_u64().unwrap() > 0);
    }
    let document: Value = server.get("/openapi.json").await.json().await.unwrap();
    assert!(document["paths"]["/v1/chat/completions"]["post"].is_object());
    assert!(
        server
            .get("/docs")
            .await
            .text()
            .await
            .unwrap()
            .contains("<html")
    );
    for name in ["first", "second"] {
        let body = json!({"model": name, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]});
        assert_eq!(server.chat(&body).await.status(), StatusCode::OK);
    }
}

#[test]
fn a_checkpoint_that_cannot_be_served_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let fails = |model: &str| {
        let output = vlmd()
            .args([
                "serve",
                "--host",
                "127.0.0.1",
                "--port",
                "0",
                "--model",
                model,
            ])
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", folder.path())
            .output()
            .unwrap();
        assert!(!output.status.success(), "{model}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!text.contains("panicked"), "{text}");
        text
    };
    let path = folder.path().to_str().unwrap();
    assert!(fails(path).contains("config.json"));
    std::fs::write(
        folder.path().join("config.json"),
        r#"{"model_type": "enigma"}"#,
    )
    .unwrap();
    assert!(fails(path).contains("enigma"));
    assert!(fails("microsoft/phi-3.5-vision-instruct").contains("HF_HUB_OFFLINE"));
}

#[test]
fn the_catalog_is_listed() {
    let output = vlmd().arg("models").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for name in [
        "vlmd/tiny",
        "microsoft/phi-3.5-vision-instruct",
        "microsoft/phi-3-vision-128k-instruct",
    ] {
        assert!(text.contains(name), "{text}");
    }
}
