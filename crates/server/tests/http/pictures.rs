//! Pictures that are remembered: by their content, and by the names that clients give them.

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, RgbImage};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use vlmd_media::MediaConfig;
use vlmd_server::{ApiKeys, PictureMemory};

use crate::script::{ALPHABET, UNLUCKY_WIDTH};
use crate::server::{MODEL, Setup, TestServer, error_of};

fn picture(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::new(width, height)
        .write_to(&mut bytes, format)
        .unwrap();
    bytes.into_inner()
}

fn data_uri(bytes: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(bytes))
}

fn png(width: u32, height: u32) -> String {
    data_uri(&picture(width, height, ImageFormat::Png))
}

/// A part with data, with a name, or with both.
fn part(url: Option<&str>, uuid: Option<&str>) -> Value {
    let image_url = url.map(|url| json!({"url": url}));
    json!({"type": "image_url", "image_url": image_url, "uuid": uuid})
}

fn ask(parts: &[Value]) -> Value {
    json!({"messages": [{"role": "user", "content": parts}]})
}

/// A named picture must be refused as unknown.
async fn unknown(server: &TestServer, uuid: &str) -> String {
    let (status, error) = error_of(server.chat(&ask(&[part(None, Some(uuid))])).await).await;
    assert_eq!(status, 400, "{error}");
    assert_eq!(error["code"], "unknown_image_uuid", "{error}");
    assert_eq!(error["param"], "messages[0].content[0].uuid", "{error}");
    error["message"].as_str().unwrap().to_owned()
}

async fn cache_counts(server: &TestServer) -> [f64; 2] {
    let page = server.get("/metrics").send().await.unwrap();
    let page = page.text().await.unwrap();
    ["vllm:mm_cache_queries_total", "vllm:mm_cache_hits_total"].map(|metric| {
        let line = page
            .lines()
            .find(|line| line.starts_with(&format!("{metric}{{")));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap()
    })
}

#[tokio::test]
async fn a_name_stands_for_the_picture_that_was_sent_under_it() {
    let server = TestServer::start().await;
    let message = unknown(&server, "cat").await;
    assert!(
        message.contains("\"cat\"") && message.contains("--image-uuid-memory"),
        "{message}"
    );
    let sent = server
        .answer(&ask(&[part(Some(&png(4, 4)), Some("cat"))]))
        .await;
    for named in [
        part(None, Some("cat")),
        json!({"type": "image_url", "image_url": {}, "uuid": "cat"}),
        json!({"type": "image_url", "uuid": "cat"}),
    ] {
        let again = server.answer(&ask(&[named])).await;
        assert_eq!(again["usage"], sent["usage"]);
        assert_eq!(again["choices"][0]["message"]["content"], ALPHABET);
    }
    unknown(&server, "cat ").await;
    unknown(&server, "CAT").await;
}

#[tokio::test]
async fn other_data_replaces_a_picture() {
    let server = TestServer::start().await;
    let unlucky = png(UNLUCKY_WIDTH, 4);
    server
        .answer(&ask(&[part(Some(&png(4, 4)), Some("u"))]))
        .await;
    // Whether the model takes it is another matter.
    let response = server.chat(&ask(&[part(Some(&unlucky), Some("u"))])).await;
    assert_eq!(error_of(response).await.0, 400);
    let (status, error) = error_of(server.chat(&ask(&[part(None, Some("u"))])).await).await;
    assert_eq!(
        (status, &error["code"]),
        (400, &json!("invalid_image")),
        "{error}"
    );
    assert_eq!(error["param"], "messages[0].content[0].uuid");
    // What is no picture leaves things as they are, and so does one in bad company.
    server
        .answer(&ask(&[part(Some(&png(4, 4)), Some("u"))]))
        .await;
    let broken = data_uri(b"\x89PNG\r\n\x1a\nbroken");
    for parts in [
        vec![part(Some(&broken), Some("u"))],
        vec![part(Some(&unlucky), Some("u")), part(Some(&broken), None)],
    ] {
        assert_eq!(error_of(server.chat(&ask(&parts)).await).await.0, 400);
        server.answer(&ask(&[part(None, Some("u"))])).await;
    }
}

#[tokio::test]
async fn a_conversation_may_send_a_picture_once() {
    let server = TestServer::start().await;
    let url = png(4, 4);
    let body = |first: Value| {
        json!({"messages": [
            {"role": "user", "content": [first]},
            {"role": "assistant", "content": "x"},
            {"role": "user", "content": [part(None, Some("u")), {"type": "text", "text": "y"}]},
        ]})
    };
    let twice = server.answer(&body(part(Some(&url), Some("u")))).await;
    let named = server.answer(&body(part(None, Some("u")))).await;
    assert_eq!(twice["usage"], named["usage"]);
    // A name is known from the place on where its data stands, and not before.
    let parts = [part(None, Some("new")), part(Some(&url), Some("new"))];
    let (status, error) = error_of(server.chat(&ask(&parts)).await).await;
    assert_eq!(
        (status, &error["code"]),
        (400, &json!("unknown_image_uuid")),
        "{error}"
    );
}

#[tokio::test]
async fn names_belong_to_a_key_and_a_salt() {
    let mut setup = Setup::default();
    setup.config.api_keys = ApiKeys::new(["one", "two"]);
    let server = TestServer::with(setup).await;
    let chat = async |key: &str, salt: Option<&str>, url: Option<&str>| {
        let mut body = ask(&[part(url, Some("u"))]);
        body["model"] = json!(MODEL);
        body["cache_salt"] = json!(salt);
        let response = server.post(body.to_string()).bearer_auth(key).send().await;
        response.unwrap().status().as_u16()
    };
    let url = png(4, 4);
    assert_eq!(chat("one", None, Some(&url)).await, 200);
    assert_eq!(chat("one", None, None).await, 200);
    assert_eq!(chat("two", None, None).await, 400);
    assert_eq!(chat("one", Some("s"), None).await, 400);
    assert_eq!(chat("one", Some("s"), Some(&url)).await, 200);
    assert_eq!(chat("one", Some("s"), None).await, 200);
    assert_eq!(chat("two", Some("s"), None).await, 400);
}

#[tokio::test]
async fn pictures_that_nobody_asked_for_longest_are_forgotten() {
    let file = picture(64, 64, ImageFormat::Bmp);
    let mut setup = Setup::default();
    setup.pictures.named = 2 * file.len() + file.len() / 2;
    let server = TestServer::with(setup).await;
    let url = data_uri(&file);
    for uuid in ["a", "b"] {
        server.answer(&ask(&[part(Some(&url), Some(uuid))])).await;
    }
    server.answer(&ask(&[part(None, Some("a"))])).await;
    server.answer(&ask(&[part(Some(&url), Some("c"))])).await;
    unknown(&server, "b").await;
    for uuid in ["a", "c"] {
        server.answer(&ask(&[part(None, Some(uuid))])).await;
    }
}

#[tokio::test]
async fn without_memory_names_are_taken_and_forgotten() {
    let setup = Setup {
        pictures: PictureMemory {
            image_cache: 0,
            named: 0,
        },
        ..Setup::default()
    };
    let server = TestServer::with(setup).await;
    server
        .answer(&ask(&[part(Some(&png(4, 4)), Some("u"))]))
        .await;
    unknown(&server, "u").await;
    assert_eq!(cache_counts(&server).await, [0.0, 0.0]);
}

#[tokio::test]
async fn a_named_picture_is_not_fetched_again() {
    let fetched = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&fetched);
    let file = picture(4, 4, ImageFormat::Png);
    let app = Router::new().route(
        "/cat.png",
        get(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            std::future::ready(file.clone())
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/cat.png", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let setup = Setup {
        media: MediaConfig {
            allow_hosts: vec!["127.0.0.1".parse().unwrap()],
            ..MediaConfig::default()
        },
        ..Setup::default()
    };
    let server = TestServer::with(setup).await;
    server.answer(&ask(&[part(Some(&url), Some("u"))])).await;
    server.answer(&ask(&[part(None, Some("u"))])).await;
    assert_eq!(fetched.load(Ordering::SeqCst), 1);
    // An address is no name: what is behind it may change.
    server.answer(&ask(&[part(Some(&url), None)])).await;
    assert_eq!(fetched.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn pictures_are_recognised_by_their_content_in_any_file() {
    let server = TestServer::start().await;
    let files = [ImageFormat::Png, ImageFormat::Bmp].map(|format| data_uri(&picture(6, 4, format)));
    for (url, expected) in [
        (&files[0], [1.0, 0.0]),
        (&files[0], [2.0, 1.0]),
        (&files[1], [3.0, 2.0]),
        (&files[1], [4.0, 3.0]),
        // The same bytes in another shape.
        (&png(4, 6), [5.0, 3.0]),
    ] {
        server.answer(&ask(&[part(Some(url), None)])).await;
        assert_eq!(cache_counts(&server).await, expected);
    }
}

#[tokio::test]
async fn limits_hold_for_pictures_that_are_known() {
    let setup = Setup {
        media: MediaConfig {
            max_request_pixels: 64 * 64 + 1,
            ..MediaConfig::default()
        },
        ..Setup::default()
    };
    let server = TestServer::with(setup).await;
    let url = png(64, 64);
    server.answer(&ask(&[part(Some(&url), Some("u"))])).await;
    for second in [part(Some(&url), None), part(Some(&png(63, 64)), None)] {
        let parts = [part(Some(&url), None), second];
        let (status, error) = error_of(server.chat(&ask(&parts)).await).await;
        assert_eq!(
            (status, &error["code"]),
            (400, &json!("image_too_large")),
            "{error}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("--max-request-image-pixels"), "{message}");
    }
}
