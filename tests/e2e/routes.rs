//! Routes beside chat, against the references' own prompts and answers.

use std::path::Path;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::goldens::{CLEAR_GAP, messages};
use crate::support::{Server, project};

/// A golden whose checkpoint is a directory, or an archive with its tower.
struct Golden {
    folder: &'static str,
    files: &'static [&'static str],
    /// Whether its prompts begin with the token that the tokenizer puts in front.
    add_special_tokens: bool,
}

const GOLDENS: [Golden; 4] = [
    Golden {
        folder: "phi3_v",
        files: &["--model", "."],
        add_special_tokens: true,
    },
    Golden {
        folder: "llava",
        files: &["--model", "."],
        add_special_tokens: true,
    },
    Golden {
        folder: "mllama",
        files: &["--model", "."],
        add_special_tokens: false,
    },
    Golden {
        folder: "neva",
        files: &["--model", "neva.nemo", "--vision-tower", "clip"],
        add_special_tokens: false,
    },
];

async fn post(server: &Server, path: &str, body: &Value) -> Value {
    let response = server
        .http
        .post(format!("{}{path}", server.url))
        .json(body)
        .send()
        .await
        .expect("the server answers");
    let status = response.status();
    let answer: Value = response.json().await.expect("the answer is JSON");
    assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    answer
}

async fn get(server: &Server, path: &str) -> Value {
    let response = server.get(path).await;
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    response.json().await.expect("the answer is JSON")
}

async fn check(golden: &Golden) {
    let folder = project().join("tests/golden").join(golden.folder);
    let file = std::fs::read(folder.join("golden.json")).unwrap();
    let reference: Value = serde_json::from_slice(&file).unwrap();
    let mut arguments = vec!["--served-model-name".to_owned(), "test".to_owned()];
    arguments.extend(["--max-images".to_owned(), "8".to_owned()]);
    arguments.extend(golden.files.iter().map(|word| match *word {
        flag if flag.starts_with("--") => flag.to_owned(),
        file => folder.join(file).display().to_string(),
    }));
    arguments.push("--transformers-quirks".to_owned());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let server = Server::start(&arguments).await;
    let (mut seen, mut continued) = (0, 0);
    for case in reference["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        if name.contains("rope_boundary") || name == "exceeds_by_one" {
            continue;
        }
        let Some(messages) = messages(case, &folder) else {
            continue;
        };
        let case_name = format!("{}: {name}", golden.folder);
        let chat = json!({"model": "test", "messages": messages,
            "chat_template_kwargs": {"date_string": reference["date_string"]}});
        check_prompt(&server, case, &chat, &case_name).await;
        seen += 1;
        if case["images"].as_array().is_some_and(Vec::is_empty) {
            check_text(&server, golden, &reference, case, &case_name).await;
            continued += 1;
        }
    }
    assert!(seen >= 3 && continued >= 2, "{}", golden.folder);
}

/// The conversation's tokens are the reference's, as far as it has tokens there: where features of
/// a picture stand, it has something of its own.
async fn check_prompt(server: &Server, case: &Value, chat: &Value, name: &str) {
    let tokenized = post(server, "/tokenize", chat).await;
    let rendered = post(server, "/v1/chat/completions/render", chat).await;
    let expected = case["input_ids"].as_array().unwrap();
    let tokens = tokenized["tokens"].as_array().unwrap();
    assert_eq!(tokenized["count"], case["prompt_len"], "{name}");
    assert_eq!(tokens.len(), expected.len(), "{name}");
    assert_eq!(&rendered["token_ids"], &tokenized["tokens"], "{name}");
    let places = rendered["features"]["mm_placeholders"]["image"].as_array();
    let is_feature = |at: usize| {
        places.into_iter().flatten().any(|place| {
            let offset = place["offset"].as_u64().unwrap() as usize;
            (offset..offset + place["length"].as_u64().unwrap() as usize).contains(&at)
        })
    };
    for (at, (token, expected)) in tokens.iter().zip(expected).enumerate() {
        assert!(token == expected || is_feature(at), "{name}: token {at}");
    }
    assert_eq!(rendered["prompt"], case["prompt"], "{name}");
}

/// A prompt of text alone is the same as a text, as tokens, and in the reference; and so is what
/// the model says to it.
async fn check_text(server: &Server, golden: &Golden, reference: &Value, case: &Value, name: &str) {
    let prompt = &case["prompt"];
    let special = golden.add_special_tokens;
    let text = json!({"prompt": prompt, "add_special_tokens": special});
    let tokenized = post(server, "/tokenize", &text).await;
    assert_eq!(tokenized["tokens"], case["input_ids"], "{name}");
    let gaps = case["top2_gaps"].as_array().unwrap().iter();
    let clear = gaps.take_while(|gap| gap.as_f64().unwrap() > CLEAR_GAP);
    let clear = clear.count();
    let ids = case["generated_ids"].as_array().unwrap();
    let ask = |prompt: &Value| {
        json!({"model": "test", "prompt": prompt, "add_special_tokens": special,
            "temperature": 0, "max_tokens": clear.max(1), "ignore_eos": true,
            // SentencePiece, by which NeMo decodes, never shows them.
            "skip_special_tokens": reference["archive"].is_string()})
    };
    let both = ask(&json!([prompt, case["input_ids"]]));
    let answer = post(server, "/v1/completions", &both).await;
    let texts = [0, 1].map(|index| answer["choices"][index]["text"].as_str().unwrap());
    assert_eq!(texts[0], texts[1], "{name}");
    assert_eq!(
        answer["usage"]["prompt_tokens"],
        2 * case["prompt_len"].as_u64().unwrap(),
        "{name}"
    );
    if clear == ids.len() {
        let expected = case["generated_text"].as_str().unwrap();
        assert_eq!(texts[0].trim(), expected.trim(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_and_their_completions_are_the_references_own() {
    for golden in &GOLDENS {
        check(golden).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_describes_what_it_serves() {
    let server = Server::start(&["--root-path", "/vision/"]).await;
    let metadata = get(&server, "/vision/v1/metadata").await;
    assert_eq!(metadata["modelInfo"][0]["modelUrl"], "embedded://vlmd/tiny");
    assert_eq!(metadata["licenseInfo"]["name"], "MIT OR Apache-2.0");
    let manifest = get(&server, "/v1/manifest").await;
    let manifest = manifest["manifest_file"].as_str().unwrap();
    assert!(manifest.contains("config.json"), "{manifest}");
    let license = get(&server, "/v1/license").await;
    assert!(license["content"].as_str().unwrap().contains("vlmd/tiny"));
    let models = get(&server, "/vision/v1/models").await;
    let card = &models["data"][0];
    assert_eq!(card["root"], card["id"]);
    assert_eq!(card["model_type"], "vlm");
    assert!(card["max_model_len"].as_u64().unwrap() > 0);
    assert_eq!(card["permission"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_described_without_its_place() {
    let folder = project().join("tests/golden/llava");
    let folder = Path::new(&folder).to_str().unwrap();
    let server = Server::start(&["--model", folder]).await;
    for path in ["/v1/metadata", "/v1/manifest", "/v1/license"] {
        let told = get(&server, path).await.to_string();
        assert!(told.contains("llava"), "{path}: {told}");
        assert!(!told.contains("golden"), "{path}: {told}");
    }
    let metadata = get(&server, "/v1/metadata").await;
    assert_eq!(metadata["modelInfo"][0]["modelUrl"], "local://llava");
    assert_eq!(metadata["licenseInfo"]["name"], json!(null));
}

#[test]
fn a_root_path_that_is_none_is_refused_at_start() {
    let refused = crate::support::vlmd()
        .args(["serve", "--root-path", "a b"])
        .output()
        .unwrap();
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("must begin with `/`"), "{told}");
}
