//! `vlmd bench` against the real server, and against servers that do what servers do at worst.

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Server, http, project, serve_bytes, vlmd};

const SECRET: &str = "nvapi-very-secret";

/// Runs `vlmd bench` to its end; its JSON is null where it wrote none.
async fn bench(arguments: &[&str]) -> (Output, Value) {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("report.json");
    let mut command = vlmd();
    command
        .args(["bench", "--json", json.to_str().unwrap()])
        .args(arguments)
        .env("BENCH_KEY", SECRET)
        .env_remove("NVIDIA_API_KEY");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let report = std::fs::read(json).unwrap_or_default();
    (output, serde_json::from_slice(&report).unwrap_or_default())
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The last line of a failed run, which says why.
fn complaint(output: &Output) -> String {
    assert!(!output.status.success(), "{}", stdout(output));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.lines().last().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_model_is_measured() {
    let server = Server::start(&[]).await;
    let picture = project().join("models/tiny/examples/bars.png");
    let (output, report) = bench(&[
        "--url",
        &server.url,
        "--concurrency",
        "1,4",
        "--requests",
        "12",
        "--warmup-requests",
        "1",
        "--output-tokens",
        "8",
        "--input-words",
        "20",
        "--image-file",
        picture.to_str().unwrap(),
    ])
    .await;
    assert!(output.status.success(), "{}", complaint(&output));
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 2, "{report:#}");
    for (result, concurrency) in results.iter().zip([1, 4]) {
        let number = |path: &str| result.pointer(path).and_then(Value::as_f64).unwrap();
        assert_eq!(
            result["load"],
            json!({"kind": "closed", "concurrency": concurrency})
        );
        let requests = json!({"sent": 12, "answered": 12, "failed": 0, "abandoned": 0});
        assert_eq!(result["requests"], requests);
        assert_eq!(result["tokens"]["output"], 12 * 8);
        assert_eq!(result["tokens"]["counted_by"], "usage");
        // A word is a token at least, and a picture some more.
        assert!(number("/prompt_tokens/min") > 20.0, "{result:#}");
        let (first, latency) = (
            number("/time_to_first_token_ms/mean"),
            number("/request_latency_ms/mean"),
        );
        assert!(0.0 < first && first < latency, "{first} {latency}");
        // The mean over requests of (latency - first) / 7, all of them with 8 tokens.
        let between = number("/inter_token_latency_ms/mean");
        assert!(
            (between - (latency - first) / 7.0).abs() < 1e-6,
            "{between}"
        );
        // So many under way at a time, always, but for the beginning and the end of the run.
        let busy = latency / 1e3 * 12.0 / number("/duration_s");
        let concurrency = f64::from(concurrency);
        assert!(
            busy <= concurrency * 1.01 && busy > concurrency * 0.4,
            "{busy}"
        );
        let speed = number("/output_token_throughput") * number("/duration_s");
        assert!((speed - 96.0).abs() < 1e-6, "{speed}");
    }
    // The server has counted the same, with the warm-up.
    assert_eq!(
        server.metric("vllm:generation_tokens_total").await,
        25.0 * 8.0
    );
    assert_eq!(report["endpoints"][0]["model"], "vlmd/tiny");
    assert!(
        stdout(&output).contains("time to first token, ms"),
        "{}",
        stdout(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_endpoints_take_turns_at_the_same_requests() {
    let server = Server::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    let (output, report) = bench(&[
        "--url",
        &server.url,
        "--vs",
        &format!("{}/v1", server.url),
        "--vs-model",
        "vlmd/tiny",
        "--requests",
        "8",
        "--rounds",
        "2",
        "--output-tokens",
        "4",
        "--input-tokens",
        "30",
        "--tokenizer",
        project().join("models/tiny").to_str().unwrap(),
        "--html",
        page.to_str().unwrap(),
    ])
    .await;
    assert!(output.status.success(), "{}", complaint(&output));
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for (endpoint, result) in results.iter().enumerate() {
        assert_eq!(
            (&result["endpoint"], &result["rounds"]),
            (&json!(endpoint), &json!(2))
        );
        assert_eq!(result["requests"]["answered"], 8);
        assert_eq!(result["tokens"]["output"], 32);
        // The template adds the same to each; a word of this small vocabulary is some tokens, so
        // that not every number can be met.
        let spread = result["prompt_tokens"]["std"].as_f64().unwrap();
        assert!(spread < 1.0, "{spread}");
    }
    assert_eq!(results[0]["tokens"], results[1]["tokens"]);
    let ratio = |name: &str| report["ratios"][0][name].as_array().map(Vec::len);
    for name in [
        "time_to_first_token",
        "inter_token_latency",
        "request_latency",
    ] {
        assert_eq!(ratio(name), Some(5), "{name}");
    }
    let text = stdout(&output);
    let order: Vec<_> = String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|line| line.contains("of 2: "))
        .map(|line| line.ends_with("/v1"))
        .collect();
    assert_eq!(
        order,
        [false, true, true, false],
        "the endpoints do not take turns"
    );
    assert!(
        text.contains("A: ") && text.contains("B: ") && text.contains("B/A"),
        "{text}"
    );
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<svg") && page.contains("B/A") && !page.contains("<script"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_arrive_by_the_clock() {
    let server = Server::start(&[]).await;
    let (output, report) = bench(&[
        "--url",
        &server.url,
        "--request-rate",
        "20",
        "--arrivals",
        "constant",
        "--duration",
        "2",
        "--input-words",
        "5",
        "--output-tokens",
        "2",
    ])
    .await;
    assert!(output.status.success(), "{}", complaint(&output));
    let result = &report["results"][0];
    // One each 50 ms from 0 on, as far as they are before 2 s.
    assert_eq!(result["requests"]["answered"], 40, "{result:#}");
    assert!(result["duration_s"].as_f64().unwrap() >= 1.95);
    assert_eq!(result["schedule_lag_ms"]["count"], 40);
    let load = json!({"kind": "open", "rate": 20.0, "arrivals": "constant"});
    assert_eq!(result["load"], load);
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_answers_have_no_first_token() {
    let server = Server::start(&[]).await;
    let prompts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(prompts.path(), "What is red?\nWhat is blue?\n").unwrap();
    let (output, report) = bench(&[
        "--url",
        &server.url,
        "--no-stream",
        "--prompts",
        prompts.path().to_str().unwrap(),
        "--requests",
        "4",
        "--extra-inputs",
        "max_tokens:3",
    ])
    .await;
    assert!(output.status.success(), "{}", complaint(&output));
    let result = &report["results"][0];
    assert!(result["time_to_first_token_ms"].is_null());
    assert!(result["request_latency_ms"]["mean"].as_f64().unwrap() > 0.0);
    assert_eq!(result["tokens"]["counted_by"], "usage");
    assert_eq!(report["endpoints"][0]["fields"], json!({"max_tokens": 3}));
}

/// A chat server that answers the nth request as `answer` says, and lists one model.
async fn fake(answer: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static) -> String {
    let count = Arc::new(AtomicUsize::new(0));
    let answer = Arc::new(answer);
    let address = serve_bytes(move |path, _| {
        if path.ends_with("/models") {
            let json = [("content-type", "application/json")];
            return http("200 OK", &json, br#"{"object":"list","data":[{"id":"m"}]}"#);
        }
        answer(count.fetch_add(1, Ordering::SeqCst))
    })
    .await;
    format!("http://{address}")
}

fn stream(events: &str) -> Vec<u8> {
    http(
        "200 OK",
        &[("content-type", "text/event-stream")],
        events.as_bytes(),
    )
}

const GOOD: &str = ": hello\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n\
                    data: [DONE]\n\n";

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_counted_by_their_kind() {
    let url = fake(|number| match number % 5 {
        0 => stream(GOOD),
        1 => http(
            "503 Service Unavailable",
            &[],
            br#"{"error":{"message":"queue full"}}"#,
        ),
        2 => http("429 Too Many Requests", &[], br#"{"title":"slow down"}"#),
        3 => stream("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"),
        _ => stream("data: {\"error\":{\"message\":\"worker died\"}}\n\ndata: [DONE]\n\n"),
    })
    .await;
    let (output, report) =
        bench(&["--url", &url, "--requests", "50", "--warmup-requests", "0"]).await;
    assert!(output.status.success(), "{}", complaint(&output));
    let result = &report["results"][0];
    let requests = json!({"sent": 50, "answered": 10, "failed": 40, "abandoned": 0});
    assert_eq!(result["requests"], requests);
    assert_eq!(
        result["tokens"],
        json!({"prompt": 0, "output": 10, "counted_by": "chunks"})
    );
    let mut errors: Vec<_> = result["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| {
            let message = error["message"].as_str().unwrap();
            (
                error["kind"].as_str().unwrap(),
                &error["status"],
                &error["count"],
                message,
            )
        })
        .collect();
    errors.sort_by_key(|error| (error.0, error.1.as_u64()));
    let (none, ten) = (Value::Null, json!(10));
    assert_eq!(
        errors,
        [
            (
                "cut_off",
                &none,
                &ten,
                "the stream ended before the answer did"
            ),
            (
                "in_stream",
                &none,
                &ten,
                "an error in the stream: worker died"
            ),
            ("status", &json!(429), &ten, "429: slow down"),
            ("status", &json!(503), &ten, "503: queue full"),
        ]
    );
    let text = stdout(&output);
    assert!(
        text.contains("10 failed: 503: queue full") && text.contains("chunks"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_nothing_is_an_error_with_a_report() {
    let url = fake(|_| http("503 Service Unavailable", &[], b"loading")).await;
    let (output, report) = bench(&["--url", &url, "--requests", "7"]).await;
    let complaint = complaint(&output);
    assert!(
        complaint.contains("none of 7 requests") && complaint.contains("loading"),
        "{complaint}"
    );
    assert_eq!(report["results"][0]["requests"]["failed"], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_before_anything_is_measured() {
    let server = Server::start(&["--api-key", SECRET]).await;
    let url = server.url.as_str();
    let wrong = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(wrong.path(), "wrong-key").unwrap();
    let key_file = ["--key-file", wrong.path().to_str().unwrap()];
    let key = ["--key-env", "BENCH_KEY"];
    for (arguments, parts) in [
        (vec![], vec!["401", "API key"]),
        (key_file.to_vec(), vec!["401", "API key"]),
        (
            [&key[..], &["--model", "nobody/knows"]].concat(),
            vec!["nobody/knows", "`vlmd/tiny`"],
        ),
        (
            [&key[..], &["--extra-inputs", "temperature:-1"]].concat(),
            vec!["400", "temperature", "-1"],
        ),
        (
            vec!["--key-env", "NO_SUCH_KEY"],
            vec!["--key-env", "NO_SUCH_KEY is not set"],
        ),
        (
            vec!["--key-env", SECRET],
            vec!["--key-env", "name of an environment variable"],
        ),
        (
            vec!["--prompts", "/no/such/file"],
            vec!["--prompts", "/no/such/file", "No such file"],
        ),
        (
            vec!["--image-file", "/no/such.png"],
            vec!["--image-file", "/no/such.png"],
        ),
        (
            vec!["--image-count", "2"],
            vec!["--image-count", "--image-size"],
        ),
        (
            vec!["--url", "http://no-such-host.invalid"],
            vec!["no-such-host.invalid", "cannot be reached"],
        ),
        (vec!["--url", "localhost:8000"], vec!["--url", "http://"]),
        (
            vec!["--url", "https://integrate.api.nvidia.com"],
            vec!["NVIDIA_API_KEY is not set"],
        ),
    ] {
        let given = arguments.contains(&"--url");
        let target = if given { vec![] } else { vec!["--url", url] };
        let (output, report) = bench(&[target, arguments.clone()].concat()).await;
        let complaint = complaint(&output);
        for part in parts {
            assert!(complaint.contains(part), "{arguments:?}: {complaint}");
        }
        let all = format!("{output:?}{report}");
        assert!(
            !all.contains(SECRET) && !all.contains("wrong-key"),
            "{arguments:?}"
        );
        assert!(report.is_null(), "{arguments:?}");
    }
    // With the right key it goes, and the key is nowhere.
    let (output, report) = bench(&["--url", url, "--requests", "1", key[0], key[1]]).await;
    assert!(output.status.success(), "{}", complaint(&output));
    assert!(!format!("{output:?}{report}").contains(SECRET));
}

/// Servers like to quote keys that they do not know.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_server_repeats_is_not_shown() {
    let url = fake(|_| {
        let body = json!({"error": {"message": format!("overloaded for {SECRET}")}});
        http("503 Service Unavailable", &[], body.to_string().as_bytes())
    })
    .await;
    let (output, report) =
        bench(&["--url", &url, "--requests", "2", "--key-env", "BENCH_KEY"]).await;
    let all = format!("{output:?}{report}");
    assert!(
        all.contains("overloaded for [key]") && !all.contains(SECRET),
        "{all}"
    );
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_reports_what_there_is() {
    let server = Server::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("report.json");
    let child = vlmd()
        .args(["bench", "--url", &server.url, "--duration", "100"])
        .args(["--output-tokens", "2", "--input-words", "5", "--json"])
        .arg(&json)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Until some are answered.
    while server.metric("vllm:generation_tokens_total").await < 20.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let id = child.id().to_string();
    let killed = std::process::Command::new("kill")
        .args(["-INT", &id])
        .status();
    assert!(killed.unwrap().success());
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(
        stdout(&output).contains("ended before its time"),
        "{}",
        stdout(&output)
    );
    let report: Value = serde_json::from_slice(&read(&json)).unwrap();
    assert_eq!(report["interrupted"], true);
    assert!(
        report["results"][0]["requests"]["answered"]
            .as_u64()
            .unwrap()
            > 0
    );
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
