//! Keys with limits, from a file that changes.

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::Response;
use serde_json::{Value, json};
use vlmd_server::ApiKeys;

use crate::server::{Setup, TestServer, chat_body, error_of};

/// Two teams with limits, two that share a cache, and one that does not.
const KEYS: &str = r#"
[[keys]]
name = "quick"
key = "nvapi-quick_0-1"
requests_per_minute = 3

[[keys]]
name = "narrow"
key = "narrow-key"
concurrent_requests = 1

[[keys]]
name = "left"
key = "left-key"
cache_salt = "pair"

[[keys]]
name = "right"
key = "right-key"
cache_salt = "pair"

[[keys]]
name = "alone"
key = "alone-key"
"#;

async fn start(path: &Path, change: impl FnOnce(&mut Setup)) -> TestServer {
    let mut setup = Setup::default();
    change(&mut setup);
    setup.config.api_keys = ApiKeys::new(["flag-key"]).with_file(path).unwrap();
    TestServer::with(setup).await
}

async fn ask(server: &TestServer, key: &str, extra: &Value) -> Response {
    let body = chat_body(extra).to_string();
    let request = server.post(body).bearer_auth(key);
    request.send().await.unwrap()
}

fn header(response: &Response, name: &str) -> u32 {
    let value = response.headers()[name].to_str().unwrap();
    value.trim_end_matches('s').parse().unwrap()
}

#[tokio::test]
async fn a_rate_is_told_and_held() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    std::fs::write(&path, KEYS).unwrap();
    let server = start(&path, |_| {}).await;
    let key = "nvapi-quick_0-1";
    for remaining in (0..3).rev() {
        let response = ask(&server, key, &json!({"max_tokens": 1})).await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "x-ratelimit-limit-requests"), 3);
        assert_eq!(
            header(&response, "x-ratelimit-remaining-requests"),
            remaining
        );
    }
    let response = ask(&server, key, &json!({})).await;
    assert_eq!(header(&response, "x-ratelimit-remaining-requests"), 0);
    assert!((1..=60).contains(&header(&response, "x-ratelimit-reset-requests")));
    assert!((1..=20).contains(&header(&response, "retry-after")));
    let (status, error) = error_of(response).await;
    assert_eq!(
        (status, &error["code"], &error["type"]),
        (
            429,
            &json!("rate_limit_exceeded"),
            &json!("rate_limit_error")
        )
    );
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("3 requests a minute")
    );
    // What only looks is free, and others are not affected.
    let models = server.get("/v1/models").bearer_auth(key);
    assert_eq!(models.send().await.unwrap().status(), 200);
    for other in ["alone-key", "flag-key"] {
        let response = ask(&server, other, &json!({"max_tokens": 1})).await;
        assert_eq!(response.status(), 200, "{other}");
        assert!(
            !response
                .headers()
                .contains_key("x-ratelimit-limit-requests")
        );
    }
    let metrics = server.get("/metrics").bearer_auth("alone-key");
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    for line in [
        "vlmd:key_requests_total{key=\"quick\"} 3",
        "vlmd:key_requests_limited_total{key=\"quick\"} 1",
        "vlmd:key_requests_running{key=\"quick\"} 0",
        "vlmd:key_requests_total{key=\"key-1\"} 1",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}\n{metrics}"
        );
    }
    assert!(!metrics.contains("nvapi-") && !metrics.contains("-key\""));
}

#[tokio::test]
async fn a_request_is_under_way_until_its_answer_has_been_read_or_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    std::fs::write(&path, KEYS).unwrap();
    let server = start(&path, |setup| setup.pace = Duration::from_millis(5)).await;
    let endless = json!({"stream": true, "ignore_eos": true});
    let streaming = ask(&server, "narrow-key", &endless).await;
    assert_eq!(streaming.status(), 200);
    let refused = ask(&server, "narrow-key", &json!({})).await;
    assert_eq!(header(&refused, "retry-after"), 1);
    let (status, error) = error_of(refused).await;
    assert_eq!(
        (status, &error["code"]),
        (429, &json!("concurrency_limit_exceeded"))
    );
    assert_eq!(
        ask(&server, "alone-key", &json!({"max_tokens": 1}))
            .await
            .status(),
        200
    );
    drop(streaming);
    server.idle().await;
    let begin = Instant::now();
    while ask(&server, "narrow-key", &json!({"max_tokens": 1}))
        .await
        .status()
        == 429
    {
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "the place is lost"
        );
    }
    // A whole answer gives its place back, too.
    for _ in 0..3 {
        let response = ask(&server, "narrow-key", &json!({"max_tokens": 1})).await;
        assert_eq!(response.status(), 200);
        response.bytes().await.unwrap();
    }
}

#[tokio::test]
async fn keys_with_the_same_salt_share_a_cache_and_others_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    std::fs::write(&path, KEYS).unwrap();
    let server = start(&path, |setup| setup.config.prompt_tokens_details = true).await;
    let long = json!({"max_tokens": 1,
        "messages": [{"role": "user", "content": "a long question. ".repeat(20)}]});
    let cached = async |key: &str| {
        let answer: Value = ask(&server, key, &long)
            .await
            .text()
            .await
            .map(|text| serde_json::from_str(&text).unwrap())
            .unwrap();
        answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .unwrap_or_else(|| panic!("{answer}"))
    };
    assert_eq!(cached("left-key").await, 0);
    assert!(cached("right-key").await > 0);
    assert_eq!(cached("alone-key").await, 0);
    assert_eq!(cached("flag-key").await, 0);
    assert!(cached("alone-key").await > 0);
}

async fn status_becomes(server: &TestServer, key: &str, wanted: u16) {
    let begin = Instant::now();
    loop {
        let models = server.get("/v1/models").bearer_auth(key);
        if models.send().await.unwrap().status() == wanted {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{key} stays");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_changed_file_changes_the_keys_and_a_broken_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, "first:one-key\nsecond:two-key\n").unwrap();
    let server = start(&path, |_| {}).await;
    status_becomes(&server, "one-key", 200).await;
    status_becomes(&server, "three-key", 401).await;
    // As orchestrators do it: the new file takes the place of the old.
    let next = folder.path().join("next");
    std::fs::write(&next, "second:two-key\nthird:three-key\n").unwrap();
    std::fs::rename(&next, &path).unwrap();
    status_becomes(&server, "three-key", 200).await;
    status_becomes(&server, "one-key", 401).await;
    status_becomes(&server, "flag-key", 200).await;
    std::fs::write(&path, "fourth:four-key\nbroken line with spaces\n").unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    for (key, status) in [("three-key", 200), ("two-key", 200), ("four-key", 401)] {
        status_becomes(&server, key, status).await;
    }
    std::fs::remove_file(&path).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    status_becomes(&server, "three-key", 200).await;
    std::fs::write(&path, "fourth:four-key\n").unwrap();
    status_becomes(&server, "four-key", 200).await;
    status_becomes(&server, "three-key", 401).await;
}

#[tokio::test]
async fn a_file_without_a_key_leaves_no_server_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    for text in ["", "# none\n", "[]", "{\"keys\": []}"] {
        std::fs::write(&path, text).unwrap();
        assert!(ApiKeys::default().with_file(&path).is_err(), "{text}");
    }
    assert!(ApiKeys::default().with_file(folder.path()).is_err());
}

#[tokio::test]
async fn metrics_are_open_where_the_operator_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, "a:a-key\n").unwrap();
    for open in [false, true] {
        let server = start(&path, |setup| setup.config.open_metrics = open).await;
        for (target, status) in [
            ("/metrics", if open { 200 } else { 401 }),
            ("/v1/metrics", if open { 200 } else { 401 }),
            ("/v1/metrics/x", 401),
            ("/v1/models", 401),
        ] {
            let response = server.get(target).send().await.unwrap();
            assert_eq!(response.status(), status, "{target} {open}");
        }
    }
}
