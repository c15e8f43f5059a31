//! The reference's own answers, over HTTP.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Server, golden_checkpoint, png, project};

/// Below this distance between the two best logits the reference's own choice is a coin toss.
const CLEAR_GAP: f64 = 1e-3;

/// The committed goldens and those that `VLMD_GOLDENS` names, separated by colons.
fn goldens() -> Vec<PathBuf> {
    let mut folders = vec![
        golden_checkpoint(),
        project().join("tests/golden/phi3_v_crops16"),
    ];
    if let Ok(more) = std::env::var("VLMD_GOLDENS") {
        folders.extend(
            more.split(':')
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
        );
    }
    folders
}

/// A golden's message with placeholders in its text, as a client would send it.
fn message(message: &Value, pictures: &mut impl Iterator<Item = String>) -> Value {
    let content = message["content"]
        .as_str()
        .expect("golden contents are strings");
    let mut parts = Vec::new();
    for piece in content.split_inclusive("|>") {
        let Some(at) = piece.find("<|image_") else {
            parts.push(json!({"type": "text", "text": piece.trim_matches('\n')}));
            continue;
        };
        if at > 0 {
            parts.push(json!({"type": "text", "text": piece[..at].trim_matches('\n')}));
        }
        let url = pictures.next().expect("a picture for each placeholder");
        parts.push(json!({"type": "image_url", "image_url": {"url": url}}));
    }
    parts.retain(|part| part["text"] != "");
    json!({"role": message["role"], "content": parts})
}

/// Whether the HTTP dialect can spell the case: one newline between parts, each picture once.
fn expressible(case: &Value) -> bool {
    let contents: String = case["messages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|message| message["content"].as_str())
        .collect();
    let images = case["images"].as_array().map_or(0, Vec::len);
    contents.matches("<|image_").count() == images
        && contents.match_indices("<|image_").all(|(at, _)| {
            at == 0 || contents[..at].ends_with(['\n', '>']) || !contents.is_char_boundary(at - 1)
        })
}

async fn check(folder: &Path) {
    let golden: Value =
        serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let server = Server::start(&[
        "--model",
        folder.to_str().unwrap(),
        "--served-model-name",
        "test",
        "--max-images",
        "8",
    ])
    .await;
    let mut checked = 0;
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        // Compared in both modes by the model's own golden test.
        if name == "crosses_rope_boundary" || !expressible(case) {
            continue;
        }
        let mut pictures = case["images"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| png(&folder.join(file.as_str().unwrap())));
        let messages: Vec<Value> = case["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| message(m, &mut pictures))
            .collect();
        let ids = case["generated_ids"].as_array().unwrap();
        let clear = case["top2_gaps"]
            .as_array()
            .unwrap()
            .iter()
            .take_while(|gap| gap.as_f64().unwrap() > CLEAR_GAP)
            .count();
        let body = json!({
            "model": "test", "messages": messages, "temperature": 0, "max_tokens": clear.max(1),
            "ignore_eos": true, "skip_special_tokens": false, "logprobs": true,
        });
        let answer: Value = server.chat(&body).await.json().await.unwrap();
        assert_eq!(
            answer["usage"]["prompt_tokens"], case["prompt_len"],
            "{name}: {answer}"
        );
        if clear == ids.len() {
            let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
            assert_eq!(
                text.trim(),
                case["generated_text"].as_str().unwrap().trim(),
                "{name}"
            );
        }
        checked += 1;
    }
    assert!(checked > 0, "no case of {} was run", folder.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_over_http_are_the_references_own() {
    for folder in goldens() {
        check(&folder).await;
    }
}
