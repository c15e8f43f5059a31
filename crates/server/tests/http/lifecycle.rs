//! Loading, overload, clients that leave, and shutting down.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use vlmd_server::ServerConfig;

use crate::script::ALPHABET;
use crate::server::{Setup, TestServer, chat_body, error_of, json_of, load};

/// A model that is slow enough to be met at work.
fn slow() -> Setup {
    Setup {
        pace: Duration::from_millis(5),
        ..Setup::default()
    }
}

async fn readiness(server: &TestServer) -> (u16, Value) {
    let response = server.get("/v1/health/ready").send().await.unwrap();
    (response.status().as_u16(), json_of(response).await)
}

#[tokio::test]
async fn the_server_lives_before_the_model_is_there() {
    let server = TestServer::loading(ServerConfig::default()).await;
    let live = server.get("/v1/health/live").send().await.unwrap();
    assert_eq!(live.status(), 200);
    assert_eq!(
        json_of(live).await,
        json!({"object": "health.response", "message": "Service is live", "status": "live"})
    );
    let (status, health) = readiness(&server).await;
    assert_eq!((status, &health["status"]), (503, &json!("loading")));
    let response = server.chat(&json!({})).await;
    assert!(response.headers().contains_key("retry-after"));
    let (status, error) = error_of(response).await;
    assert_eq!((status, &error["code"]), (503, &json!("not_ready")));
    assert_eq!(server.get("/v1/models").send().await.unwrap().status(), 503);
    assert_eq!(server.get("/metrics").send().await.unwrap().status(), 200);

    let (_, model) = load(Setup::default()).await;
    server.slot.fill(model).unwrap();
    let (status, health) = readiness(&server).await;
    assert_eq!(status, 200);
    assert_eq!(
        health,
        json!({"object": "health.response", "message": "Service is ready", "status": "ready"})
    );
    server.answer(&json!({})).await;
}

#[tokio::test]
async fn readiness_falls_with_the_engine() {
    let server = TestServer::start().await;
    server.engine().shutdown(Duration::ZERO);
    server.engine().stopped().await;
    let (status, health) = readiness(&server).await;
    assert_eq!((status, &health["status"]), (503, &json!("stopped")));
    let (status, _) = server.refusal(&json!({})).await;
    assert_eq!(status, 503);
    assert_eq!(
        server.get("/v1/health/live").send().await.unwrap().status(),
        200
    );
}

#[tokio::test]
async fn an_engine_that_stops_breaks_off_answers_with_503() {
    let server = TestServer::with(slow()).await;
    let extra = json!({"ignore_eos": true});
    let stop = async {
        server.busy(1).await;
        server.engine().shutdown(Duration::ZERO);
    };
    let ((status, error), ()) = futures::join!(server.refusal(&extra), stop);
    assert_eq!((status, &error["code"]), (503, &json!("shutting_down")));
}

#[tokio::test]
async fn a_full_line_is_told_at_once_with_a_time_to_come_back() {
    let server = TestServer::with(Setup {
        max_num_seqs: 1,
        max_queue: 1,
        ..slow()
    })
    .await;
    let endless = json!({"ignore_eos": true, "stream": true});
    let running = server.chat(&endless).await;
    server.busy(1).await;
    let waiting = server.chat(&endless).await;
    assert_eq!(
        (running.status().as_u16(), waiting.status().as_u16()),
        (200, 200)
    );
    let response = server.chat(&json!({})).await;
    assert_eq!(response.headers()["retry-after"], "1");
    let (status, error) = error_of(response).await;
    assert_eq!((status, &error["code"]), (503, &json!("queue_full")));
    // Of several answers none is left behind when one finds no place.
    drop(waiting);
    let (status, _) = server.refusal(&json!({"n": 3})).await;
    assert_eq!(status, 503);
    drop(running);
    assert_eq!(server.idle().await.blocks_used, 0);
    server.answer(&json!({})).await;
}

#[tokio::test]
async fn requests_beyond_the_servers_own_limit_are_refused() {
    let mut setup = slow();
    setup.config.max_inflight = 1;
    let server = TestServer::with(setup).await;
    let running = server
        .chat(&json!({"ignore_eos": true, "stream": true}))
        .await;
    let (status, error) = server.refusal(&json!({})).await;
    assert_eq!((status, &error["code"]), (503, &json!("overloaded")));
    drop(running);
    server.idle().await;
    while server.chat(&json!({"max_tokens": 1})).await.status() != 200 {}
}

#[tokio::test]
async fn a_client_that_leaves_before_a_whole_answer_frees_its_blocks() {
    let server = TestServer::with(slow()).await;
    let body = chat_body(&json!({"ignore_eos": true, "n": 2})).to_string();
    let request = tokio::spawn(server.post(body).send());
    server.busy(2).await;
    assert!(server.engine().stats().blocks_used > 0);
    request.abort();
    let stats = server.idle().await;
    assert_eq!((stats.cancelled, stats.finished_length), (2, 0));
    assert_eq!(stats.blocks_used, 0);
}

#[tokio::test]
async fn a_shutdown_finishes_what_is_under_way_and_takes_nothing_new() {
    let mut server = TestServer::with(slow()).await;
    let long = json!({"stream": true, "ignore_eos": true, "max_tokens": 300});
    let mut response = server.chat(&long).await;
    server.busy(1).await;
    server.stop();
    while readiness(&server).await.1["status"] != "draining" {}
    let refused = server.chat(&json!({})).await;
    assert_eq!(refused.headers()["connection"], "close");
    assert_eq!(refused.status(), 503);
    assert_eq!(
        server.get("/v1/health/live").send().await.unwrap().status(),
        200
    );

    let mut text = String::new();
    while let Some(chunk) = response.chunk().await.unwrap() {
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(text.ends_with("data: [DONE]\n\n"));
    assert_eq!(text.matches("\"finish_reason\":\"length\"").count(), 1);
    assert!(!text.contains("error"));
    drop(response);
    let address = server.base.clone();
    server.stopped().await;
    assert!(reqwest::get(address).await.is_err());
}

#[tokio::test]
async fn a_shutdown_breaks_off_what_takes_too_long() {
    let mut setup = slow();
    setup.config.drain_timeout = Duration::from_millis(50);
    let mut server = TestServer::with(setup).await;
    let mut response = server
        .chat(&json!({"stream": true, "ignore_eos": true}))
        .await;
    let body = chat_body(&json!({"ignore_eos": true})).to_string();
    let whole = tokio::spawn(server.post(body).send());
    server.busy(2).await;
    server.stop();
    let mut text = String::new();
    while let Some(chunk) = response.chunk().await.unwrap() {
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert!(
        text.contains("\"object\":\"error\"") && text.contains("shutting_down"),
        "{text}"
    );
    let (status, error) = error_of(whole.await.unwrap().unwrap()).await;
    assert_eq!((status, &error["code"]), (503, &json!("shutting_down")));
    let stats = server.idle().await;
    assert_eq!((stats.cancelled, stats.blocks_used), (2, 0));
    server.stopped().await;
}

#[tokio::test]
async fn a_shutdown_without_requests_is_immediate() {
    let mut server = TestServer::start().await;
    assert_eq!(
        server.answer(&json!({})).await["choices"][0]["message"]["content"],
        ALPHABET
    );
    server.stop();
    server.stopped().await;
}

/// Sends `request` as it is and gives what comes until the server closes the connection.
async fn exchange(server: &TestServer, request: &str) -> String {
    let address = server.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    String::from_utf8_lossy(&response).into_owned()
}

#[tokio::test]
async fn clients_that_stall_are_let_go() {
    let mut setup = Setup::default();
    setup.config.header_timeout = Duration::from_millis(200);
    setup.config.body_timeout = Duration::from_millis(200);
    let server = TestServer::with(setup).await;
    for stalled in [
        "",
        "P",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    ] {
        let response = exchange(&server, stalled).await;
        assert!(!response.contains(" 200 "), "{stalled:?}: {response}");
    }
    let half = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\
        Content-Type: application/json\r\n\r\n{\"model\": ";
    let response = exchange(&server, half).await;
    assert!(response.starts_with("HTTP/1.1 408 "), "{response}");
    assert!(response.contains("--body-timeout"), "{response}");
    server.answer(&json!({})).await;
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused() {
    let server = TestServer::start().await;
    let many: String = (0..1000).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let request = format!("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{many}\r\n");
    let response = exchange(&server, &request).await;
    assert!(response.starts_with("HTTP/1.1 431 "), "{response}");
}
