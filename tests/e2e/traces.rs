//! Traces, as an OpenTelemetry collector on loopback gets them.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Instant;

use prost::Message as _;
use reqwest::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::support::{PATIENCE, Server, golden_checkpoint, png, project, request, vlmd};

/// As much of OTLP as is looked at: `opentelemetry/proto/{collector/trace,trace,resource,common}`
/// of <https://github.com/open-telemetry/opentelemetry-proto>, by its field numbers.
mod otlp {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ExportTraceServiceRequest {
        #[prost(message, repeated, tag = "1")]
        pub(super) resource_spans: Vec<ResourceSpans>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ResourceSpans {
        #[prost(message, optional, tag = "1")]
        pub(super) resource: Option<Resource>,
        #[prost(message, repeated, tag = "2")]
        pub(super) scope_spans: Vec<ScopeSpans>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Resource {
        #[prost(message, repeated, tag = "1")]
        pub(super) attributes: Vec<KeyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ScopeSpans {
        #[prost(message, repeated, tag = "2")]
        pub(super) spans: Vec<Span>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Span {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) trace_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) span_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")]
        pub(super) parent_span_id: Vec<u8>,
        #[prost(string, tag = "5")]
        pub(super) name: String,
        #[prost(int32, tag = "6")]
        pub(super) kind: i32,
        #[prost(fixed64, tag = "7")]
        pub(super) start: u64,
        #[prost(fixed64, tag = "8")]
        pub(super) end: u64,
        #[prost(message, repeated, tag = "9")]
        pub(super) attributes: Vec<KeyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct KeyValue {
        #[prost(string, tag = "1")]
        pub(super) key: String,
        #[prost(message, optional, tag = "2")]
        pub(super) value: Option<AnyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct AnyValue {
        #[prost(oneof = "Value", tags = "1, 3")]
        pub(super) value: Option<Value>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Value {
        #[prost(string, tag = "1")]
        Text(String),
        #[prost(int64, tag = "3")]
        Number(i64),
    }
}

/// `SpanKind` of OTLP.
const SERVER: i32 = 2;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// What a collector was sent: the head of the request, and its body.
type Post = (String, Vec<u8>);

/// A collector on loopback: its URL, and what it is sent.
async fn collector() -> (String, UnboundedReceiver<Post>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (send, posts) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            send.send(receive(socket).await).ok();
        }
    });
    (url, posts)
}

async fn receive(mut socket: TcpStream) -> Post {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    socket.read_exact(&mut body).await.unwrap();
    let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    socket.write_all(answer).await.unwrap();
    (head, body)
}

/// Ends the server in order and waits until it has.
async fn finish(server: &mut Server) {
    server.terminate();
    let begin = Instant::now();
    while server.child.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < PATIENCE, "the server does not end");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: &[otlp::KeyValue]) -> BTreeMap<&str, String> {
    let text = |value: &otlp::AnyValue| match value.value.as_ref()? {
        otlp::Value::Text(text) => Some(text.clone()),
        otlp::Value::Number(number) => Some(number.to_string()),
    };
    attributes
        .iter()
        .filter_map(|pair| Some((pair.key.as_str(), text(pair.value.as_ref()?)?)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_arrives_in_the_trace_of_its_caller() {
    let (url, mut posts) = collector().await;
    let mut command = vlmd();
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &url)
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=seven");
    let checkpoint = golden_checkpoint();
    let mut server = Server::launch(
        command,
        &[
            "--model",
            checkpoint.to_str().unwrap(),
            "--served-model-name",
            "test",
            "--api-key",
            "open-sesame",
        ],
    );
    server.wait_until_ready().await;
    let picture = png(&project().join("tests/golden/phi3_v/images/a_97x41.png"));
    let mut body = request(&[picture], "Magic words.");
    body["max_tokens"] = json!(4);
    body["stream"] = json!(true);
    let answer = server
        .http
        .post(format!("{}/v1/chat/completions", server.url))
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"))
        .bearer_auth("open-sesame")
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.text().await.unwrap().ends_with("[DONE]\n\n"));
    finish(&mut server).await;

    let (head, sent) = posts.recv().await.unwrap();
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf\r\n"));
    assert!(head.contains("x-tenant: seven\r\n"), "{head}");
    // Neither words, keys nor pictures.
    for secret in ["Magic", "sesame", "base64"] {
        assert!(!String::from_utf8_lossy(&sent).contains(secret), "{secret}");
    }
    let export = otlp::ExportTraceServiceRequest::decode(&*sent).unwrap();
    let resource = export.resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(texts(&resource.attributes)["service.name"], "vlmd");
    let spans: Vec<_> = export
        .resource_spans
        .iter()
        .flat_map(|of| &of.scope_spans)
        .flat_map(|of| &of.spans)
        .collect();
    let named = |name: &str| {
        let mut found = spans.iter().filter(|span| span.name == name);
        let span = found.next().unwrap_or_else(|| panic!("no {name}"));
        assert!(found.next().is_none(), "two of {name}");
        span
    };
    // The probes that the test has made are not among them.
    assert_eq!(spans.len(), 7, "{spans:#?}");
    let root = named("POST /v1/chat/completions");
    assert_eq!(hex(&root.parent_span_id), CALLER);
    assert_eq!(root.kind, SERVER);
    let attributes = texts(&root.attributes);
    assert_eq!(attributes["http.response.status_code"], "200");
    assert_eq!(attributes["url.path"], "/v1/chat/completions");
    for (name, parent) in [
        ("prepare", root),
        ("media", named("prepare")),
        ("process", named("prepare")),
        ("queue", root),
        ("prefill", root),
        ("decode", root),
    ] {
        let span = named(name);
        assert_eq!(hex(&span.trace_id), TRACE, "{name}");
        assert_eq!(span.parent_span_id, parent.span_id, "{name}");
        assert!(
            parent.start <= span.start && span.start <= span.end && span.end <= parent.end,
            "{span:?} in {parent:?}"
        );
    }
    assert_eq!(texts(&named("media").attributes)["pictures"], "1");
    assert!(named("queue").end <= named("prefill").start);
    assert!(named("prefill").end <= named("decode").start);
    assert!(named("prefill").end > named("prefill").start);
    assert!(posts.try_recv().is_err(), "nothing else was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_down_costs_a_warning() {
    // A port that nobody listens on any more.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut command = vlmd();
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        .stderr(Stdio::piped());
    let mut server = Server::launch(command, &["--served-model-name", "test"]);
    server.wait_until_ready().await;
    let mut body = request(&[], "Hi");
    body["max_tokens"] = json!(1);
    assert_eq!(server.chat(&body).await.status(), StatusCode::OK);
    let begin = Instant::now();
    finish(&mut server).await;
    assert!(begin.elapsed().as_secs() < 20, "the end waits for nobody");
    assert!(server.child.wait().unwrap().success());
    let mut lines = String::new();
    let stderr = server.child.stderr.take().unwrap();
    std::io::Read::read_to_string(&mut { stderr }, &mut lines).unwrap();
    assert!(lines.contains("WARN") || lines.contains("ERROR"), "{lines}");
    assert!(!lines.contains("panicked"), "{lines}");
}
