//! What attackers send: odd bytes on the wire, bombs, stalled connections, pictures of every
//! shape. The server answers or closes, in time, and goes on serving others.

#[cfg(test)]
mod wire;

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
