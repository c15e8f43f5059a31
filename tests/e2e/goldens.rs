//! The reference's own answers, over HTTP.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Server, golden_checkpoint, png, project};

/// Below this distance between the two best logits the reference's own choice is a coin toss.
pub(crate) const CLEAR_GAP: f64 = 1e-3;

/// The committed goldens and those that `VLMD_GOLDENS` names, separated by colons.
fn goldens() -> Vec<PathBuf> {
    let mut folders = vec![golden_checkpoint()];
    let committed = [
        "phi3_v_crops16",
        "llava",
        "llava_next",
        "llava_next_vicuna",
        "llava_next_yi",
        "mllama",
        "neva",
        "neva_legacy",
        "neva_tp2",
        "neva_llama",
        "neva_pp2",
        "neva_dist",
    ];
    folders.extend(committed.map(|name| project().join("tests/golden").join(name)));
    if let Ok(more) = std::env::var("VLMD_GOLDENS") {
        folders.extend(
            more.split(':')
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
        );
    }
    folders
}

/// A golden's content as the parts that a client would send, `None` where HTTP cannot spell it.
fn content(content: &Value, pictures: &mut impl Iterator<Item = String>) -> Option<Vec<Value>> {
    let Some(given) = content.as_array() else {
        return parts(content.as_str()?, pictures);
    };
    given
        .iter()
        .map(|part| {
            if part["type"] == "image" {
                let url = pictures.next()?;
                return Some(json!({"type": "image_url", "image_url": {"url": url}}));
            }
            Some(part.clone())
        })
        .collect()
}

/// The same for Phi-3, whose tags are written out.
///
/// The server joins parts by newlines: a line that is nothing but a tag becomes a picture, the
/// lines between become text. A tag within a line has no spelling.
fn parts(content: &str, pictures: &mut impl Iterator<Item = String>) -> Option<Vec<Value>> {
    let mut parts = Vec::new();
    let mut lines: Vec<&str> = Vec::new();
    let text = |lines: &mut Vec<&str>, parts: &mut Vec<Value>| {
        if !lines.is_empty() {
            parts.push(json!({"type": "text", "text": lines.join("\n")}));
            lines.clear();
        }
    };
    for line in content.split('\n') {
        if line.starts_with("<|image_") && line.ends_with("|>") && line.matches("<|").count() == 1 {
            text(&mut lines, &mut parts);
            let url = pictures.next()?;
            parts.push(json!({"type": "image_url", "image_url": {"url": url}}));
        } else if line.contains("<|image_") {
            return None;
        } else {
            lines.push(line);
        }
    }
    text(&mut lines, &mut parts);
    Some(parts)
}

/// A golden's conversation, `None` where HTTP cannot spell it.
pub(crate) fn messages(case: &Value, folder: &Path) -> Option<Vec<Value>> {
    // In a form that every decoder gives the same pixels for.
    let files = case["images_decoded"]
        .as_array()
        .or(case["images"].as_array())?;
    let mut pictures = files
        .iter()
        .map(|file| png(&folder.join(file.as_str().unwrap())));
    let messages = case["messages"]
        .as_array()?
        .iter()
        .map(|message| {
            let content = content(&message["content"], &mut pictures)?;
            Some(json!({"role": message["role"], "content": content}))
        })
        .collect();
    // A picture that is left over has a tag that is repeated.
    pictures.next().is_none().then_some(messages)?
}

async fn check(folder: &Path) {
    let golden: Value =
        serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let mut arguments = vec![
        "--served-model-name".to_owned(),
        "test".to_owned(),
        "--max-images".to_owned(),
        "8".to_owned(),
        // The texts are those of transformers; the model's own golden test has both variants.
        "--transformers-quirks".to_owned(),
        "--model".to_owned(),
    ];
    let file = |field: &str| Some(folder.join(golden[field].as_str()?).display().to_string());
    match (file("archive"), file("vision_tower")) {
        (Some(archive), Some(tower)) => {
            arguments.extend([archive, "--vision-tower".to_owned(), tower]);
        }
        _ => arguments.push(folder.display().to_string()),
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let server = Server::start(&arguments).await;
    let mut checked = 0;
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        // Compared in both modes by the model's own golden test.
        if name.contains("rope_boundary") || name == "exceeds_by_one" {
            continue;
        }
        let Some(messages) = messages(case, folder) else {
            continue;
        };
        let ids = case["generated_ids"].as_array().unwrap();
        let clear = case["top2_gaps"]
            .as_array()
            .unwrap()
            .iter()
            .take_while(|gap| gap.as_f64().unwrap() > CLEAR_GAP)
            .count();
        let body = json!({
            "model": "test", "messages": messages, "temperature": 0, "max_tokens": clear.max(1),
            "ignore_eos": true, "logprobs": true,
            // SentencePiece, by which NeMo decodes, never shows them.
            "skip_special_tokens": golden["archive"].is_string(),
            "chat_template_kwargs": {"date_string": golden["date_string"]},
        });
        // Pictures that are new, and pictures that are remembered.
        for _ in 0..2 {
            let answer: Value = server.chat(&body).await.json().await.unwrap();
            assert_eq!(
                answer["usage"]["prompt_tokens"], case["prompt_len"],
                "{name}: {answer}"
            );
            if clear == ids.len() {
                let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
                let expected = case["generated_text"].as_str().unwrap();
                assert_eq!(text.trim(), expected.trim(), "{}: {name}", folder.display());
            }
        }
        checked += 1;
    }
    let queries = server.metric("vllm:mm_cache_queries_total").await;
    let hits = server.metric("vllm:mm_cache_hits_total").await;
    assert!(hits >= queries / 2.0, "{hits} of {queries}");
    check_refused(&golden, folder, &server).await;
    assert!(
        checked >= 3,
        "{checked} cases of {} were run",
        folder.display()
    );
}

/// What the reference's template refuses is the client's mistake, and the answer says which.
async fn check_refused(golden: &Value, folder: &Path, server: &Server) {
    for case in golden["refused"].as_array().into_iter().flatten() {
        let Some(messages) = messages(case, folder) else {
            continue;
        };
        let body = json!({"model": "test", "messages": messages, "max_tokens": 1});
        let answer = server.chat(&body).await;
        assert_eq!(answer.status(), 400, "{}", case["name"]);
        let answer: Value = answer.json().await.unwrap();
        let message = answer["error"]["message"].as_str().unwrap();
        let reason = case["error"].as_str().unwrap().split_once(": ").unwrap().1;
        assert!(message.contains(reason), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_over_http_are_the_references_own() {
    for folder in goldens() {
        check(&folder).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_steer_neva_alone() {
    let folder = project().join("tests/golden/neva");
    let (archive, tower) = (folder.join("neva.nemo"), folder.join("clip"));
    let server = Server::start(&[
        "--model",
        archive.to_str().unwrap(),
        "--vision-tower",
        tower.to_str().unwrap(),
    ])
    .await;
    let body = |labels: Value| {
        json!({"model": "neva", "max_tokens": 1, "temperature": 0, "logprobs": true, "messages": [
            {"role": "user", "content": "Hello there"},
            {"role": "assistant", "content": null, "labels": labels},
        ]})
    };
    let logprob = async |labels: Value| {
        let answer: Value = server.chat(&body(labels)).await.json().await.unwrap();
        let first = &answer["choices"][0]["logprobs"]["content"][0];
        first["logprob"].as_f64().unwrap()
    };
    let usual = logprob(json!({})).await;
    assert_eq!(logprob(json!({"quality": 4, "humor": 0})).await, usual);
    assert_ne!(logprob(json!({"quality": 9, "humor": 0})).await, usual);
    for (labels, field) in [
        (json!({"quality": 10}), "messages[1].labels.quality"),
        (json!({"charm": 4}), "messages"),
    ] {
        let answer = server.chat(&body(labels)).await;
        assert_eq!(answer.status(), 400);
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["error"]["param"], field, "{answer}");
    }
    let plain = Server::start(&["--model", "vlmd/tiny"]).await;
    let mut asked = body(json!({"quality": 4}));
    asked["model"] = "vlmd/tiny".into();
    let answer = plain.chat(&asked).await;
    assert_eq!(answer.status(), 400);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["error"]["param"], "messages[1].labels", "{answer}");
    assert_eq!(answer["error"]["code"], "unsupported_parameter");
}
