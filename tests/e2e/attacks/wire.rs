//! Bytes as no client sends them: heads, framings, targets, requests in a row, other protocols.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{SOON, address, exchange, get, statuses};
use crate::support::Server;

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_are_refused() {
    let server = Server::start(&[]).await;
    let many = |count: usize| -> String { (0..count).map(|n| format!("X-{n}: {n}\r\n")).collect() };
    let long = |bytes: usize| format!("X-Long: {}\r\n", "a".repeat(bytes));
    let path = |bytes: usize| format!("/{}", "a".repeat(bytes - 1));
    // Which of the two it is beyond hyper's buffer depends on how much of it came at once.
    let accepted = |answer: &str, status: u16| match status {
        431 => [[414], [431]].iter().any(|one| statuses(answer) == *one),
        _ => statuses(answer) == [status],
    };
    for (case, request, status, envelope) in [
        ("a long URL", get(&path(8192), ""), 404, true),
        ("a longer URL", get(&path(8193), ""), 414, true),
        (
            "a long query",
            get(&format!("/health?{}", path(8192)), ""),
            414,
            true,
        ),
        (
            "a URL beyond the buffer",
            get(&path(100_000), ""),
            431,
            false,
        ),
        ("many fields", get("/health", &many(90)), 200, true),
        ("too many fields", get("/health", &many(101)), 431, false),
        ("a long field", get("/health", &long(32_000)), 200, true),
        ("a longer field", get("/health", &long(33_000)), 431, true),
        (
            "fields that are long together",
            get("/health", &long(3000).repeat(12)),
            431,
            true,
        ),
        (
            "a field beyond the buffer",
            get("/health", &long(100_000)),
            431,
            false,
        ),
        (
            "a field without end",
            get("/health", &long(10_000_000)),
            431,
            false,
        ),
    ] {
        let answer = exchange(&server, request.as_bytes()).await;
        // What is sent after a refusal may take the refusal with it.
        let lost = !envelope && answer.is_empty();
        assert!(lost || accepted(&answer, status), "{case}: {answer:.200}");
        if envelope && status != 200 {
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            let body: Value = serde_json::from_str(body).unwrap();
            assert!(body["error"]["message"].is_string(), "{case}: {body}");
            assert!(answer.to_lowercase().contains("x-request-id: "), "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn framing_that_can_be_read_in_two_ways_is_refused() {
    let server = Server::start(&["--api-key", "k"]).await;
    let post = |headers: &str, rest: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n\
             Content-Type: application/json\r\n{headers}\r\n{rest}"
        )
    };
    // Behind each: a request that must never be answered as one of its own.
    let hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    let chunked = format!("0\r\n\r\n{hidden}");
    for headers in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length : 5\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: \r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\u{b}chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "X-Folded: a\r\n b\r\n",
        " X-Space: a\r\n",
        "X-Null: a\0b\r\n",
        "X-Bare: a\rb\r\n",
        "X Name: a\r\n",
        "No colon\r\n",
        ": no name\r\n",
        "Host: y\r\n",
    ] {
        let answer = exchange(&server, post(headers, &chunked).as_bytes()).await;
        let statuses = statuses(&answer);
        assert!(
            statuses.is_empty() || statuses == [400],
            "{headers:?}: {statuses:?} {answer:.300}"
        );
    }
    // What may be read by the encoding alone is, and nothing after it.
    for headers in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    ] {
        let answer = exchange(&server, post(headers, &chunked).as_bytes()).await;
        assert_eq!(statuses(&answer), [400], "{headers:?}: {answer:.300}");
        assert!(!answer.contains("/hidden"), "{answer}");
    }
    for chunks in [
        "5\r\nhello",
        "g\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5;\u{1}\n\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(address(&server)).await.unwrap();
        let bytes = post("Transfer-Encoding: chunked\r\n", chunks);
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let read = timeout(SOON, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "{chunks:?}");
        let answer = String::from_utf8_lossy(&answer);
        let statuses = statuses(&answer);
        assert!(
            statuses.is_empty() || statuses == [400],
            "{chunks:?}: {answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_and_hosts_of_every_kind_open_nothing() {
    let server = Server::start(&["--api-key", "k"]).await;
    let close = "Connection: close\r\n\r\n";
    for (head, wanted) in [
        (
            "GET http://x/v1/health/live HTTP/1.1\r\nHost: x\r\n",
            &[200][..],
        ),
        (
            "GET http://y/v1/health/live HTTP/1.1\r\nHost: x\r\n",
            &[200],
        ),
        (
            "GET http://x/v1/models HTTP/1.1\r\nHost: x/v1/health/live\r\n",
            &[400],
        ),
        ("GET http://x/v1/models HTTP/1.1\r\nHost: x\r\n", &[401]),
        (
            "GET http://health@x/v1/models HTTP/1.1\r\nHost: x\r\n",
            &[400],
        ),
        ("GET ftp://x/v1/models HTTP/1.1\r\nHost: x\r\n", &[400]),
        ("GET /v1/models HTTP/1.1\r\n", &[400]),
        ("GET /v1/models HTTP/1.1\r\nHost: x\r\nHost: x\r\n", &[400]),
        ("GET /v1/models HTTP/1.0\r\n", &[401]),
        ("GET /v1/health/live HTTP/1.0\r\n", &[200]),
        ("GET /v1/models HTTP/1.1\r\nHost: [::1\r\n", &[400]),
        ("GET /v1/models HTTP/1.1\r\nHost: \r\n", &[401]),
        ("GET //v1/models HTTP/1.1\r\nHost: x\r\n", &[401]),
        ("GET /%2e/v1/models HTTP/1.1\r\nHost: x\r\n", &[401]),
        (
            "GET /v1/health/live/../../models HTTP/1.1\r\nHost: x\r\n",
            &[401],
        ),
        ("GET /v1/health/live%00 HTTP/1.1\r\nHost: x\r\n", &[401]),
        ("GET v1/health/live HTTP/1.1\r\nHost: x\r\n", &[400]),
        ("GET \\v1\\health HTTP/1.1\r\nHost: x\r\n", &[400]),
        ("CONNECT x:80 HTTP/1.1\r\nHost: x\r\n", &[400, 401, 404]),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n", &[401]),
        ("TRACE /v1/models HTTP/1.1\r\nHost: x\r\n", &[401]),
        ("GE\0T /v1/models HTTP/1.1\r\nHost: x\r\n", &[400]),
        ("GET /v1/models HTTP/9.9\r\nHost: x\r\n", &[400]),
        ("GET /v1/models HTTP/1.1\nHost: x\n", &[400, 401]),
    ] {
        let answer = exchange(&server, format!("{head}{close}").as_bytes()).await;
        let found = statuses(&answer);
        let found = found.as_slice();
        let expected =
            matches!(found, [status] if wanted.contains(status)) || answer.starts_with("HTTP/1.0");
        assert!(expected, "{head:?}: {found:?} {answer:.200}");
        if answer.starts_with("HTTP/1.0") {
            let status: u16 = answer[9..12].parse().unwrap();
            assert!(wanted.contains(&status), "{head:?}: {status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_a_row_are_answered_in_order() {
    let server = Server::start(&[]).await;
    let next = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut row: String = (0..50)
        .map(|n| next(if n % 2 == 0 { "/health" } else { "/nowhere" }))
        .collect();
    row += &get("/v1/health/live", "");
    let answer = exchange(&server, row.as_bytes()).await;
    let mut wanted: Vec<u16> = (0..50)
        .map(|n| if n % 2 == 0 { 200 } else { 404 })
        .collect();
    wanted.push(200);
    assert_eq!(statuses(&answer), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_protocols_are_let_go_at_once() {
    let server = Server::start(&[]).await;
    for (case, bytes) in [
        (
            "HTTP/2",
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        ),
        ("TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n"),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        ("noise", b"\x80\xff\0\x01\r\n\r\n"),
    ] {
        let begin = Instant::now();
        let answer = exchange(&server, bytes).await;
        assert!(begin.elapsed() < Duration::from_secs(2), "{case}");
        assert!(
            answer.is_empty() || statuses(&answer) == [400],
            "{case}: {answer}"
        );
    }
    // What asks to go on with HTTP/2 is answered as if it had not asked.
    let upgrade = "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    let request =
        format!("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close, Upgrade\r\n{upgrade}\r\n");
    assert_eq!(
        statuses(&exchange(&server, request.as_bytes()).await),
        [200]
    );
}
