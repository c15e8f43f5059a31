//! `vlmd` as a program: what it says at its end, and servers that speak TLS or have a port for
//! probes.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use reqwest::{Client, StatusCode};

use crate::support::{PATIENCE, vlmd};

/// Whether it ended well, what it printed, and what it complained of.
pub(crate) fn text(output: &Output) -> (bool, String, String) {
    let read = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.success(),
        read(&output.stdout),
        read(&output.stderr),
    )
}

/// What `vlmd serve` says when it does not start.
pub(crate) fn refusal(environment: &[(&str, &str)], arguments: &[&str]) -> String {
    let mut command = vlmd();
    let command = command.args(["serve", "--host", "127.0.0.1", "--port", "0"]);
    let command = command.args(arguments).envs(environment.iter().copied());
    let (success, _, err) = text(&command.output().unwrap());
    assert!(!success, "it starts");
    assert!(!err.contains("panicked"), "{err}");
    err
}

/// A server whose address is read from what it prints, whatever it speaks.
pub(crate) struct Running {
    child: Child,
    pub(crate) url: String,
    /// Of the port for probes.
    pub(crate) probes: Option<String>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
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

    pub(crate) fn at(&self, path: &str) -> String {
        // Certificates are for a name.
        format!("{}{path}", self.url.replace("127.0.0.1", "localhost"))
    }

    pub(crate) async fn ready(&self, client: &Client) {
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
