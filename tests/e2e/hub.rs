//! `vlmd download` against a hub on loopback.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use crate::support::{Server, golden_checkpoint, http, request, serve_bytes, vlmd};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What the hub saw and how it misbehaves.
#[derive(Default)]
struct Hub {
    authorizations: Mutex<Vec<String>>,
    /// Bytes after which the weights' first transfer breaks off.
    breaks_after: Option<usize>,
    breaks: AtomicUsize,
    /// Announces a checksum that the weights do not have.
    lies: bool,
}

/// Serves the golden checkpoint as repository `org/tiny`, as the hub does: metadata headers,
/// ranges, LFS checksums for the weights.
async fn start(hub: Arc<Hub>) -> SocketAddr {
    let mut files = BTreeMap::new();
    for name in [
        "config.json",
        "preprocessor_config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ] {
        if let Ok(bytes) = std::fs::read(golden_checkpoint().join(name)) {
            files.insert(name, bytes);
        }
    }
    files.insert("modeling_phi3_v.py", b"raise SystemExit".to_vec());
    serve_bytes(move |path, head| {
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name)
                    .then(|| value.trim().to_owned())
            })
        };
        hub.authorizations
            .lock()
            .unwrap()
            .push(header("authorization").unwrap_or_default());
        if path.starts_with("/api/models/org/tiny") {
            let names: Vec<_> = files
                .keys()
                .map(|name| serde_json::json!({"rfilename": name}))
                .collect();
            let listing = serde_json::json!({"sha": COMMIT, "siblings": names}).to_string();
            return http(
                "200 OK",
                &[("content-type", "application/json")],
                listing.as_bytes(),
            );
        }
        let Some(bytes) = path
            .strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/"))
            .and_then(|name| files.get(name))
        else {
            return http("404 Not Found", &[], b"");
        };
        let weights = path.ends_with(".safetensors");
        let etag = match (weights, hub.lies) {
            (true, false) => sha256(bytes),
            (true, true) => sha256(b"something else"),
            (false, _) => sha256(bytes)[..40].to_owned(),
        };
        let range = header("range").unwrap_or_default();
        let (from, to) = range.trim_start_matches("bytes=").split_once('-').unwrap();
        let from: usize = from.parse().unwrap();
        let to = to
            .parse()
            .map_or(bytes.len(), |to: usize| to + 1)
            .min(bytes.len());
        let content_range = format!("bytes {from}-{}/{}", to - 1, bytes.len());
        let etag = format!("\"{etag}\"");
        let headers = [
            ("x-repo-commit", COMMIT),
            ("etag", etag.as_str()),
            ("content-range", content_range.as_str()),
        ];
        let mut answer = http("206 Partial Content", &headers, &bytes[from..to]);
        if let Some(limit) = hub.breaks_after
            && weights
            && to - from > limit
        {
            // The connection closes in the middle of the body, every time within one run.
            hub.breaks.fetch_add(1, Ordering::SeqCst);
            let body = to - from;
            answer.truncate(answer.len() - body + limit);
        }
        answer
    })
    .await
}

async fn download(endpoint: SocketAddr, home: &std::path::Path) -> Output {
    let mut command = vlmd();
    command
        .args(["download", "org/tiny"])
        .env("HF_ENDPOINT", format!("http://{endpoint}"))
        .env("HF_HOME", home)
        .env("HF_TOKEN", "hf_secret");
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_fetched_checked_and_served() {
    let hub = Arc::new(Hub::default());
    let endpoint = start(hub.clone()).await;
    let home = tempfile::tempdir().unwrap();
    let output = download(endpoint, home.path()).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let folder = String::from_utf8(output.stdout).unwrap();
    let folder = std::path::Path::new(folder.trim());
    assert!(folder.join("model.safetensors").exists() && folder.join("config.json").exists());
    assert!(
        !folder.join("modeling_phi3_v.py").exists(),
        "code was fetched"
    );
    assert!(
        hub.authorizations
            .lock()
            .unwrap()
            .iter()
            .all(|value| value == "Bearer hf_secret")
    );
    assert!(!String::from_utf8_lossy(&output.stderr).contains("hf_secret"));

    // Found again without the hub.
    let mut command = vlmd();
    command
        .env("HF_HOME", home.path())
        .env("HF_HUB_OFFLINE", "1");
    let server = Server::launch(
        command,
        &["--model", "org/tiny", "--served-model-name", "test"],
    );
    server.wait_until_ready().await;
    assert!(!server.text(&request(&[], "Hello")).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_fetched_where_that_is_forbidden() {
    let hub = Arc::new(Hub::default());
    let endpoint = start(hub.clone()).await;
    let home = tempfile::tempdir().unwrap();
    let offline = [
        (&["--offline"][..], None),
        (&[][..], Some(("HF_HUB_OFFLINE", "1"))),
        (&[][..], Some(("NIM_DISABLE_MODEL_DOWNLOAD", "1"))),
    ];
    let run = |(more, variable): (&[&str], Option<(&str, &str)>)| {
        let mut command = vlmd();
        command
            .args(["download", "org/tiny"])
            .args(more)
            .env("HF_ENDPOINT", format!("http://{endpoint}"))
            .env("HF_HOME", home.path())
            .envs(variable);
        tokio::task::block_in_place(|| command.output().unwrap())
    };
    for how in offline {
        let refused = run(how);
        assert!(!refused.status.success());
        let reason = String::from_utf8(refused.stderr).unwrap();
        assert!(reason.contains("forbids fetching it"), "{reason}");
    }
    assert!(
        hub.authorizations.lock().unwrap().is_empty(),
        "nobody asked"
    );
    let fetched = download(endpoint, home.path()).await;
    let asked = hub.authorizations.lock().unwrap().len();
    for how in offline {
        assert_eq!(run(how).stdout, fetched.stdout);
    }
    assert_eq!(hub.authorizations.lock().unwrap().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_transfer_is_resumed() {
    let hub = Arc::new(Hub {
        breaks_after: Some(200_000),
        ..Hub::default()
    });
    let endpoint = start(hub.clone()).await;
    let home = tempfile::tempdir().unwrap();
    let mut runs = 0;
    loop {
        let output = download(endpoint, home.path()).await;
        runs += 1;
        if output.status.success() {
            break;
        }
        assert!(runs < 50, "{}", String::from_utf8_lossy(&output.stderr));
    }
    let size = std::fs::metadata(golden_checkpoint().join("model.safetensors"))
        .unwrap()
        .len();
    let transfers = hub.breaks.load(Ordering::SeqCst) + 1;
    assert!(
        transfers as u64 >= size / 200_000,
        "{transfers} transfers of a file of {size}"
    );
    assert!(
        transfers as u64 <= size / 200_000 + 2,
        "{transfers}: the transfers did not resume"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_what_was_announced_is_not_kept() {
    let hub = Arc::new(Hub {
        lies: true,
        ..Hub::default()
    });
    let endpoint = start(hub).await;
    let home = tempfile::tempdir().unwrap();
    let output = download(endpoint, home.path()).await;
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("model.safetensors") && text.contains("SHA-256"),
        "{text}"
    );
    let mut folders = vec![home.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            assert!(
                !entry
                    .file_name()
                    .to_string_lossy()
                    .ends_with(".safetensors"),
                "{:?}",
                entry.path()
            );
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
        }
    }
}
