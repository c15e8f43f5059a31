//! Pictures that are none, too many, or behind addresses that give none.

use std::convert::Infallible;
use std::io::Cursor;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Redirect;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::gif::GifEncoder;
use image::{Frame, ImageFormat, RgbImage, RgbaImage};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::script::{ALPHABET, IMAGE_TOKENS, UNLUCKY_WIDTH};
use crate::server::{Setup, TestServer};

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    RgbImage::new(width, height)
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
        .unwrap();
    bytes
}

fn animated_gif() -> Vec<u8> {
    let mut bytes = Vec::new();
    GifEncoder::new(&mut bytes)
        .encode_frames((0..5).map(|_| Frame::new(RgbaImage::new(4, 4))))
        .unwrap();
    bytes
}

/// A PNG whose header claims a size that its data does not have.
fn boasting_png(side: u32) -> Vec<u8> {
    let mut bytes = png(8, 8);
    bytes[16..20].copy_from_slice(&side.to_be_bytes());
    bytes[20..24].copy_from_slice(&side.to_be_bytes());
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// The checksum of PNG chunks (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

fn data_uri(bytes: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(bytes))
}

fn ask(urls: &[String]) -> Value {
    let parts: Vec<_> = urls
        .iter()
        .map(|url| json!({"type": "image_url", "image_url": {"url": url}}))
        .collect();
    json!({"messages": [{"role": "user", "content": parts}]})
}

#[tokio::test]
async fn odd_but_valid_pictures_are_answered() {
    let server = TestServer::start().await;
    for bytes in [png(1, 1), png(1, 1000), png(1000, 1), animated_gif()] {
        let answer = server.answer(&ask(&[data_uri(&bytes)])).await;
        assert_eq!(answer["usage"]["prompt_tokens"], IMAGE_TOKENS + 1);
    }
}

#[tokio::test]
async fn data_that_is_no_picture_is_refused_beside_a_good_request() {
    let server = TestServer::start().await;
    let whole = png(64, 64);
    let cases = [
        (data_uri(b"hello, I am no picture"), "invalid_image"),
        (data_uri(b""), "invalid_image_url"),
        (data_uri(&whole[..whole.len() / 2]), "invalid_image"),
        (data_uri(&whole[..20]), "invalid_image"),
        (data_uri(&boasting_png(65_535)), "image_too_large"),
        ("data:image/png;base64,@@@@".to_owned(), "invalid_image_url"),
        ("data:image/png;base64".to_owned(), "invalid_image_url"),
        ("file:///etc/passwd".to_owned(), "invalid_image_url"),
        ("/etc/passwd".to_owned(), "invalid_image_url"),
        ("http://".to_owned(), "invalid_image_url"),
        ("http://127.0.0.1:9/x.png".to_owned(), "image_url_forbidden"),
        ("http://[::1]/x.png".to_owned(), "image_url_forbidden"),
        (
            "http://169.254.169.254/latest".to_owned(),
            "image_url_forbidden",
        ),
    ];
    let bad = async {
        for (url, code) in &cases {
            let request = ask(&[data_uri(&whole), url.clone()]);
            let (status, error) = server.refusal(&request).await;
            assert_eq!(
                (status, &error["code"]),
                (400, &json!(code)),
                "{url}: {error}"
            );
            assert_eq!(error["param"], "messages[0].content[1].image_url.url");
        }
    };
    let good = json!({});
    let (answer, ()) = futures::join!(server.answer(&good), bad);
    assert_eq!(answer["choices"][0]["message"]["content"], ALPHABET);
}

#[tokio::test]
async fn pictures_beyond_the_limit_are_counted_and_not_loaded() {
    let server = TestServer::start().await;
    let (status, error) = server
        .refusal(&ask(&vec!["http://10.0.0.1/".to_owned(); 200]))
        .await;
    assert_eq!((status, &error["code"]), (400, &json!("too_many_images")));
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with("At most 5 image(s) may be provided in one request"),
        "{message}"
    );
    assert!(message.contains("200"), "{message}");
}

#[tokio::test]
async fn a_picture_that_the_model_refuses_is_named() {
    let server = TestServer::start().await;
    let urls = [data_uri(&png(5, 5)), data_uri(&png(UNLUCKY_WIDTH, 5))];
    let (status, error) = server.refusal(&ask(&urls)).await;
    assert_eq!((status, &error["code"]), (400, &json!("invalid_image")));
    assert_eq!(error["param"], "messages[0].content[1].image_url.url");
}

/// A web server with every kind of trouble; gives its address.
async fn trouble() -> String {
    let endless = || async {
        let zeros = futures::stream::repeat(Ok::<_, Infallible>(vec![0u8; 4096]));
        Body::from_stream(zeros)
    };
    let slow = || async {
        tokio::time::sleep(Duration::from_secs(60)).await;
    };
    let router = Router::new()
        .route("/good.png", get(|| async { png(9, 9) }))
        .route("/page", get(|| async { "<html>no picture</html>" }))
        .route("/gone", get(|| async { StatusCode::NOT_FOUND }))
        .route(
            "/inside",
            get(|| async { Redirect::temporary("http://169.254.169.254/x") }),
        )
        .route("/around", get(|| async { Redirect::temporary("/around") }))
        .route(
            "/to-good",
            get(|| async { Redirect::temporary("/good.png") }),
        )
        .route("/endless", get(endless))
        .route("/slow", get(slow));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    format!("http://{address}")
}

#[tokio::test]
async fn addresses_that_give_no_picture_are_refused_with_the_cause() {
    let base = trouble().await;
    let mut setup = Setup::default();
    setup.media.allow_hosts = vec!["127.0.0.1".parse().unwrap()];
    setup.media.fetch_timeout = Duration::from_millis(500);
    setup.media.image.max_bytes = 100_000;
    let server = TestServer::with(setup).await;
    for path in ["/good.png", "/to-good"] {
        let answer = server.answer(&ask(&[format!("{base}{path}")])).await;
        assert_eq!(answer["usage"]["prompt_tokens"], IMAGE_TOKENS + 1);
    }
    let cases = [
        ("/page", "invalid_image"),
        ("/gone", "image_download_failed"),
        ("/inside", "image_url_forbidden"),
        ("/around", "image_download_failed"),
        ("/endless", "image_too_large"),
        ("/slow", "image_download_failed"),
    ];
    let bad = async {
        for (path, code) in cases {
            let (status, error) = server.refusal(&ask(&[format!("{base}{path}")])).await;
            assert_eq!(
                (status, &error["code"]),
                (400, &json!(code)),
                "{path}: {error}"
            );
            assert_eq!(error["param"], "messages[0].content[0].image_url.url");
        }
        let (status, error) = server
            .refusal(&ask(&["http://127.0.0.1:1/x".to_owned()]))
            .await;
        assert_eq!(
            (status, &error["code"]),
            (400, &json!("image_download_failed"))
        );
    };
    let good = json!({});
    let (answer, ()) = futures::join!(server.answer(&good), bad);
    assert_eq!(answer["choices"][0]["message"]["content"], ALPHABET);
}
