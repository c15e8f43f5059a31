//! What attackers send: odd bytes on the wire, bombs, stalled connections, pictures of every
//! shape. The server answers or closes, in time, and goes on serving others.

use std::io::Cursor;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use image::{ImageFormat, RgbImage};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::support::{PATIENCE, Server, data_uri, project, request, vlmd};

/// Time in which a closed or answered connection must be so.
const SOON: Duration = Duration::from_secs(10);

fn address(server: &Server) -> SocketAddr {
    server.url.strip_prefix("http://").unwrap().parse().unwrap()
}

/// Sends bytes as they are and gives what comes until the server closes the connection.
async fn exchange(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address(server)).await.unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut answer)).await;
    let shown = String::from_utf8_lossy(bytes);
    assert!(read.is_ok(), "no end after {shown:.80?}");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Statuses of the answers in what a connection gave.
fn statuses(answer: &str) -> Vec<u16> {
    answer
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|rest| rest[..3].parse().unwrap())
        .collect()
}

fn get(target: &str, headers: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")
}

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

/// Posts a body beside a good request, and gives its status, its error and the time it took.
async fn bomb(server: &Server, body: String) -> (u16, Value, Duration) {
    let good = json!({"model": "test", "max_tokens": 1,
        "messages": [{"role": "user", "content": "Hi"}]});
    let begin = Instant::now();
    let bad = async {
        let response = server.post(body).await;
        let status = response.status().as_u16();
        let answer: Value = response.json().await.unwrap();
        (status, answer["error"].clone(), begin.elapsed())
    };
    let (bad, _) = tokio::join!(bad, server.text(&good));
    bad
}

#[tokio::test(flavor = "multi_thread")]
async fn json_bombs_are_refused_with_their_bound() {
    let server = Server::start(&["--served-model-name", "test"]).await;
    let user = |content: &str| format!(r#"{{"role":"user","content":{content}}}"#);
    let chat =
        |messages: &str| format!(r#"{{"model":"test","max_tokens":1,"messages":[{messages}]}}"#);
    let extra = |value: &str| {
        let messages = user("\"hi\"");
        format!(r#"{{"model":"test","max_tokens":1,"messages":[{messages}],"metadata":{value}}}"#)
    };
    let part = r#"{"type":"text","text":"a"}"#;
    let nested = |depth: usize| format!("{}{}", "{\"a\":".repeat(depth), "1") + &"}".repeat(depth);
    let memory = server.metric("process_resident_memory_bytes").await;
    for (case, body, words) in [
        (
            "brackets",
            "[".repeat(20_000_000),
            "nested at most 100 deep",
        ),
        (
            "braces",
            "{\"a\":".repeat(5_000_000),
            "nested at most 100 deep",
        ),
        (
            "a deep field",
            extra(&nested(100)),
            "nested at most 100 deep",
        ),
        (
            "zeros",
            extra(&format!("[{}0]", "0,".repeat(10_000_000))),
            "at most 500000 values",
        ),
        (
            "empty arrays",
            extra(&format!("[{}[]]", "[],".repeat(8_000_000))),
            "at most 500000 values",
        ),
        (
            "fields",
            extra(&format!("{{{}\"b\":0}}", "\"a\":0,".repeat(4_000_000))),
            "at most 500000 values",
        ),
        (
            "messages",
            chat(&vec![user("\"hi\""); 4097].join(",")),
            "at most 4096 messages",
        ),
        (
            "parts",
            chat(&user(&format!("[{}]", vec![part; 1025].join(",")))),
            "at most 1024 parts",
        ),
        (
            "a long salt",
            extra(&format!("{{}},\"cache_salt\":\"{}\"", "s".repeat(257))),
            "at most 256 bytes",
        ),
        ("a long number", extra(&"9".repeat(20_000_000)), ""),
        (
            "an unending string",
            format!("{{\"model\":\"{}", "a".repeat(20_000_000)),
            "not valid JSON",
        ),
        (
            "an unending escape",
            format!("{{\"model\":\"{}", "\\".repeat(20_000_001)),
            "not valid JSON",
        ),
        (
            "half a character",
            "{\"model\":\"\u{fffd}\\ud800\"}".to_owned(),
            "not valid JSON",
        ),
    ] {
        let (status, error, took) = bomb(&server, body).await;
        assert_eq!(status, 400, "{case}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{case}: {message}");
        assert!(
            message.len() < 600,
            "{case}: {} bytes of message",
            message.len()
        );
        assert!(took < Duration::from_secs(20), "{case}: {took:?}");
    }
    let after = server.metric("process_resident_memory_bytes").await;
    assert!(after - memory < 400e6, "{memory} before, {after} after");
    // To the bounds and no further: what is large and honest is answered.
    for body in [
        extra(&nested(98)),
        chat(&vec![user("\"a\""); 100].join(",")),
    ] {
        let (status, error, _) = bomb(&server, body).await;
        assert_eq!(status, 200, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_let_go() {
    let server = Server::start(&["--write-timeout", "1"]).await;
    let one = server
        .get("/openapi.json")
        .await
        .text()
        .await
        .unwrap()
        .len();
    // More than the kernel keeps for both ends.
    let count = 64_000_000 / one;
    let row = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(count);
    let open = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8192).unwrap();
        socket.connect(address(&server)).await.unwrap()
    };
    let (mut reader, mut writer) = open().await.into_split();
    let row_for_writer = row.clone();
    let writing = tokio::spawn(async move {
        let _ = writer.write_all(row_for_writer.as_bytes()).await;
        writer
    });
    sleep(Duration::from_secs(4)).await;
    let mut received = 0;
    let mut buffer = vec![0; 1 << 16];
    while let Ok(Ok(read @ 1..)) = timeout(SOON, reader.read(&mut buffer)).await {
        received += read;
    }
    assert!(received < count * one / 2, "{received} of {}", count * one);
    drop(writing);
    // Who reads, however slowly, gets it all.
    let (mut reader, mut writer) = open().await.into_split();
    let few = 40;
    let row = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(few);
    writer.write_all(row.as_bytes()).await.unwrap();
    let (begin, mut received) = (Instant::now(), 0);
    while received < few * one && begin.elapsed() < PATIENCE {
        match timeout(SOON, reader.read(&mut buffer)).await {
            Ok(Ok(read @ 1..)) => received += read,
            other => panic!("{received} of {}: {other:?}", few * one),
        }
        sleep(Duration::from_millis(2)).await;
    }
    assert!(received >= few * one);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_are_bounded() {
    let server = Server::start(&["--max-connections-per-ip", "20"]).await;
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..60 {
        let mut stream = TcpStream::connect(address(&server)).await.unwrap();
        stream
            .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .ok();
        let mut buffer = [0; 12];
        match timeout(SOON, stream.read_exact(&mut buffer)).await.unwrap() {
            Ok(_) => open.push(stream),
            Err(_) => refused += 1,
        }
    }
    // The client that waited for readiness may hold one or two.
    assert!((15..=20).contains(&open.len()), "{} open", open.len());
    assert_eq!(open.len() + refused, 60);
    drop(open);
    let begin = Instant::now();
    loop {
        let answer = exchange(&server, get("/health", "").as_bytes()).await;
        if statuses(&answer) == [200] {
            break;
        }
        assert!(begin.elapsed() < SOON, "places are not given back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_ids_carry_nothing_into_answers_and_logs() {
    let server = Server::start(&[]).await;
    for (given, kept) in [
        ("run-7/a:b", true),
        (&"x".repeat(128), true),
        (&"x".repeat(129), false),
        ("two words", false),
        ("\x1b[31mred", false),
        ("caf\u{e9}", false),
        ("", false),
    ] {
        let request = get("/health", &format!("X-Request-Id: {given}\r\n"));
        let answer = exchange(&server, request.as_bytes()).await.to_lowercase();
        if answer.contains(" 400 ") {
            assert!(!kept, "{given:?}");
            continue;
        }
        let id = answer
            .lines()
            .find_map(|line| line.strip_prefix("x-request-id: "))
            .unwrap();
        assert_eq!(id == given.to_lowercase(), kept, "{given:?}: {id}");
        assert!(kept || (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_is_read_again_on_a_signal_and_no_key_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, log) = (folder.path().join("keys"), folder.path().join("log"));
    std::fs::write(&keys, "team-a:nvapi-secret-one\nteam-b:nvapi-secret-two\n").unwrap();
    let mut command = vlmd();
    command.env("RUST_LOG", "trace");
    command.stderr(Stdio::from(std::fs::File::create(&log).unwrap()));
    let server = Server::launch(command, &["--api-key-file", keys.to_str().unwrap()]);
    let status = async |key: &str| {
        let call = server.http.get(format!("{}/v1/models", server.url));
        call.bearer_auth(key)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    server.wait_until_ready().await;
    let hang_up = || {
        let pid = server.child.id().to_string();
        let sent = Command::new("kill").args(["-HUP", &pid]).status().unwrap();
        assert!(sent.success());
    };
    assert_eq!(status("nvapi-secret-one").await, 200);
    assert_eq!(status("nvapi-secret-three").await, 401);
    std::fs::write(&keys, "team-c:nvapi-secret-three\n").unwrap();
    hang_up();
    let begin = Instant::now();
    while status("nvapi-secret-three").await != 200 || status("nvapi-secret-one").await != 401 {
        assert!(begin.elapsed() < PATIENCE, "the new keys do not come");
    }
    std::fs::write(&keys, "team-d nvapi-secret-four x\n").unwrap();
    hang_up();
    let logged = || std::fs::read_to_string(&log).unwrap();
    while !logged().contains("API keys stay as they were") {
        assert!(begin.elapsed() < PATIENCE, "the broken file is not told");
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status("nvapi-secret-three").await, 200);
    let body = json!({"model": "vlmd/tiny", "max_tokens": 1, "messages": [
        {"role": "user", "content": "words of a user"}]});
    let call = server
        .http
        .post(format!("{}/v1/chat/completions", server.url));
    let call = call
        .header("content-type", "application/json")
        .bearer_auth("nvapi-secret-three")
        .body(body.to_string());
    call.send().await.unwrap().bytes().await.unwrap();
    let log = logged();
    assert!(log.contains("team-c"), "{log:.2000}");
    for secret in ["secret-", "words of a user"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

fn png(width: u32, height: u32) -> String {
    let image = RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([(x % 251) as u8, (y % 241) as u8, ((x ^ y) % 239) as u8])
    });
    let mut bytes = Vec::new();
    image
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
        .unwrap();
    data_uri("image/png", &bytes)
}

/// Time from request to answer for a picture of the given size; the best of two.
async fn cost(server: &Server, width: u32, height: u32) -> Duration {
    let mut best = Duration::MAX;
    for attempt in 0..2 {
        let mut body = request(&[png(width, height)], "What?");
        body["max_tokens"] = json!(1);
        // Not from a cache.
        body["cache_salt"] = json!(attempt.to_string());
        let begin = Instant::now();
        let response = server.chat(&body).await;
        let status = response.status().as_u16();
        let answer = response.text().await.unwrap();
        assert!(
            matches!(status, 200 | 400),
            "{width}x{height}: {status} {answer}"
        );
        best = best.min(begin.elapsed());
    }
    best
}

/// Lines, and pictures that are nearly lines, against a square of as many pixels, for every way
/// of preparing pictures.
#[tokio::test(flavor = "multi_thread")]
async fn no_shape_of_a_picture_costs_more_than_a_square() {
    for name in ["phi3_v", "kosmos2", "llava", "llava_next", "mllama", "neva"] {
        let folder = project().join("tests/golden").join(name);
        let golden = std::fs::read(folder.join("golden.json")).unwrap();
        let golden: Value = serde_json::from_slice(&golden).unwrap();
        let file = |field: &str| Some(folder.join(golden[field].as_str()?).display().to_string());
        let mut arguments = vec!["--served-model-name".to_owned(), "test".to_owned()];
        arguments.push("--model".to_owned());
        match (file("archive"), file("vision_tower")) {
            (Some(archive), Some(tower)) => {
                arguments.extend([archive, "--vision-tower".to_owned(), tower]);
            }
            _ => arguments.push(folder.display().to_string()),
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let server = Server::start(&arguments).await;
        let square = cost(&server, 1000, 1000).await;
        for (width, height) in [
            (1, 1),
            (1, 65_535),
            (65_535, 1),
            (15, 65_535),
            (65_535, 15),
            (2, 50_000),
            (50_000, 2),
            (100, 10_000),
            (10_000, 100),
        ] {
            let taken = cost(&server, width, height).await;
            println!("{name} {width}x{height}: {taken:?}, square {square:?}");
            let most = 4 * square + Duration::from_secs(1);
            assert!(
                taken < most,
                "{name} {width}x{height}: {taken:?}, square {square:?}"
            );
        }
        // Longer than any picture may be: refused by its header.
        let long = cost(&server, 1, 65_536).await;
        assert!(long < square + Duration::from_secs(1), "{name}: {long:?}");
    }
}
