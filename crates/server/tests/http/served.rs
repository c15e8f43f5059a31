//! Routes that tell what is served.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use vlmd_server::ServerConfig;

use crate::server::{MODEL, TestServer, error_of, json_of};

async fn get(server: &TestServer, path: &str) -> Value {
    let response = server.get(path).send().await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    json_of(response).await
}

#[tokio::test]
async fn metadata_is_what_the_operator_reads() {
    let server = TestServer::start().await;
    let metadata = get(&server, "/v1/metadata").await;
    assert_eq!(
        metadata["modelInfo"],
        json!([{"shortName": "alphabet:v1", "modelUrl": "hf://org/alphabet@v1"}])
    );
    assert_eq!(metadata["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(metadata["model_type"], "vlm");
    assert_eq!(metadata["licenseInfo"], json!({"name": "MIT"}));
    assert_eq!(
        metadata["assetInfo"],
        json!(["config.json sha256:ab", "a: \"b\""])
    );
    assert_eq!(
        get(&server, "/version").await["version"],
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(get(&server, "/v1/version").await["api"], "1");
}

#[tokio::test]
async fn the_manifest_is_yaml() {
    let server = TestServer::start().await;
    let manifest = get(&server, "/v1/manifest").await;
    let yaml = manifest["manifest_file"].as_str().unwrap();
    let read: Value = serde_saphyr::from_str(yaml).unwrap_or_else(|e| panic!("{e}:\n{yaml}"));
    let model = &read["model"];
    assert_eq!(model["names"], json!([MODEL, "alias"]));
    assert_eq!(model["source"], "hf://org/alphabet@v1");
    assert_eq!(model["precision"], "as stored");
    assert_eq!(model["max_model_len"], 4096);
    assert_eq!(
        model["files"],
        json!([{"name": "config.json", "sha256": "ab"}, {"name": "a: \"b\"", "sha256": null}])
    );
}

#[tokio::test]
async fn the_licence_is_whole_and_names_the_models() {
    let server = TestServer::start().await;
    let license = get(&server, "/v1/license").await;
    let content = license["content"].as_str().unwrap();
    for words in [
        "MIT License",
        "Apache License",
        "org/alphabet are licensed under MIT",
    ] {
        assert!(content.contains(words), "{words}");
    }
    assert_eq!(license["size"], content.len());
    let digest = Sha256::digest(content.as_bytes());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(license["sha"], digest);
    for field in ["name", "path", "url", "type"] {
        assert!(!license[field].as_str().unwrap().is_empty(), "{field}");
    }
}

#[tokio::test]
async fn what_is_not_loaded_is_not_described() {
    let server = TestServer::loading(ServerConfig::default()).await;
    for path in ["/v1/metadata", "/v1/manifest", "/v1/license"] {
        let (status, error) = error_of(server.get(path).send().await.unwrap()).await;
        assert_eq!(
            (status, &error["code"]),
            (503, &json!("not_ready")),
            "{path}"
        );
    }
    for path in [
        "/tokenize",
        "/detokenize",
        "/v1/completions",
        "/invocations",
    ] {
        let (status, error) = error_of(server.ask(path, &json!({})).await).await;
        assert_eq!(
            (status, &error["code"]),
            (503, &json!("not_ready")),
            "{path}"
        );
    }
    assert_eq!(
        get(&server, "/version").await["version"],
        env!("CARGO_PKG_VERSION")
    );
}
