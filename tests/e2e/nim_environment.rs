//! What configures a NIM container configures `vlmd`: variables and executables.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::running::{Running, refusal, text};
use crate::support::{Server, clean, golden_checkpoint, vlmd};

/// `vlmd` under another name, in a folder that lasts as long as it does.
struct Named {
    folder: tempfile::TempDir,
}

impl Named {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// The program called `name`, with an environment of this test's.
    fn command(&self, name: &str) -> Command {
        let path = self.folder.path().join(name);
        if !path.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_vlmd"), &path).unwrap();
        }
        let mut command = Command::new(path);
        clean(&mut command);
        command.env("HF_HOME", self.folder.path().join("hf"));
        command
    }
}

/// The settings that `vlmd serve` would have.
fn config(environment: &[(&str, &str)], arguments: &[&str]) -> Value {
    let mut command = vlmd();
    let command = command
        .args(["serve", "--print-config=json"])
        .args(arguments);
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let (success, out, err) = text(&output);
    assert!(success, "{err}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn each_setting_is_printed_with_where_it_came_from() {
    let environment = [
        ("VLMD_MAX_NUM_SEQS", "7"),
        ("NIM_MAX_NUM_SEQS", "9"),
        ("NIM_SERVER_PORT", "9000"),
        ("NIM_MAX_MODEL_LEN", "512"),
        ("NIM_KVCACHE_PERCENT", "0.7"),
        ("VLMD_API_KEY", "very-secret"),
        ("VLMD_NO_PREFIX_CACHE", "1"),
    ];
    let found = config(&environment, &["--max-model-len", "256"]);
    for (name, value, source) in [
        ("max-model-len", json!("256"), "flag"),
        ("max-num-seqs", json!("7"), "VLMD_MAX_NUM_SEQS"),
        ("port", json!("9000"), "NIM_SERVER_PORT"),
        (
            "gpu-memory-utilization",
            json!("0.7"),
            "NIM_KVCACHE_PERCENT",
        ),
        ("no-prefix-cache", json!(true), "VLMD_NO_PREFIX_CACHE"),
        ("max-images", json!("4"), "card"),
        ("host", json!("0.0.0.0"), "default"),
        ("api-key", json!(["********"]), "VLMD_API_KEY"),
    ] {
        assert_eq!(
            found[name],
            json!({"value": value, "source": source}),
            "{name}"
        );
    }
    // A service called `vlmd` is no port to listen on.
    let found = config(&[("VLMD_PORT", "tcp://10.0.0.1:8000")], &[]);
    assert_eq!(found["port"], json!({"value": "8000", "source": "default"}));
    let mut command = vlmd();
    let command = command.args(["--print-config"]).envs(environment);
    let (success, out, _) = text(&command.output().unwrap());
    assert!(success && !out.contains("very-secret"), "{out}");
    let port = out.lines().find(|line| line.starts_with("port ")).unwrap();
    let words: Vec<&str> = port.split_whitespace().collect();
    assert_eq!(words, ["port", "9000", "NIM_SERVER_PORT"]);
}

#[test]
fn a_value_that_cannot_be_followed_ends_the_start_with_its_name_and_its_bound() {
    for (variable, value, bound) in [
        ("NIM_SERVER_PORT", "99999", "0..=65535"),
        ("NIM_KVCACHE_PERCENT", "90", "at most 1"),
        ("VLMD_PORT", "99999", "0..=65535"),
        ("VLMD_LOG_FORMAT", "xml", "text, json"),
    ] {
        let mut command = vlmd();
        let command = command
            .args(["serve", "--print-config"])
            .env(variable, value);
        let (success, _, err) = text(&command.output().unwrap());
        assert!(!success);
        for part in [variable, value, bound] {
            assert!(err.contains(part), "{err}");
        }
    }
    let err = refusal(&[("NIM_SSL_MODE", "TLS")], &[]);
    assert!(
        err.contains("NIM_SSL_MODE") && err.contains("NIM_SSL_CERTS_PATH"),
        "{err}"
    );
    let err = refusal(&[], &["--cors-allow-origins", "example.org"]);
    assert!(
        err.contains("--cors-allow-origins") && err.contains("example.org"),
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_s_environment_starts_a_server() {
    let checkpoint = golden_checkpoint();
    let mut command = vlmd();
    command.envs([
        ("NIM_MODEL_NAME", checkpoint.to_str().unwrap()),
        ("NIM_SERVED_MODEL_NAME", "first,second"),
        ("NIM_MAX_MODEL_LEN", "640"),
        ("NIM_GPU_MEM_FRACTION", "0.5"),
        ("NIM_STREAM_INTERVAL", "5"),
        ("NIM_DISABLE_RESPONSES_ROUTE", "1"),
        ("NIM_ALLOW_URL_INPUT", "false"),
        ("NIM_CACHE_PATH", "/nonexistent"),
    ]);
    let server = Server::launch(command, &[]);
    server.wait_until_ready().await;
    let models: Value = server.get("/v1/models").await.json().await.unwrap();
    let names = [&models["data"][0]["id"], &models["data"][1]["id"]];
    assert_eq!(names, ["first", "second"]);
    assert_eq!(models["data"][0]["max_model_len"], 640);

    // A chunk for every five tokens, and one for the first words, which come at once.
    let message = json!({"role": "user", "content": "Count."});
    let mut body = json!({"model": "first", "messages": [message], "temperature": 0,
        "max_tokens": 30, "ignore_eos": true});
    let whole = server.text(&body).await;
    body["stream"] = json!(true);
    let stream = server.chat(&body).await.text().await.unwrap();
    let pieces: Vec<String> = stream
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok())
        .filter_map(|chunk| Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned()))
        .filter(|piece| !piece.is_empty())
        .collect();
    assert_eq!(pieces.concat(), whole);
    assert!((2..=8).contains(&pieces.len()), "{pieces:?}");

    let picture = json!({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}});
    let body = json!({"model": "first", "messages": [{"role": "user", "content": [picture]}]});
    let refused = server.chat(&body).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let refused: Value = refused.json().await.unwrap();
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("--no-media-urls"), "{message}");
    let responses = server.get("/v1/responses/resp_1").await;
    assert_eq!(responses.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_environment_asks_for_in_vain_is_told_once_in_json() {
    let mut command = vlmd();
    command.envs([
        ("NIM_FUTURE_KNOB", "1"),
        ("NIM_OTHER_KNOB", "1"),
        ("NIM_TENSOR_PARALLEL_SIZE", "2"),
        ("NIM_JSONL_LOGGING", "1"),
    ]);
    command.stderr(Stdio::piped());
    let mut server = Server::launch(command, &[]);
    server.wait_until_ready().await;
    server.terminate();
    let err = server.child.stderr.take().unwrap();
    let lines = BufReader::new(err).lines().map(Result::unwrap);
    let lines: Vec<Value> = lines
        .map(|line| serde_json::from_str(&line).unwrap())
        .collect();
    let told = |part: &str| {
        let message = |line: &Value| line["message"].as_str().unwrap_or_default().to_owned();
        lines
            .iter()
            .filter(|line| message(line).contains(part))
            .count()
    };
    assert_eq!(told("NIM_FUTURE_KNOB, NIM_OTHER_KNOB"), 1, "{lines:?}");
    assert_eq!(told("NIM_TENSOR_PARALLEL_SIZE"), 1, "{lines:?}");
    assert_eq!(lines[0]["level"], "WARN");
}

#[test]
fn profiles_are_listed_as_scripts_expect() {
    let named = Named::new();
    let mut command = named.command("list-model-profiles");
    let all = text(&command.output().unwrap());
    assert!(all.0, "{}", all.2);
    let mut command = named.command("list-model-profiles");
    let one = text(
        &command
            .env("NIM_MODEL_NAME", "microsoft/kosmos-2")
            .output()
            .unwrap(),
    );
    for title in [
        "MODEL PROFILES",
        "- Compatible with system and runnable:",
        "- Compatible with system but low memory:",
        "- Incompatible with system:",
    ] {
        assert!(all.1.contains(title) && one.1.contains(title), "{}", one.1);
    }
    let profiles = |out: &str| -> Vec<(String, String)> {
        let lines = out
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- "));
        let lines = lines.filter_map(|line| line.split_once(" ("));
        let lines = lines.filter(|(id, _)| id.len() == 64);
        lines
            .map(|(id, name)| (id.to_owned(), name.to_owned()))
            .collect()
    };
    let of_one = profiles(&one.1);
    let names: Vec<&str> = of_one.iter().map(|(_, name)| name.as_str()).collect();
    for name in [
        "vlmd-bf16-tp1-pp1)",
        "vlmd-fp16-tp1-pp1)",
        "vlmd-fp32-tp1-pp1)",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(profiles(&all.1).len() > of_one.len());
    assert!(all.1.contains(") microsoft/kosmos-2"), "{}", all.1);

    // An id says which model with which weights.
    let (id, _) = of_one
        .iter()
        .find(|(_, name)| name.starts_with("vlmd-fp32"))
        .unwrap();
    let found = config(&[("NIM_MODEL_PROFILE", id)], &[]);
    let source = "NIM_MODEL_PROFILE";
    assert_eq!(found["dtype"], json!({"value": "f32", "source": source}));
    assert_eq!(
        found["model"],
        json!({"value": "microsoft/kosmos-2", "source": source})
    );
}

/// Puts the golden checkpoint into `root` as `org/tiny`, as if it had been fetched.
fn fill_cache(root: &Path) -> PathBuf {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let model = root.join("huggingface/hub/models--org--tiny");
    let snapshot = model.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::write(model.join("refs/main"), commit).unwrap();
    for entry in fs::read_dir(golden_checkpoint()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, snapshot.join(path.file_name().unwrap())).unwrap();
        }
    }
    snapshot
}

#[test]
fn models_are_taken_out_of_the_cache_and_put_into_stores() {
    let named = Named::new();
    let cache = named.folder.path().join("cache");
    let snapshot = fill_cache(&cache);
    let environment = [
        ("NIM_CACHE_PATH", cache.to_str().unwrap()),
        ("NIM_DISABLE_MODEL_DOWNLOAD", "1"),
    ];
    let run = |name: &str, arguments: &[&str], more: &[(&str, &str)]| {
        let mut command = named.command(name);
        let command = command.args(arguments).envs(environment);
        text(&command.envs(more.iter().copied()).output().unwrap())
    };
    let model = [("NIM_MODEL_NAME", "org/tiny")];
    let own = format!("{}\n", snapshot.display());
    for arguments in [
        &[][..],
        &["--all"],
        &["-p", "vllm-bf16-tp1-pp1"],
        &["--profiles", "vlmd-bf16-tp1-pp1", "vlmd-fp16-tp1-pp1"],
        &["--model-uri", "hf://org/tiny"],
    ] {
        let (success, out, err) = run("download-to-cache", arguments, &model);
        assert!(success, "{arguments:?}: {err}");
        assert_eq!(out, own, "{arguments:?}");
    }
    for (arguments, more, told) in [
        (&["--lora"][..], &model[..], "--lora"),
        (&["--profile", "nonsense"], &model, "list-model-profiles"),
        (&[], &[], "part of the program"),
        (
            &["--model-uri", "hf://org/other"],
            &[],
            "NIM_DISABLE_MODEL_DOWNLOAD",
        ),
        (&["--model-uri", "s3://bucket/x"], &[], "s3://"),
    ] {
        let (success, _, err) = run("download-to-cache", arguments, more);
        assert!(!success && err.contains(told), "{arguments:?}: {err}");
    }

    let store = named.folder.path().join("store");
    let path = store.to_str().unwrap();
    let arguments = ["--profile", "vlmd-bf16-tp1-pp1", "--model-store", path];
    let (success, out, err) = run("create-model-store", &arguments, &model);
    assert!(success, "{err}");
    assert_eq!(out.trim(), path);
    for name in ["config.json", "model.safetensors"] {
        let bytes = |folder: &Path| fs::read(folder.join(name)).unwrap();
        assert!(bytes(&store) == bytes(&snapshot), "{name}");
    }

    let (success, out, err) = run("check-cache-env", &[], &[]);
    assert!(
        success && out.contains(cache.to_str().unwrap()),
        "{out} {err}"
    );
    let blocked = named.folder.path().join("file");
    fs::write(&blocked, "").unwrap();
    let blocked = blocked.join("cache");
    let bad = [("NIM_CACHE_PATH", blocked.to_str().unwrap())];
    assert!(!run("check-cache-env", &[], &bad).0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nim_serve_takes_the_arguments_of_an_engine() {
    let named = Named::new();
    for name in ["nim-serve", "nim-run"] {
        let mut command = named.command(name);
        command.args([
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--served-model-name",
            "a",
            "b",
        ]);
        command.args(["--enforce-eager", "--max-model-len", "512"]);
        command.args(["--uvicorn-log-level", "error"]);
        let server = Running::start(command);
        server.ready(&Client::new()).await;
        let models = Client::new()
            .get(server.at("/v1/models"))
            .send()
            .await
            .unwrap();
        let models: Value = models.json().await.unwrap();
        assert_eq!(models["data"][1]["id"], "b");
        assert_eq!(models["data"][0]["max_model_len"], 512);
    }
}
