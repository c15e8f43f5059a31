//! A prefix for all routes.

use serde_json::json;
use vlmd_server::{ApiKeys, ServerConfig};

use crate::server::{MODEL, Setup, TestServer, chat_body, error_of, json_of};

const ROOT: &str = "/models/vision";

async fn start(keys: &[&str]) -> TestServer {
    TestServer::with(Setup {
        config: ServerConfig {
            root_path: ROOT.parse().unwrap(),
            api_keys: ApiKeys::new(keys),
            ..ServerConfig::default()
        },
        ..Setup::default()
    })
    .await
}

#[tokio::test]
async fn routes_answer_under_the_prefix_and_without_it() {
    let server = start(&[]).await;
    for root in ["", ROOT] {
        for path in [
            "/v1/models",
            "/v1/models/",
            "/v1/models/org/alphabet",
            "/docs",
            "/health",
        ] {
            let response = server.get(&format!("{root}{path}")).send().await.unwrap();
            assert_eq!(response.status(), 200, "{root}{path}");
        }
        let path = format!("{root}/v1/chat/completions");
        let answer = server.ask(&path, &chat_body(&json!({}))).await;
        assert_eq!(json_of(answer).await["model"], MODEL);
        let wrong = server.get(&path).send().await.unwrap();
        assert_eq!(error_of(wrong).await.0, 405);
    }
    for root in ["", ROOT] {
        let assets = format!("{root}/v2/nvcf/assets");
        let wanted = json!({"contentType": "image/png", "description": "a picture"});
        let asset = json_of(server.ask(&assets, &wanted).await).await;
        let upload = asset["uploadUrl"].as_str().unwrap();
        let below = format!("{}{assets}/", server.base);
        assert!(upload.starts_with(&below), "{upload} under {below}");
    }
    for path in [
        ROOT,
        "/models",
        "/models/visionary/v1/models",
        "/models/vision/none",
    ] {
        let response = server.get(path).send().await.unwrap();
        assert_eq!(error_of(response).await.0, 404, "{path}");
    }
    let document = server.get("/openapi.json").send().await.unwrap();
    assert_eq!(json_of(document).await["servers"], json!([{ "url": ROOT }]));
}

#[tokio::test]
async fn keys_are_asked_for_under_the_prefix_as_well() {
    let server = start(&["secret"]).await;
    for root in ["", ROOT] {
        let models = format!("{root}/v1/models");
        let refused = server.get(&models).send().await.unwrap();
        assert_eq!(error_of(refused).await.0, 401, "{root}");
        let allowed = server
            .get(&models)
            .bearer_auth("secret")
            .send()
            .await
            .unwrap();
        assert_eq!(allowed.status(), 200, "{root}");
        let probe = format!("{root}/v1/health/live");
        assert_eq!(server.get(&probe).send().await.unwrap().status(), 200);
    }
}
