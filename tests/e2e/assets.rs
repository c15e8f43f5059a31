//! Pictures that are uploaded before they are asked about.

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{PATIENCE, Server, golden_checkpoint, png, request};

const ASSETS: &str = "/v2/nvcf/assets";
const DESCRIPTION: &str = "x-amz-meta-nvcf-asset-description";
const REFERENCES: &str = "NVCF-INPUT-ASSET-REFERENCES";

async fn start(arguments: &[&str]) -> Server {
    let checkpoint = golden_checkpoint();
    let model = checkpoint.to_str().unwrap();
    let mut all = vec!["--model", model, "--served-model-name", "test"];
    all.extend(arguments);
    Server::start(&all).await
}

fn picture() -> Vec<u8> {
    std::fs::read(picture_path()).unwrap()
}

fn picture_path() -> impl AsRef<Path> {
    golden_checkpoint().join("images/a_97x41.png")
}

fn call(server: &Server, method: Method, path: &str, key: &str) -> RequestBuilder {
    let request = server.http.request(method, format!("{}{path}", server.url));
    request.bearer_auth(key)
}

async fn create(server: &Server, key: &str) -> Response {
    let body = json!({"contentType": "image/png", "description": "a picture"});
    let request = call(server, Method::POST, ASSETS, key);
    request.json(&body).send().await.unwrap()
}

async fn created(server: &Server, key: &str) -> (String, String) {
    let response = create(server, key).await;
    let status = response.status();
    let asset: Value = response.json().await.unwrap();
    assert_eq!(status, StatusCode::OK, "{asset}");
    assert_eq!(asset["contentType"], "image/png");
    assert_eq!(asset["description"], "a picture");
    let text = |name: &str| asset[name].as_str().unwrap().to_owned();
    (text("assetId"), text("uploadUrl"))
}

/// Sends bytes as NVIDIA's snippets do: without a key.
async fn put(server: &Server, url: &str, bytes: Vec<u8>) -> Response {
    let request = server.http.put(url).header(CONTENT_TYPE, "image/png");
    let request = request.header(DESCRIPTION, "a picture");
    request.body(bytes).send().await.unwrap()
}

async fn uploaded(server: &Server, key: &str, bytes: Vec<u8>) -> String {
    let (id, url) = created(server, key).await;
    assert_eq!(put(server, &url, bytes).await.status(), StatusCode::OK);
    id
}

/// Status and error of a refusal.
async fn refused(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    assert!(response.headers().contains_key("x-request-id"));
    let body: Value = response.json().await.unwrap();
    assert!(body["error"]["message"].is_string(), "{body}");
    (status, body["error"].clone())
}

fn reference(id: &str) -> String {
    format!("data:image/png;asset_id,{id}")
}

async fn ask(server: &Server, key: &str, url: &str) -> Response {
    let mut body = request(&[url.to_owned()], "What is this?");
    body["max_tokens"] = json!(8);
    let request = call(server, Method::POST, "/v1/chat/completions", key);
    request.json(&body).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uploaded_picture_is_as_good_as_one_that_is_sent() {
    let server = start(&[]).await;
    let key = "none";
    let (id, url) = created(&server, key).await;
    assert!(url.starts_with(&server.url), "{url}");
    let early = refused(ask(&server, key, &reference(&id)).await).await;
    assert_eq!(
        (early.0, &early.1["code"]),
        (400, &json!("asset_not_uploaded"))
    );
    let before = server.metric("vlmd:asset_bytes").await;
    assert_eq!(put(&server, &url, picture()).await.status(), StatusCode::OK);
    let after = server.metric("vlmd:asset_bytes").await;
    assert_eq!(after - before, picture().len() as f64);

    let inline = ask(&server, key, &png(picture_path().as_ref())).await;
    let inline: Value = inline.json().await.unwrap();
    let by_asset = ask(&server, key, &reference(&id)).await;
    let by_asset: Value = by_asset.json().await.unwrap();
    assert_eq!(by_asset["choices"], inline["choices"]);
    assert_eq!(by_asset["usage"], inline["usage"]);
    // A picture and a text in each spelling, with the header and without, on both routes.
    let text = "What is this?";
    let url = reference(&id);
    for content in [
        json!([{"type": "image_url", "image_url": url}, {"type": "text", "text": text}]),
        json!([{"type": "image", "image": url}, {"type": "text", "text": text}]),
        json!(format!("<img src=\"{url}\" /> {text}")),
    ] {
        let body = json!({"model": "test", "temperature": 0, "max_tokens": 8,
            "messages": [{"role": "user", "content": content}]});
        for path in ["/v1/chat/completions", "/v1/vlm/test"] {
            for references in [None, Some(""), Some(&*id), Some(&*format!(" {id} ,, {id}"))] {
                let mut request = call(&server, Method::POST, path, key).json(&body);
                if let Some(references) = references {
                    request = request.header(REFERENCES, references);
                }
                let answer: Value = request.send().await.unwrap().json().await.unwrap();
                let (got, expected) = (&answer["choices"][0], &inline["choices"][0]);
                let (got, expected) = (&got["message"], &expected["message"]);
                assert_eq!(got["content"], expected["content"], "{content}: {answer}");
            }
        }
    }
    let list: Value = server.get(ASSETS).await.json().await.unwrap();
    let one: Value = server
        .get(&format!("{ASSETS}/{id}"))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(list, json!({"assets": [one["asset"]]}));
    assert_eq!(one["asset"]["assetId"], id);
    let made = one["asset"]["createdAt"].as_str().unwrap();
    assert!(made.starts_with("20") && made.ends_with('Z'), "{made}");

    let path = format!("{ASSETS}/{id}");
    let gone = call(&server, Method::DELETE, &path, key)
        .send()
        .await
        .unwrap();
    assert_eq!(gone.status(), StatusCode::NO_CONTENT);
    assert_eq!(server.metric("vlmd:asset_bytes").await, before);
    for response in [
        server.get(&path).await,
        call(&server, Method::DELETE, &path, key)
            .send()
            .await
            .unwrap(),
    ] {
        let (status, error) = refused(response).await;
        assert_eq!((status, &error["code"]), (404, &json!("unknown_asset")));
    }
    let (status, error) = refused(ask(&server, key, &reference(&id)).await).await;
    assert_eq!((status, &error["code"]), (400, &json!("unknown_asset")));
    assert_eq!(error["param"], "messages[0].content[0].image_url.url");
    assert!(error["message"].as_str().unwrap().contains(&id), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asset_is_its_keys_alone() {
    let server = start(&["--api-key", "alpha,beta"]).await;
    assert_eq!(refused(create(&server, "wrong").await).await.0, 401);
    let id = uploaded(&server, "alpha", picture()).await;
    let path = format!("{ASSETS}/{id}");
    assert_eq!(refused(server.get(&path).await).await.0, 401);
    assert_eq!(ask(&server, "alpha", &reference(&id)).await.status(), 200);
    let stranger = refused(ask(&server, "beta", &reference(&id)).await).await;
    let nobody = "3d0b3c5c-7c1c-4f3b-8a43-1d0b3c5c7c1c";
    let unknown = refused(ask(&server, "beta", &reference(nobody)).await).await;
    assert_eq!(stranger.0, 400);
    // Word for word what is said of one that does not exist.
    let message = stranger.1["message"].as_str().unwrap();
    assert_eq!(message.replace(&id, nobody), unknown.1["message"]);
    for method in [Method::GET, Method::DELETE] {
        let response = call(&server, method, &path, "beta").send().await.unwrap();
        assert_eq!(refused(response).await.0, 404);
    }
    let list = call(&server, Method::GET, ASSETS, "beta")
        .send()
        .await
        .unwrap();
    assert_eq!(list.json::<Value>().await.unwrap(), json!({"assets": []}));
    let body = json!({"model": "test", "messages": [{"role": "user", "content": "Hi"}]});
    let request = call(&server, Method::POST, "/v1/chat/completions", "beta");
    let response = request.header(REFERENCES, &id).json(&body).send().await;
    let (status, error) = refused(response.unwrap()).await;
    assert_eq!((status, &error["param"]), (400, &json!(REFERENCES)));
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_are_not_what_was_said_are_refused() {
    let server = start(&["--api-key", "alpha", "--max-image-bytes", "4000"]).await;
    let (id, url) = created(&server, "alpha").await;
    let (address, token) = url.split_once("?token=").unwrap();
    let flipped = if token.starts_with('0') { "1" } else { "0" };
    for wrong in [
        address.to_owned(),
        format!("{address}?token="),
        format!("{address}?token={flipped}{}", &token[1..]),
        format!("{address}?token={}", &token[1..]),
        url.replace(&id, "3d0b3c5c-7c1c-4f3b-8a43-1d0b3c5c7c1c"),
        url.replace(&id, "%ff"),
    ] {
        let (status, error) = refused(put(&server, &wrong, picture()).await).await;
        assert_eq!(
            (status, &error["code"]),
            (404, &json!("unknown_upload")),
            "{wrong}"
        );
    }
    // An address that lets in without a key lets in for nothing else.
    let other = server.http.get(&url).send().await.unwrap();
    assert_eq!(refused(other).await.0, 405);
    let near = server.http.put(address.trim_end_matches("/upload"));
    assert_eq!(refused(near.send().await.unwrap()).await.0, 401);

    let put = async |url: &str, header: (&'static str, &str), bytes: Vec<u8>| {
        let request = server.http.put(url).header(header.0, header.1);
        refused(request.body(bytes).send().await.unwrap()).await
    };
    let png = ("content-type", "image/png");
    let (status, error) = put(&url, ("content-type", "image/jpeg"), picture()).await;
    assert_eq!(status, 415, "{error}");
    assert_eq!(put(&url, (DESCRIPTION, "another"), picture()).await.0, 400);
    assert_eq!(put(&url, png, Vec::new()).await.0, 400);
    let (status, error) = put(&url, png, vec![0; 4001]).await;
    assert_eq!(status, 413);
    let message = error["message"].as_str().unwrap();
    for word in ["4000", "4001", "--max-image-bytes"] {
        assert!(message.contains(word), "{message}");
    }
    for (body, status) in [
        (json!({}), 400),
        (json!({"contentType": "text/html"}), 415),
        (
            json!({"contentType": "image/png", "description": "x".repeat(2000)}),
            400,
        ),
    ] {
        let request = call(&server, Method::POST, ASSETS, "alpha");
        let response = request.json(&body).send().await.unwrap();
        assert_eq!(refused(response).await.0, status, "{body}");
    }
    // What the bytes are is for the media gate to say.
    let id = uploaded(&server, "alpha", b"<html>".to_vec()).await;
    let (status, error) = refused(ask(&server, "alpha", &reference(&id)).await).await;
    assert_eq!(
        (status, &error["code"]),
        (400, &json!("invalid_image")),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_bounded_in_bytes_number_and_time() {
    let size = picture().len();
    let bytes = (2 * size + size / 2).to_string();
    let arguments = ["--asset-owner-bytes", &bytes, "--asset-owner-count", "4"];
    let server = start(&arguments).await;
    let first = uploaded(&server, "k", picture()).await;
    uploaded(&server, "k", picture()).await;
    let (third, url) = created(&server, "k").await;
    let response = put(&server, &url, picture()).await;
    assert!(response.headers().contains_key(RETRY_AFTER));
    let (status, error) = refused(response).await;
    assert_eq!(
        (status, &error["code"]),
        (429, &json!("asset_quota_exceeded"))
    );
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains(&bytes) && message.contains("--asset-owner-bytes"),
        "{message}"
    );
    created(&server, "k").await;
    let (status, error) = refused(create(&server, "k").await).await;
    assert_eq!(status, 429);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("--asset-owner-count")
    );
    let path = format!("{ASSETS}/{first}");
    call(&server, Method::DELETE, &path, "k")
        .send()
        .await
        .unwrap();
    assert_eq!(put(&server, &url, picture()).await.status(), StatusCode::OK);
    assert_eq!(
        ask(&server, "k", &reference(&third)).await.status(),
        StatusCode::OK
    );

    let server = start(&["--asset-ttl", "3"]).await;
    let id = uploaded(&server, "k", picture()).await;
    let begin = Instant::now();
    // Also where nobody asks for the asset.
    while server.metric("vlmd:asset_bytes").await > 0.0 {
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        refused(ask(&server, "k", &reference(&id)).await).await.0,
        400
    );

    let server = start(&["--asset-bytes", "0"]).await;
    let (status, error) = refused(create(&server, "k").await).await;
    assert_eq!((status, &error["code"]), (404, &json!("assets_disabled")));
}
