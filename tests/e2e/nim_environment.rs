//! What configures a NIM container configures `vlmd`: variables, executables, TLS, CORS.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reqwest::{Certificate, Client, Identity, Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{PATIENCE, Server, clean, golden_checkpoint, vlmd};

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

fn text(output: &Output) -> (bool, String, String) {
    let read = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.success(),
        read(&output.stdout),
        read(&output.stderr),
    )
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

/// What `vlmd serve` says when it does not start.
fn refusal(environment: &[(&str, &str)], arguments: &[&str]) -> String {
    let mut command = vlmd();
    let command = command.args(["serve", "--host", "127.0.0.1", "--port", "0"]);
    let command = command.args(arguments).envs(environment.iter().copied());
    let (success, _, err) = text(&command.output().unwrap());
    assert!(!success, "it starts");
    assert!(!err.contains("panicked"), "{err}");
    err
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

/// A server whose address is read from what it prints, whatever it speaks.
struct Running {
    child: Child,
    url: String,
    /// Of the port for probes.
    probes: Option<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (found, address) = mpsc::channel();
        std::thread::spawn(move || {
            let mut probes = None;
            for line in lines.map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("probes on ") {
                    probes = Some(format!("http://{address}"));
                } else if let Some((_, url)) = line.split_once(" on http") {
                    found.send((format!("http{url}"), probes.take())).ok();
                }
            }
        });
        let (url, probes) = address.recv_timeout(PATIENCE).expect("the URL is printed");
        Self { child, url, probes }
    }

    fn at(&self, path: &str) -> String {
        // Certificates are for a name.
        format!("{}{path}", self.url.replace("127.0.0.1", "localhost"))
    }

    async fn ready(&self, client: &Client) {
        let begin = Instant::now();
        let url = self.at("/v1/health/ready");
        while client.get(&url).send().await.unwrap().status() != StatusCode::OK {
            assert!(
                begin.elapsed() < PATIENCE,
                "the server does not become ready"
            );
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An authority, and what it has vouched for.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// A certificate for `name` and its key, as PEM, in files too.
    fn vouch(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let (cert, key) = (cert.pem(), key.serialize_pem());
        fs::write(self.file("cert.pem"), &cert).unwrap();
        fs::write(self.file("key.pem"), &key).unwrap();
        (cert, key)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A client that trusts this authority alone, and shows what it has.
    fn client(&self, shown: Option<(String, String)>) -> Client {
        let builder = Client::builder()
            .no_proxy()
            .tls_certs_only([Certificate::from_pem(self.issuer.pem().as_bytes()).unwrap()]);
        match shown {
            Some((cert, key)) => {
                let identity = Identity::from_pem(format!("{cert}{key}").as_bytes()).unwrap();
                builder.identity(identity)
            }
            None => builder,
        }
        .build()
        .unwrap()
    }
}

/// `vlmd serve` on a free port of this machine.
fn serving() -> Command {
    let mut command = vlmd();
    command.args(["serve", "--host", "127.0.0.1", "--port", "0"]);
    command.args(["--log-level", "warn"]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_speaks_tls() {
    let authority = Authority::new();
    authority.vouch("localhost");
    let mut command = serving();
    command
        .arg("--ssl-certfile")
        .arg(authority.file("cert.pem"));
    command.arg("--ssl-keyfile").arg(authority.file("key.pem"));
    command.args(["--header-timeout", "1"]);
    let server = Running::start(command);
    assert!(server.url.starts_with("https://"), "{}", server.url);
    let client = authority.client(None);
    server.ready(&client).await;
    let body = json!({"model": "vlmd/tiny", "max_tokens": 2,
        "messages": [{"role": "user", "content": "Hi"}]});
    let answer = client
        .post(server.at("/v1/chat/completions"))
        .json(&body)
        .send();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);

    // Another authority is not trusted, plain HTTP not spoken, and silence not waited for.
    let stranger = Authority::new().client(None);
    assert!(stranger.get(server.at("/v1/models")).send().await.is_err());
    let plain = server.at("/v1/models").replace("https", "http");
    assert!(client.get(plain).send().await.is_err());
    let address = server.url.strip_prefix("https://").unwrap();
    let mut silent = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut rest);
    tokio::time::timeout(PATIENCE, closed)
        .await
        .expect("the server closes")
        .ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_a_certificate_where_they_must_and_probes_need_none() {
    let authority = Authority::new();
    let client = authority.vouch("client");
    authority.vouch("localhost");
    let mut command = serving();
    command
        .env("NIM_SSL_MODE", "MTLS")
        .env("NIM_SSL_CERTS_PATH", authority.file("cert.pem"))
        .env("NIM_SSL_KEY_PATH", authority.file("key.pem"))
        .env("NIM_SSL_CA_CERTS_PATH", authority.file("ca.pem"))
        .env("NIM_HEALTH_PORT", "0");
    let server = Running::start(command);
    let known = authority.client(Some(client));
    server.ready(&known).await;
    let models = known.get(server.at("/v1/models")).send().await.unwrap();
    assert_eq!(models.status(), StatusCode::OK);
    let nobody = authority.client(None);
    assert!(nobody.get(server.at("/v1/models")).send().await.is_err());
    let foreign = authority.client(Some(Authority::new().vouch("client")));
    assert!(foreign.get(server.at("/v1/models")).send().await.is_err());

    let probes = server.probes.as_deref().unwrap();
    let probe = async |path: &str| {
        let answer = nobody.get(format!("{probes}{path}")).send().await;
        answer.unwrap().status()
    };
    assert_eq!(probe("/v1/health/ready").await, StatusCode::OK);
    assert_eq!(probe("/v1/health/live").await, StatusCode::OK);
    assert_eq!(probe("/v1/models").await, StatusCode::NOT_FOUND);
}

#[test]
fn a_key_that_needs_a_passphrase_is_refused() {
    let authority = Authority::new();
    authority.vouch("localhost");
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    fs::write(authority.file("key.pem"), locked).unwrap();
    let (cert, key) = (authority.file("cert.pem"), authority.file("key.pem"));
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let err = refusal(&[], &["--ssl-certfile", cert, "--ssl-keyfile", key]);
    assert!(
        err.contains("is encrypted") && err.contains("openssl pkey"),
        "{err}"
    );
    let err = refusal(&[], &["--ssl-certfile", cert]);
    assert!(err.contains("--ssl-keyfile"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_named_origins_may_call() {
    const ORIGIN: &str = "https://app.example.org";
    let mut command = serving();
    command.args(["--api-key", "secret"]);
    command.env(
        "NIM_CORS_ALLOW_ORIGINS",
        format!("{ORIGIN},http://localhost:3000"),
    );
    let server = Running::start(command);
    let client = Client::builder().no_proxy().build().unwrap();
    server.ready(&client).await;
    let preflight = async |origin: &str| {
        let call = client.request(Method::OPTIONS, server.at("/v1/chat/completions"));
        let call = call.header("origin", origin);
        let call = call.header("access-control-request-method", "POST");
        let call = call.header(
            "access-control-request-headers",
            "authorization,content-type",
        );
        call.send().await.unwrap()
    };
    let answer = preflight(ORIGIN).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let header = |name: &str| answer.headers()[name].to_str().unwrap();
    assert_eq!(header("access-control-allow-origin"), ORIGIN);
    assert_eq!(
        header("access-control-allow-headers"),
        "authorization,content-type"
    );
    assert!(header("access-control-allow-methods").contains("POST"));
    assert_eq!(header("access-control-max-age"), "600");
    assert!(!header("x-request-id").is_empty());
    let stranger = preflight("https://elsewhere.example.org").await;
    assert!(
        !stranger
            .headers()
            .contains_key("access-control-allow-origin")
    );

    // Scripts may read why they were refused.
    let call = client.get(server.at("/v1/models")).header("origin", ORIGIN);
    let answer = call.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()["access-control-allow-origin"], ORIGIN);
    let exposed = &answer.headers()["access-control-expose-headers"];
    assert_eq!(exposed, "x-request-id,retry-after");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_shared_with_other_origins_by_default() {
    let server = Server::start(&[]).await;
    let call = server
        .http
        .request(Method::OPTIONS, format!("{}/v1/models", server.url));
    let call = call.header("origin", "https://app.example.org");
    let answer = call.header("access-control-request-method", "GET").send();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
}
