//! Who is let in, and what the server tells about itself.

use std::collections::HashSet;

use reqwest::header::AUTHORIZATION;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use vlmd_server::{ApiKeys, ServerConfig};

use crate::server::{MODEL, Setup, TestServer, chat_body, error_of, json_of};

async fn configured(change: impl FnOnce(&mut ServerConfig)) -> TestServer {
    let mut setup = Setup::default();
    change(&mut setup.config);
    TestServer::with(setup).await
}

async fn locked() -> TestServer {
    let mut setup = Setup::default();
    setup.config.api_keys = ApiKeys::new(["key-one", "key-two"]);
    TestServer::with(setup).await
}

#[tokio::test]
async fn a_key_opens_everything_and_only_probes_need_none() {
    let server = locked().await;
    for path in [
        "/v1/models",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/v1/version",
        "/nowhere",
    ] {
        let response = server.get(path).send().await.unwrap();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        let (status, error) = error_of(response).await;
        assert_eq!(
            (status, &error["code"]),
            (401, &json!("invalid_api_key")),
            "{path}"
        );
    }
    for path in [
        "/v1/health/live",
        "/v1/health/ready",
        "/health",
        "/ping",
        "/v1/health/live/",
    ] {
        assert_eq!(
            server.get(path).send().await.unwrap().status(),
            200,
            "{path}"
        );
    }
    for (name, value) in [
        ("authorization", "Bearer key-one"),
        ("authorization", "bearer key-two"),
        ("x-api-key", "key-two"),
    ] {
        let response = server
            .get("/v1/models")
            .header(name, value)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{name}");
    }
    for key in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer key",
        "Bearer key-one2",
        "key-one",
        "Basic key-one",
    ] {
        let response = server
            .get("/v1/models")
            .header(AUTHORIZATION, key)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 401, "{key:?}");
    }
    let body = chat_body(&json!({"max_tokens": 1})).to_string();
    assert_eq!(
        server.post(body.clone()).send().await.unwrap().status(),
        401
    );
    let opened = server
        .post(body)
        .bearer_auth("key-one")
        .send()
        .await
        .unwrap();
    assert_eq!(opened.status(), 200);
}

/// Sends a request line as it is, which no client would, and gives the status line.
async fn raw(server: &TestServer, target: &str, host: &str) -> String {
    let address = server.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    let response = String::from_utf8_lossy(&response).into_owned();
    response.lines().next().unwrap().to_owned()
}

#[tokio::test]
async fn odd_spellings_of_a_path_open_nothing() {
    let server = locked().await;
    for target in [
        "//v1/models",
        "/v1//models",
        "/v1/models//",
        "/v1/health/live/../../models",
        "/v1/health/live/%2e%2e/%2e%2e/models",
        "/v1/health%2flive",
        "/V1/HEALTH/LIVE",
        "/v1/models?/v1/health/live",
        "/v1/models#/v1/health/live",
        "/v1/models;/health",
        "http://x/v1/models",
        "http://x/v1/health/live/v1/models",
        "http://health@x/v1/models",
    ] {
        for host in ["x", "x/v1/health/live", "", "x?/health"] {
            let status = raw(&server, target, host).await;
            let closed = status.contains(" 401 ") || status.contains(" 400 ");
            assert!(closed, "{target} with host {host:?}: {status}");
        }
    }
    assert!(
        raw(&server, "http://x/v1/health/live", "x")
            .await
            .contains(" 200 ")
    );
}

#[tokio::test]
async fn request_ids_are_echoed_or_made() {
    let server = TestServer::start().await;
    let given = server
        .get("/health")
        .header("x-request-id", "run-7")
        .send()
        .await
        .unwrap();
    assert_eq!(given.headers()["x-request-id"], "run-7");
    let long = "x".repeat(500);
    let made = server
        .get("/health")
        .header("x-request-id", long)
        .send()
        .await
        .unwrap();
    assert_eq!(made.headers()["x-request-id"].len(), 32);
}

#[tokio::test]
async fn models_are_listed_and_found_by_names_with_slashes() {
    let server = TestServer::start().await;
    for path in ["/v1/models", "/v1/models/"] {
        let list = json_of(server.get(path).send().await.unwrap()).await;
        let ids: Vec<_> = list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|card| &card["id"])
            .collect();
        assert_eq!(ids, [MODEL, "alias"]);
        assert_eq!(list["data"][0]["max_model_len"], 4096);
    }
    let path = format!("/v1/models/{MODEL}");
    let card = json_of(server.get(&path).send().await.unwrap()).await;
    assert_eq!((&card["id"], &card["root"]), (&json!(MODEL), &json!(MODEL)));
    let (status, error) = error_of(server.get("/v1/models/org/none").send().await.unwrap()).await;
    assert_eq!((status, &error["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn metrics_follow_what_happened() {
    let server = TestServer::start().await;
    server.answer(&json!({"max_tokens": 3})).await;
    server.answer(&json!({"stop": "c"})).await;
    server.refusal(&json!({"n": 0})).await;
    server.idle().await;
    for path in ["/metrics", "/v1/metrics"] {
        let response = server.get(path).send().await.unwrap();
        assert!(
            response.headers()["content-type"]
                .to_str()
                .unwrap()
                .starts_with("text/plain")
        );
        let text = response.text().await.unwrap();
        let label = format!("model_name=\"{MODEL}\",engine=\"0\"");
        for line in [
            format!("vllm:num_requests_running{{{label}}} 0"),
            format!("vllm:num_requests_waiting{{{label}}} 0"),
            format!("vllm:kv_cache_usage_perc{{{label}}} 0"),
            format!("vllm:prompt_tokens_total{{{label}}} 6"),
            format!("vllm:request_success_total{{{label},finished_reason=\"length\"}} 1"),
            format!("vllm:request_success_total{{{label},finished_reason=\"stop\"}} 1"),
            format!("request_success_total{{{label}}} 2"),
            format!("request_failure_total{{{label}}} 0"),
            format!("vllm:time_to_first_token_seconds_count{{{label}}} 2"),
            format!("time_to_first_token_seconds_bucket{{{label},le=\"+Inf\"}} 2"),
            format!("vllm:request_prompt_tokens_bucket{{{label},le=\"2.0\"}} 0"),
            format!("vllm:request_prompt_tokens_bucket{{{label},le=\"5.0\"}} 2"),
            format!("num_request_max{{{label}}} 8"),
            format!("vlmd:answers_submitted_total{{{label}}} 2"),
            format!("vlmd:kv_blocks_used{{{label}}} 0"),
            "vlmd:http_responses_total{status=\"400\"} 1".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}

/// Splits a line of a page into its name, its labels and its value.
fn sample(line: &str) -> (&str, &str, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}').unwrap();
    (name, labels, value.parse().unwrap())
}

#[tokio::test]
async fn the_page_of_metrics_is_what_prometheus_reads() {
    let server = configured(|config| config.metrics_legacy_names = true).await;
    server.answer(&json!({"max_tokens": 3, "n": 2})).await;
    let text = server.get("/metrics").send().await.unwrap().text();
    let text = text.await.unwrap();
    let mut families = HashSet::new();
    let mut open: Option<(String, String)> = None;
    let mut buckets: Vec<(String, f64)> = Vec::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(
                !help.is_empty() && families.insert(name.to_owned()),
                "{line}"
            );
            open = Some((name.to_owned(), String::new()));
            continue;
        }
        let (name, kind) = open.as_mut().unwrap();
        if let Some(found) = line.strip_prefix("# TYPE ") {
            let (typed, found) = found.split_once(' ').unwrap();
            assert!(typed == name && kind.is_empty(), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&found), "{line}");
            *kind = found.to_owned();
            continue;
        }
        let (series, labels, value) = sample(line);
        assert!(value >= 0.0, "{line}");
        if kind != "histogram" {
            assert_eq!(series, name, "{line}");
            continue;
        }
        match series.strip_prefix(name.as_str()).unwrap() {
            "_bucket" => {
                let (_, bound) = labels.rsplit_once("le=\"").unwrap();
                buckets.push((bound.trim_end_matches('"').to_owned(), value));
            }
            "_sum" => {}
            "_count" => {
                let counts: Vec<f64> = buckets.iter().map(|(_, count)| *count).collect();
                assert!(counts.is_sorted(), "{line}");
                let bounds = buckets
                    .iter()
                    .map(|(bound, _)| bound.parse::<f64>().unwrap());
                assert!(bounds.is_sorted_by(|a, b| a < b), "{line}");
                let (last, total) = buckets.pop().unwrap();
                assert!(last == "+Inf" && total == value, "{line}");
                buckets.clear();
            }
            other => panic!("{other}"),
        }
    }
    for name in ["vllm:gpu_cache_usage_perc", "process_resident_memory_bytes"] {
        assert!(families.contains(name), "{name}");
    }
}

#[tokio::test]
async fn usage_tells_where_time_went_and_what_was_found() {
    let server = configured(|config| config.prompt_tokens_details = true).await;
    let usage = |answer: Value| answer["usage"].clone();
    let first = usage(server.answer(&json!({"max_tokens": 3})).await);
    assert_eq!(first["prompt_tokens_details"], json!({"cached_tokens": 0}));
    assert!(first.get("timings").is_none());
    let timed = usage(
        server
            .answer(&json!({"max_tokens": 3, "return_timings": true}))
            .await,
    );
    for field in ["queue_ms", "encode_ms", "prefill_ms", "decode_ms"] {
        assert!(timed["timings"][field].as_f64().unwrap() >= 0.0, "{field}");
    }
    // An answer that its text ends is one like any other.
    let stopped = json!({"stop": "c", "return_timings": true});
    let stopped = usage(server.answer(&stopped).await);
    assert!(stopped["timings"]["decode_ms"].as_f64().unwrap() >= 0.0);
    assert_eq!(
        stopped["prompt_tokens_details"],
        json!({"cached_tokens": 0})
    );
    let stats = server.idle().await;
    assert_eq!((stats.finished_stop, stats.cancelled), (1, 0));
    let whole = server.engine().distributions().whole;
    assert_eq!(whole.count(), 3);
    // Off unless the operator wants it: what is cached tells of others' prompts.
    let silent = TestServer::start().await;
    let answer = usage(silent.answer(&json!({})).await);
    assert_eq!(answer["prompt_tokens_details"], Value::Null);
}

#[tokio::test]
async fn the_server_describes_itself() {
    let server = TestServer::start().await;
    let response = server.get("/openapi.json").send().await.unwrap();
    let document = json_of(response).await;
    assert!(document["paths"]["/v1/chat/completions"]["post"].is_object());
    let page = server.get("/docs").send().await.unwrap();
    assert!(
        page.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/html")
    );
    assert!(page.text().await.unwrap().contains("/v1/chat/completions"));
    let version = json_of(server.get("/v1/version").send().await.unwrap()).await;
    assert!(version["release"].is_string() && version["api"].is_string());
}
