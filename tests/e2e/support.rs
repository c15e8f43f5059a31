//! Starts the binary, talks to it, and ends it.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// How long anything on this machine may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The project's top folder.
pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The tiny random checkpoint with the true Phi-3.5-vision file layout.
pub(crate) fn golden_checkpoint() -> PathBuf {
    project().join("tests/golden/phi3_v")
}

/// `vlmd` with nothing of this environment's settings.
pub(crate) fn vlmd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vlmd"));
    clean(&mut command);
    command
}

/// Takes this environment's settings away.
pub(crate) fn clean(command: &mut Command) {
    for (name, _) in std::env::vars() {
        if ["VLMD_", "NIM_", "HF_", "OTEL_"]
            .iter()
            .any(|p| name.starts_with(p))
            || name == "RUST_LOG"
        {
            command.env_remove(name);
        }
    }
}

/// A running server, ended when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) http: Client,
}

impl Server {
    /// Starts `vlmd serve` on a free port and waits until it is ready.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let server = Self::launch(vlmd(), arguments);
        server.wait_until_ready().await;
        server
    }

    /// Starts `command serve` without waiting for the model.
    pub(crate) fn launch(mut command: Command, arguments: &[&str]) -> Self {
        let mut child = command
            .args([
                "serve",
                "--host",
                "127.0.0.1",
                "--port",
                "0",
                "--log-level",
                "warn",
            ])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("vlmd starts");
        // reqwest wants one chosen, although these tests speak plain HTTP.
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let (found, url) = mpsc::channel();
        // Reads on after the URL, so that the server never waits for a full pipe.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(at) = line.find("http://") {
                    let url = line[at..].split_whitespace().next().unwrap_or_default();
                    found.send(url.to_owned()).ok();
                }
            }
        });
        let url = url.recv_timeout(PATIENCE).expect("the URL is printed");
        Self {
            child,
            url,
            http: Client::new(),
        }
    }

    pub(crate) async fn wait_until_ready(&self) {
        let begin = Instant::now();
        while self.get("/v1/health/ready").await.status() != StatusCode::OK {
            assert!(
                begin.elapsed() < PATIENCE,
                "the server does not become ready"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.http
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .expect("the server answers")
    }

    /// Posts `body` to the chat route.
    pub(crate) async fn chat(&self, body: &Value) -> Response {
        self.post(body.to_string()).await
    }

    /// Posts raw bytes as JSON to the chat route.
    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> Response {
        self.http
            .post(format!("{}/v1/chat/completions", self.url))
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .expect("the server answers")
    }

    /// The text of a whole answer; the request must succeed.
    pub(crate) async fn text(&self, body: &Value) -> String {
        let response = self.chat(body).await;
        let status = response.status();
        let answer: Value = response.json().await.expect("the answer is JSON");
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["choices"][0]["message"]["content"]
            .as_str()
            .expect("text")
            .to_owned()
    }

    /// The value of an unlabelled or singly labelled metric.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self
            .get("/metrics")
            .await
            .text()
            .await
            .expect("metrics are text");
        text.lines()
            .find(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            })
            .and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("no metric {name} in:\n{text}"))
    }

    /// Asks the process to end, as an orchestrator does.
    pub(crate) fn terminate(&self) {
        let killed = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(killed.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// `bytes` as a data URI.
pub(crate) fn data_uri(media_type: &str, bytes: &[u8]) -> String {
    format!("data:{media_type};base64,{}", STANDARD.encode(bytes))
}

/// A file as a PNG data URI.
pub(crate) fn png(path: &Path) -> String {
    data_uri(
        "image/png",
        &std::fs::read(path).expect("the picture exists"),
    )
}

/// A greedy request with one user message of pictures followed by text.
pub(crate) fn request(urls: &[String], text: &str) -> Value {
    let mut parts: Vec<Value> = urls
        .iter()
        .map(|url| json!({"type": "image_url", "image_url": {"url": url}}))
        .collect();
    parts.push(json!({"type": "text", "text": text}));
    json!({"model": "test", "temperature": 0, "messages": [{"role": "user", "content": parts}]})
}

/// Serves every request on a loopback port with the bytes that `answer` gives for its path,
/// until the test's runtime ends.
pub(crate) async fn serve_bytes(
    answer: impl Fn(&str, &str) -> Vec<u8> + Send + Sync + Clone + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                let mut buffer = [0; 1024];
                // Bodies are read, too: a socket that is closed before would lose the answer.
                while !is_whole(&request) {
                    match socket.read(&mut buffer).await {
                        Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
                        _ => return,
                    }
                }
                let request = String::from_utf8_lossy(&request);
                let (head, _) = request.split_once("\r\n\r\n").unwrap_or_default();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                socket.write_all(&answer(&path, head)).await.ok();
                socket.shutdown().await.ok();
            });
        }
    });
    address
}

/// Whether a request is there with all of its body.
fn is_whole(request: &[u8]) -> bool {
    const END: &[u8] = b"\r\n\r\n";
    let Some(end) = request.windows(END.len()).position(|bytes| bytes == END) else {
        return false;
    };
    let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse().ok())
        .unwrap_or(0);
    request.len() >= end + END.len() + length
}

/// An HTTP/1.1 answer with its length.
pub(crate) fn http(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        answer.push_str(&format!("{name}: {value}\r\n"));
    }
    answer.push_str("\r\n");
    let mut answer = answer.into_bytes();
    answer.extend_from_slice(body);
    answer
}
