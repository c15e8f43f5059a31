//! What clients get wrong: a clear 4xx in the envelope each time, and nobody else is harmed.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{
    Server, data_uri, golden_checkpoint, http, png, project, request, serve_bytes,
};

/// A served golden checkpoint, a good request, and the answer it must always get.
struct Bench {
    server: Server,
    good: Value,
    expected: String,
}

impl Bench {
    async fn start(arguments: &[&str]) -> Self {
        let checkpoint = golden_checkpoint();
        let mut all = vec![
            "--model",
            checkpoint.to_str().unwrap(),
            "--served-model-name",
            "test",
        ];
        all.extend(arguments);
        let server = Server::start(&all).await;
        let mut good = request(
            &[png(&checkpoint.join("images/a_97x41.png"))],
            "What is this?",
        );
        good["max_tokens"] = json!(8);
        let expected = server.text(&good).await;
        Self {
            server,
            good,
            expected,
        }
    }

    /// `body` must be refused with `status`, in the envelope, with `words` in its message,
    /// while a good request beside it gets its usual answer.
    async fn refuses(&self, case: &str, body: String, status: u16, words: &[&str]) {
        let (bad, good) = tokio::join!(self.server.post(body), self.server.text(&self.good));
        let got = bad.status();
        assert!(bad.headers().contains_key("x-request-id"), "{case}");
        let answer: Value = bad
            .json()
            .await
            .unwrap_or_else(|_| panic!("{case}: not JSON"));
        assert_eq!(got.as_u16(), status, "{case}: {answer}");
        let error = &answer["error"];
        for field in ["message", "type", "code"] {
            assert!(!error[field].is_null(), "{case}: no {field} in {answer}");
        }
        let message = error["message"].as_str().unwrap();
        for word in words {
            assert!(message.contains(word), "{case}: no {word:?} in {message:?}");
        }
        assert_eq!(good, self.expected, "{case}: the neighbour was harmed");
    }

    async fn refuses_field(&self, field: &str, value: Value, words: &[&str]) {
        let mut body = self.good.clone();
        body[field] = value.clone();
        let quoted = format!("`{field}`");
        let mut all = vec![quoted.as_str()];
        all.extend(words);
        self.refuses(&format!("{field} = {value}"), body.to_string(), 400, &all)
            .await;
    }

    async fn refuses_picture(&self, case: &str, url: &str, words: &[&str]) {
        let body = request(&[url.to_owned()], "What is this?").to_string();
        self.refuses(case, body, 400, words).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_refused_by_name() {
    let bench = Bench::start(&[]).await;
    for (case, body) in [
        ("no body", ""),
        ("not JSON", "hello"),
        ("cut off", r#"{"model": "test", "messages": ["#),
        ("an array", "[]"),
        (
            "a bare NaN",
            r#"{"model": "test", "messages": [], "temperature": NaN}"#,
        ),
    ] {
        bench.refuses(case, body.to_owned(), 400, &[]).await;
    }
    let message = |content: Value| json!([{"role": "user", "content": content}]);
    bench.refuses_field("messages", json!([]), &[]).await;
    bench.refuses_field("messages", json!("hello"), &[]).await;
    for (case, messages, words) in [
        (
            "unknown role",
            json!([{"role": "wizard", "content": "hi"}]),
            ["messages[0].role", "wizard"],
        ),
        (
            "unknown part",
            message(json!([{"type": "smell", "smell": 1}])),
            ["messages[0].content[0].type", "smell"],
        ),
        (
            "number as content",
            message(json!(7)),
            ["messages[0].content", ""],
        ),
        (
            "part without text",
            message(json!([{"type": "text"}])),
            ["messages[0].content[0]", "text"],
        ),
        (
            "bare remote string",
            message(json!([{"type": "image_url", "image_url": "https://example.com/a.png"}])),
            ["image_url", ""],
        ),
    ] {
        let body = json!({"model": "test", "messages": messages}).to_string();
        bench.refuses(case, body, 400, &words).await;
    }
    let unknown = json!({"model": "no/such-model", "messages": message(json!("hi"))}).to_string();
    bench
        .refuses("unknown model", unknown, 404, &["no/such-model"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_out_of_range_are_refused_with_bound_and_value() {
    let bench = Bench::start(&[]).await;
    for (field, value, words) in [
        ("max_tokens", json!(0), vec!["1", "0"]),
        ("max_tokens", json!(-3), vec!["-3"]),
        ("max_tokens", json!(1e30), vec![]),
        ("max_tokens", json!("many"), vec![]),
        ("n", json!(0), vec!["1"]),
        ("n", json!(100_000), vec!["100000"]),
        ("temperature", json!(2.5), vec!["2", "2.5"]),
        ("temperature", json!(-0.1), vec!["-0.1"]),
        ("temperature", json!("hot"), vec![]),
        ("top_p", json!(0), vec!["0"]),
        ("top_p", json!(1.01), vec!["1.01"]),
        ("top_k", json!(-2), vec!["-2"]),
        ("frequency_penalty", json!(3), vec!["2", "3"]),
        ("presence_penalty", json!(-3), vec!["-3"]),
        ("repetition_penalty", json!(0), vec!["0"]),
        ("top_logprobs", json!(1000), vec!["1000"]),
    ] {
        bench.refuses_field(field, value, &words).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_implemented_is_refused_not_ignored() {
    let bench = Bench::start(&[]).await;
    for (field, value) in [
        (
            "tools",
            json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]),
        ),
        ("functions", json!([{"name": "f", "parameters": {}}])),
        ("chat_template", json!("{{ messages }}")),
    ] {
        bench.refuses_field(field, value, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_that_are_none_are_refused() {
    let bench = Bench::start(&[]).await;
    let whole = std::fs::read(golden_checkpoint().join("images/a_97x41.png")).unwrap();
    let mut huge = whole.clone();
    // The header's width and height; its checksum is not what protects us.
    huge[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    for (case, url) in [
        ("no picture", data_uri("image/png", b"hello, I am text")),
        ("empty", data_uri("image/png", b"")),
        (
            "truncated",
            data_uri("image/png", &whole[..whole.len() / 2]),
        ),
        ("65535 x 65535", data_uri("image/png", &huge)),
        (
            "base64 with junk",
            format!("data:image/png;base64,{}*!*", STANDARD.encode(&whole)),
        ),
        ("no comma", "data:image/png;base64".to_owned()),
        (
            "svg",
            data_uri(
                "image/svg+xml",
                b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            ),
        ),
        ("local file", "file:///etc/hostname".to_owned()),
        ("no scheme", "cat.png".to_owned()),
        (
            "asset",
            "data:image/png;asset_id,3fa85f64-5717-4562-b3fc-2c963f66afa6".to_owned(),
        ),
    ] {
        bench.refuses_picture(case, &url, &[]).await;
    }
    let manifest = project().join("tests/golden/broken/manifest.json");
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    let files = manifest.as_array().unwrap();
    assert!(!files.is_empty());
    for entry in files {
        let file = entry["file"].as_str().unwrap();
        let bytes = std::fs::read(project().join("tests/golden/broken").join(file)).unwrap();
        let url = data_uri("image/png", &bytes);
        let outcomes = entry["outcomes"].as_array().unwrap();
        if outcomes.iter().any(|outcome| outcome == "ok") {
            // Damaged in a way that some decoders forgive: answered or refused, never worse.
            let mut body = request(&[url], "What is this?");
            body["max_tokens"] = json!(1);
            let status = bench.server.chat(&body).await.status();
            assert!(
                [StatusCode::OK, StatusCode::BAD_REQUEST].contains(&status),
                "{file}: {status}"
            );
        } else {
            bench.refuses_picture(file, &url, &[]).await;
        }
    }
    let many = vec![png(&golden_checkpoint().join("images/g_square_56.png")); 200];
    bench
        .refuses(
            "200 pictures",
            request(&many, "What?").to_string(),
            400,
            &["5", "200"],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_but_honest_pictures_are_answered() {
    let bench = Bench::start(&[]).await;
    for (width, height) in [(1, 1), (1, 1000), (1000, 1)] {
        let mut bytes = Vec::new();
        image::RgbImage::from_pixel(width, height, image::Rgb([200, 30, 30]))
            .write_to(
                &mut std::io::Cursor::new(&mut bytes),
                image::ImageFormat::Png,
            )
            .unwrap();
        let mut body = request(&[data_uri("image/png", &bytes)], "What is this?");
        body["max_tokens"] = json!(2);
        let response = bench.server.chat(&body).await;
        assert_eq!(response.status(), StatusCode::OK, "{width}x{height}");
    }
    let mut animated = Vec::new();
    {
        let mut encoder = image::codecs::gif::GifEncoder::new(&mut animated);
        for level in [10, 200] {
            let frame = image::RgbaImage::from_pixel(20, 10, image::Rgba([level, 0, 0, 255]));
            encoder.encode_frame(image::Frame::new(frame)).unwrap();
        }
    }
    let mut body = request(&[data_uri("image/gif", &animated)], "What is this?");
    body["max_tokens"] = json!(2);
    assert_eq!(
        bench.server.chat(&body).await.status(),
        StatusCode::OK,
        "animated"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_by_url_pass_one_gate() {
    let picture = std::fs::read(golden_checkpoint().join("images/a_97x41.png")).unwrap();
    let address = serve_bytes(move |path, _| match path {
        "/good.png" => http("200 OK", &[("content-type", "image/png")], &picture),
        "/moved.png" => http("302 Found", &[("location", "/good.png")], b""),
        "/inwards.png" => http(
            "302 Found",
            &[("location", "http://127.0.0.2:9/secret")],
            b"",
        ),
        "/metadata.png" => http(
            "302 Found",
            &[("location", "http://169.254.169.254/latest")],
            b"",
        ),
        "/loop.png" => http("302 Found", &[("location", "/loop.png")], b""),
        "/page.png" => http("200 OK", &[("content-type", "text/html")], b"<html></html>"),
        "/endless.png" => {
            let mut answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
            answer.resize(3_000_000, b'x');
            answer
        }
        _ => http("404 Not Found", &[], b"secret words of the other server"),
    })
    .await;
    // Accepts connections and never says a word.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_at = silent.local_addr().unwrap();
    let guest = address.to_string();
    let allowed = format!("{guest},{silent_at}");
    let bench = Bench::start(&[
        "--allow-media-host",
        &allowed,
        "--media-fetch-timeout",
        "1",
        "--max-image-bytes",
        "1000000",
    ])
    .await;
    for path in ["good.png", "moved.png"] {
        let mut body = bench.good.clone();
        body["messages"][0]["content"][0]["image_url"]["url"] =
            json!(format!("http://{guest}/{path}"));
        assert_eq!(bench.server.text(&body).await, bench.expected, "{path}");
    }
    for path in [
        "gone.png",
        "inwards.png",
        "metadata.png",
        "loop.png",
        "page.png",
        "endless.png",
    ] {
        let url = format!("http://{guest}/{path}");
        bench.refuses_picture(path, &url, &[]).await;
    }
    let url = format!("http://{silent_at}/slow.png");
    bench
        .refuses_picture("slow", &url, &["--media-fetch-timeout"])
        .await;
    for url in [
        "http://127.0.0.1:1/a.png",
        "http://localhost:1/a.png",
        "http://[::1]/a.png",
        "http://10.0.0.1/a.png",
        "http://0x7f000001/a.png",
        "http://user:word@127.0.0.1/a.png",
    ] {
        bench.refuses_picture(url, url, &[]).await;
    }
    let leaked = bench
        .server
        .chat(&request(&[format!("http://{guest}/gone.png")], "?"))
        .await;
    assert!(!leaked.text().await.unwrap().contains("secret words"));
}

#[tokio::test(flavor = "multi_thread")]
async fn special_tokens_that_a_user_types_are_text() {
    let bench = Bench::start(&[]).await;
    let count = async |text: &str| {
        let body = json!({"model": "test", "max_tokens": 1, "messages": [{"role": "user", "content": text}]});
        let answer: Value = bench.server.chat(&body).await.json().await.unwrap();
        answer["usage"]["prompt_tokens"]
            .as_u64()
            .unwrap_or_else(|| panic!("{answer}"))
    };
    let plain = count("hello").await;
    for typed in [
        "<|image_1|>",
        "<|image_1|><|image_7|>",
        "<|end|>",
        "<|assistant|>",
        "</s>",
    ] {
        // As a placeholder or a control token it would be refused, or be a single token.
        assert!(count(&format!("hello{typed}")).await > plain + 1, "{typed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_fit_is_refused() {
    let bench = Bench::start(&["--max-body-bytes", "200000", "--max-model-len", "1024"]).await;
    let long =
        json!({"model": "test", "messages": [{"role": "user", "content": "word ".repeat(5000)}]});
    bench
        .refuses("long prompt", long.to_string(), 400, &["1024"])
        .await;
    let mut body = bench.good.clone();
    body["max_tokens"] = json!(100_000);
    bench
        .refuses(
            "long answer",
            body.to_string(),
            400,
            &["max_tokens", "1024"],
        )
        .await;
    bench
        .refuses("large body", "x".repeat(300_000), 413, &["200000"])
        .await;

    let response = bench
        .server
        .http
        .post(format!("{}/v1/chat/completions", bench.server.url))
        .header("content-type", "text/plain")
        .body("{}")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    for (path, status) in [("/v1/nothing", 404), ("/v1/chat/completions", 405)] {
        let response = bench.server.get(path).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        let answer: Value = response.json().await.unwrap();
        assert!(answer["error"]["message"].is_string(), "{path}: {answer}");
    }
    // Still well after all this.
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(bench.server.text(&bench.good).await, bench.expected);
}
