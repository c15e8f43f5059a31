//! Models found in the Hugging Face cache, by the names of the catalog, without a network.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::goldens::messages;
use crate::support::{Server, project, vlmd};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The catalog's name of a model, its repository, and a golden of its architecture.
const MODELS: [(&str, &str, &str); 7] = [
    (
        "microsoft/phi-3.5-vision-instruct",
        "microsoft/Phi-3.5-vision-instruct",
        "phi3_v",
    ),
    (
        "microsoft/phi-3-vision-128k-instruct",
        "microsoft/Phi-3-vision-128k-instruct",
        "phi3_v_crops16",
    ),
    (
        "meta/llama-3.2-11b-vision-instruct",
        "meta-llama/Llama-3.2-11B-Vision-Instruct",
        "mllama",
    ),
    (
        "microsoft/kosmos-2",
        "microsoft/kosmos-2-patch14-224",
        "kosmos2",
    ),
    (
        "llava-hf/llava-1.5-7b-hf",
        "llava-hf/llava-1.5-7b-hf",
        "llava",
    ),
    (
        "community/llava16-mistral-7b",
        "llava-hf/llava-v1.6-mistral-7b-hf",
        "llava_next",
    ),
    (
        "community/llava16-34b",
        "llava-hf/llava-v1.6-34b-hf",
        "llava_next_yi",
    ),
];

/// Lays `golden` out as `repository` in a cache at `home`, as the Hugging Face tools do: contents
/// under `blobs`, and links to them by name under the commit that `refs/main` names. The weights
/// come in two shards.
fn lay_out(home: &Path, repository: &str, golden: &Path) -> PathBuf {
    let top = home
        .join("hub")
        .join(format!("models--{}", repository.replace('/', "--")));
    let snapshot = top.join("snapshots").join(COMMIT);
    for folder in [&top.join("blobs"), &top.join("refs"), &snapshot] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(top.join("refs/main"), COMMIT).unwrap();
    let add = |name: &str, bytes: &[u8]| {
        let blob = format!("blob-of-{name}");
        fs::write(top.join("blobs").join(&blob), bytes).unwrap();
        symlink(Path::new("../../blobs").join(&blob), snapshot.join(name)).unwrap();
    };
    for entry in fs::read_dir(golden).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let text = name.ends_with(".json") && name != "golden.json";
        if text {
            add(&name, &fs::read(entry.path()).unwrap());
        }
    }
    let (shards, index) = halves(&fs::read(golden.join("model.safetensors")).unwrap());
    for (name, bytes) in &shards {
        add(name, bytes);
    }
    add("model.safetensors.index.json", index.to_string().as_bytes());
    snapshot
}

/// Cuts a safetensors file in two: the shards by name, and their index.
fn halves(whole: &[u8]) -> (Vec<(String, Vec<u8>)>, Value) {
    let (length, rest) = whole.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
    let (header, data) = rest.split_at(length);
    let header: serde_json::Map<String, Value> = serde_json::from_slice(header).unwrap();
    let mut tensors: Vec<(String, Value)> = header.into_iter().collect();
    tensors.retain(|(name, _)| name != "__metadata__");
    let mut map = serde_json::Map::new();
    let mut shards = Vec::new();
    for (nth, half) in tensors.chunks(tensors.len().div_ceil(2)).enumerate() {
        let name = format!("model-{:05}-of-00002.safetensors", nth + 1);
        let mut header = serde_json::Map::new();
        let mut bytes: Vec<u8> = Vec::new();
        for (tensor, info) in half {
            let offset = |end: usize| info["data_offsets"][end].as_u64().unwrap() as usize;
            let begin = bytes.len();
            bytes.extend_from_slice(&data[offset(0)..offset(1)]);
            let mut info = info.clone();
            info["data_offsets"] = json!([begin, bytes.len()]);
            header.insert(tensor.clone(), info);
            map.insert(tensor.clone(), json!(name));
        }
        let header = serde_json::to_vec(&header).unwrap();
        let mut shard = (header.len() as u64).to_le_bytes().to_vec();
        shard.extend(header);
        shard.extend(bytes);
        shards.push((name, shard));
    }
    (shards, json!({"metadata": {}, "weight_map": map}))
}

/// `vlmd` with the cache at `home` and no network.
fn offline(home: &Path) -> std::process::Command {
    let mut command = vlmd();
    command.env("HF_HOME", home).env("HF_HUB_OFFLINE", "1");
    command
}

/// The first case of a golden with a picture whose greedy text is beyond doubt, as a request.
fn question(golden: &Path) -> (Value, Value) {
    let file: Value =
        serde_json::from_slice(&fs::read(golden.join("golden.json")).unwrap()).unwrap();
    let clear = |case: &&Value| {
        let gaps = case["top2_gaps"].as_array().unwrap();
        let images = case["images"].as_array().unwrap();
        images.len() == 1 && gaps.iter().all(|gap| gap.as_f64().unwrap() > 1e-3)
    };
    let cases = file["cases"].as_array().unwrap();
    let (case, messages) = cases
        .iter()
        .filter(clear)
        .find_map(|case| Some((case, chat(case, golden)?)))
        .unwrap();
    let mut body = json!({
        "messages": messages, "temperature": 0, "max_tokens": 16, "ignore_eos": true,
        "skip_special_tokens": false, "no_repeat_ngram_size": 0,
        "chat_template_kwargs": {"date_string": file["date_string"]},
    });
    if let Some(prompt) = kosmos(case) {
        body["grounded_response"] = json!(prompt.contains("<grounding>"));
    }
    (body, case["generated_text"].clone())
}

/// Kosmos-2 has prompts in its own language, with the picture in front, in the place of messages.
fn kosmos(case: &Value) -> Option<&str> {
    let messages = case["messages"].as_array()?;
    messages.is_empty().then(|| case["prompt"].as_str())?
}

fn chat(case: &Value, golden: &Path) -> Option<Vec<Value>> {
    let Some(prompt) = kosmos(case) else {
        return messages(case, golden);
    };
    let parts = json!([{"type": "image"}, {"type": "text", "text": prompt}]);
    let mut case = case.clone();
    case["messages"] = json!([{"role": "user", "content": parts}]);
    messages(&case, golden)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_architecture_starts_from_the_cache_by_its_catalog_name() {
    let home = tempfile::tempdir().unwrap();
    for (name, repository, golden) in MODELS {
        let golden = project().join("tests/golden").join(golden);
        lay_out(home.path(), repository, &golden);
        let server = Server::launch(
            offline(home.path()),
            &["--model", name, "--transformers-quirks"],
        );
        server.wait_until_ready().await;
        let (mut body, expected) = question(&golden);
        // Clients may ask by either name.
        for model in [name, repository] {
            body["model"] = json!(model);
            let text = server.text(&body).await;
            assert_eq!(text.trim(), expected.as_str().unwrap().trim(), "{name}");
        }
    }
}

#[test]
fn a_cached_model_without_a_shard_is_not_taken_for_whole() {
    let home = tempfile::tempdir().unwrap();
    let (name, repository, golden) = MODELS[2];
    let golden = project().join("tests/golden").join(golden);
    let snapshot = lay_out(home.path(), repository, &golden);
    // The link is there, what it leads to is not.
    let shard = snapshot.join("model-00002-of-00002.safetensors");
    fs::remove_file(shard.canonicalize().unwrap()).unwrap();
    let output = offline(home.path())
        .args(["serve", "--host", "127.0.0.1", "--port", "0"])
        .args(["--model", name])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains(&format!(
            "`{repository}` is not in the Hugging Face cache, and HF_HUB_OFFLINE forbids fetching it"
        )),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_nim_container_fetched_is_served_by_its_name() {
    let root = tempfile::tempdir().unwrap();
    let empty = tempfile::tempdir().unwrap();
    let (name, _, golden) = MODELS[2];
    let golden = project().join("tests/golden").join(golden);
    // Its cache of NGC has the layout of Hugging Face's, under names of its own.
    lay_out(&root.path().join("ngc"), &format!("nim/{name}"), &golden);
    let mut command = offline(empty.path());
    command.env("NIM_CACHE_PATH", root.path());
    let server = Server::launch(command, &["--model", name, "--transformers-quirks"]);
    server.wait_until_ready().await;
    let (mut body, expected) = question(&golden);
    body["model"] = json!(name);
    let text = server.text(&body).await;
    assert_eq!(text.trim(), expected.as_str().unwrap().trim());
}
