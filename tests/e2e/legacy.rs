//! The hosted dialects: the model in the path, tags in text, short answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{Server, golden_checkpoint, http, png, project, request, serve_bytes};

async fn post(server: &Server, path: &str, body: &Value) -> Response {
    let request = server.http.post(format!("{}{path}", server.url));
    request.json(body).send().await.unwrap()
}

async fn answer(server: &Server, path: &str, body: &Value) -> Value {
    let response = post(server, path, body).await;
    let status = response.status();
    let answer: Value = response.json().await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

async fn refusal(server: &Server, path: &str, body: &Value) -> (u16, Value) {
    let response = post(server, path, body).await;
    let status = response.status().as_u16();
    let answer: Value = response.json().await.unwrap();
    (status, answer["error"].clone())
}

/// The chunks of a stream, which must end as it should.
async fn chunks(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["stream"] = json!(true);
    let response = post(server, path, &body).await;
    assert_eq!(response.status(), StatusCode::OK);
    let text = response.text().await.unwrap();
    let frames = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let mut frames: Vec<&str> = frames.collect();
    assert_eq!(frames.pop(), Some("[DONE]"));
    let chunks = frames.iter().map(|frame| serde_json::from_str(frame));
    chunks.collect::<Result<_, _>>().unwrap()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    let fields = value.as_object().unwrap();
    fields.keys().map(String::as_str).collect()
}

fn merged(body: &Value, extra: &Value) -> Value {
    let mut body = body.clone();
    let fields = extra.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    body
}

async fn kosmos2() -> Server {
    let folder = project().join("tests/golden/kosmos2");
    let model = folder.to_str().unwrap();
    let names = "microsoft/kosmos-2,kosmos";
    Server::start(&["--model", model, "--served-model-name", names]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn kosmos_2_answers_with_entities_as_the_hosted_one_did() {
    const PATH: &str = "/v1/vlm/microsoft/kosmos-2";
    let folder = project().join("tests/golden/kosmos2");
    let golden = std::fs::read(folder.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let server = kosmos2().await;
    for case in golden["cases"].as_array().unwrap() {
        let files = case["images_decoded"].as_array();
        let files = files.or(case["images"].as_array()).unwrap();
        let [file] = files.as_slice() else {
            continue;
        };
        let prompt = case.get("prompt").or(case.get("text")).unwrap();
        let (prompt, file) = (prompt.as_str().unwrap(), file.as_str().unwrap());
        let url = png(&folder.join(file));
        let options = json!({"max_tokens": 16, "temperature": 0, "ignore_eos": true,
            "bounding_boxes": prompt.contains("<grounding>")});
        let tag = format!("{prompt} <img src=\"{url}\" />");
        let body = json!({"messages": [{"role": "user", "content": tag}]});
        let body = merged(&body, &options);
        let hosted = answer(&server, PATH, &body).await;
        assert_eq!(keys(&hosted), ["choices", "id", "usage"].into());
        let choice = &hosted["choices"][0];
        assert_eq!(keys(choice), ["finish_reason", "index", "message"].into());
        let expected = ["content", "entities", "role"].into();
        assert_eq!(keys(&choice["message"]), expected, "{hosted}");
        // The same words as by the chat route.
        let chat = merged(&request(&[url], prompt), &options);
        let chat = merged(&chat, &json!({"model": "kosmos"}));
        let chat = answer(&server, "/v1/chat/completions", &chat).await;
        let message = &chat["choices"][0]["message"];
        assert_eq!(choice["message"]["content"], message["content"]);
        assert_eq!(choice["message"]["entities"], message["entities"]);
        assert_eq!(hosted["usage"], chat["usage"]);
        // The hosted one did not stream.
        let chunks = chunks(&server, PATH, &body).await;
        for chunk in &chunks {
            assert_eq!(keys(chunk), ["choices", "id"].into(), "{chunk}");
        }
        let last = &chunks.last().unwrap()["choices"][0];
        assert_eq!(last["delta"]["entities"], message["entities"]);
        assert_eq!(last["finish_reason"], choice["finish_reason"]);
        let words = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
        assert_eq!(words.collect::<String>(), message["content"]);
    }
    // An answer that points at something, which random weights do when they must.
    let pointing = json!({"messages": [{"role": "user", "content": ""}], "temperature": 0,
        "guided_regex": "See<phrase> the [a-z]{3}</phrase><object><patch_index_0010>\
            <patch_index_0500></object>"});
    let hosted = answer(&server, PATH, &pointing).await;
    let message = &hosted["choices"][0]["message"];
    let content = message["content"].as_str().unwrap();
    assert!(
        content.starts_with("See the ") && content.len() == 11,
        "{hosted}"
    );
    let entities = json!([{"phrase": content[4..], "substring": [4, 10],
        "bboxes": [[0.328125, 0.015625, 0.640625, 0.484375]]}]);
    assert_eq!(message["entities"], entities);
    let chunks = chunks(&server, PATH, &pointing).await;
    let last = &chunks.last().unwrap()["choices"][0];
    assert_eq!(last["delta"]["entities"], entities);
}

#[tokio::test(flavor = "multi_thread")]
async fn kosmos_2_is_told_what_to_do() {
    const PATH: &str = "/v1/vlm/microsoft/kosmos-2";
    let server = kosmos2().await;
    let body = |text: &str, extra: Value| {
        let content = json!([{"type": "text", "text": text}]);
        let body = json!({"messages": [{"role": "user", "content": content}],
            "max_tokens": 1, "temperature": 0, "logprobs": true});
        merged(&body, &extra)
    };
    let first = async |body: Value| {
        let answer = answer(&server, PATH, &body).await;
        let token = answer["choices"][0]["logprobs"]["content"][0]["logprob"].clone();
        (answer["usage"]["prompt_tokens"].clone(), token)
    };
    let asked = first(body("Name it", json!({"task": "VQA"}))).await;
    assert_eq!(
        asked,
        first(body("Question: Name it Answer:", json!({}))).await
    );
    assert_ne!(asked, first(body("Name it", json!({}))).await);
    let detailed = json!({"task": "image captioning", "response_mode": "detailed"});
    let told = "Describe this image in detail:";
    assert_eq!(
        first(body("", detailed)).await,
        first(body(told, json!({}))).await
    );
    for (text, extra, field) in [
        ("x", json!({"task": "OCR"}), "task"),
        ("x", json!({"response_mode": true}), "response_mode"),
        ("x", json!({"response_mode": "detailed"}), "messages"),
        ("", json!({"task": "VQA"}), "messages"),
    ] {
        let (status, error) = refusal(&server, PATH, &body(text, extra)).await;
        assert_eq!((status, &error["param"]), (400, &json!(field)), "{error}");
    }
    let plain = Server::start(&["--model", "vlmd/tiny"]).await;
    let asked = body("x", json!({"task": "VQA"}));
    let (status, error) = refusal(&plain, "/v1/vlm/vlmd/tiny", &asked).await;
    assert_eq!((status, &error["param"]), (400, &json!("task")), "{error}");
    assert_eq!(error["code"], "unsupported_parameter");
}

#[tokio::test(flavor = "multi_thread")]
async fn neva_is_steered_by_labels_in_the_hosted_dialect() {
    let folder = project().join("tests/golden/neva");
    let (archive, tower) = (folder.join("neva.nemo"), folder.join("clip"));
    let server = Server::start(&[
        "--model",
        archive.to_str().unwrap(),
        "--vision-tower",
        tower.to_str().unwrap(),
        "--served-model-name",
        "nvidia/neva-22b",
    ])
    .await;
    let golden = std::fs::read(folder.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    let file = cases.iter().find_map(|case| case["images"][0].as_str());
    let url = png(&folder.join(file.unwrap()));
    let body = |labels: Value| {
        json!({"max_tokens": 1, "temperature": 0, "logprobs": true, "messages": [
            {"role": "user", "content": format!("What is it? <img src=\"{url}\" />")},
            {"role": "assistant", "content": null, "labels": labels},
        ]})
    };
    let logprob = async |labels: Value| {
        let answer = answer(&server, "/v1/vlm/nvidia/neva-22b", &body(labels)).await;
        let first = &answer["choices"][0]["logprobs"]["content"][0];
        first["logprob"].as_f64().unwrap()
    };
    let usual = logprob(json!({})).await;
    let steered = json!({"creativity": 6, "helpfulness": 6, "humor": 0, "quality": 6});
    assert_ne!(logprob(steered).await, usual);
    assert_eq!(logprob(json!({"quality": 4})).await, usual);
    let bad = body(json!({"humor": 10}));
    let (status, error) = refusal(&server, "/v1/vlm/nvidia/neva-22b", &bad).await;
    assert_eq!(
        (status, &error["param"]),
        (400, &json!("messages[1].labels.humor"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_does_not_say_is_the_hosted_default() {
    let checkpoint = golden_checkpoint();
    let model = checkpoint.to_str().unwrap();
    let server = Server::start(&["--model", model, "--served-model-name", "org/name"]).await;
    let messages = json!([{"role": "user", "content": "Tell me something."}]);
    let drawn = json!({"messages": messages, "seed": 5, "ignore_eos": true});
    let hosted = answer(&server, "/v1/vlm/org/name", &drawn).await;
    let said = json!({"temperature": 0.2, "top_p": 0.7, "max_tokens": 1024});
    let text = |answer: &Value| answer["choices"][0]["message"]["content"].clone();
    for path in ["/v1/vlm/org/name", "/v1/gr/org/name/chat/completions"] {
        let explicit = answer(&server, path, &merged(&drawn, &said)).await;
        assert_eq!(text(&explicit), text(&hosted), "{path}");
        assert_eq!(explicit["usage"]["completion_tokens"], 1024);
    }
    let warm = merged(&drawn, &json!({"temperature": 1.5, "top_p": 1.0}));
    let warm = answer(&server, "/v1/vlm/org/name", &warm).await;
    assert_ne!(text(&warm), text(&hosted));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_path_names_a_served_model() {
    let server = Server::start(&["--model", "vlmd/tiny"]).await;
    let body = json!({"messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 3, "temperature": 0});
    let chat = merged(&body, &json!({"model": "vlmd/tiny"}));
    let chat = answer(&server, "/v1/chat/completions", &chat).await;
    for path in [
        "/v1/gr/vlmd/tiny/chat/completions",
        "/v1/gr/tiny/chat/completions/",
    ] {
        let answer = answer(&server, path, &body).await;
        assert_eq!(keys(&answer), keys(&chat), "{path}");
        assert_eq!(answer["choices"], chat["choices"]);
        assert!(path.contains(answer["model"].as_str().unwrap()));
    }
    let first = &chunks(&server, "/v1/gr/vlmd/tiny/chat/completions", &body).await[0];
    assert_eq!(first["object"], "chat.completion.chunk");
    for path in [
        "/v1/vlm/vlmd/tiny",
        "/v1/vlm/tiny",
        "/v1/vlm/tiny/chat/completions",
    ] {
        let answer = answer(&server, path, &body).await;
        let content = &answer["choices"][0]["message"]["content"];
        assert_eq!(*content, chat["choices"][0]["message"]["content"], "{path}");
    }
    let usage = json!({"stream_options": {"include_usage": true}});
    let streamed = chunks(&server, "/v1/vlm/vlmd/tiny", &merged(&body, &usage)).await;
    assert_eq!(streamed.last().unwrap()["usage"], chat["usage"]);

    let other = merged(&body, &json!({"model": "no/such"}));
    for (path, body, code) in [
        ("/v1/vlm/nvidia/vila", &body, "model_not_found"),
        ("/v1/vlm/vlmd/tiny", &other, "model_not_found"),
        ("/v1/vlm/vlmd/tiny/x", &body, "model_not_found"),
        ("/v1/vlm/%ff/tiny", &body, "model_not_found"),
        ("/v1/gr/no/such/chat/completions", &body, "model_not_found"),
        (
            "/v1/gr/vlmd/tiny/chat/completions",
            &other,
            "model_not_found",
        ),
        ("/v1/gr/vlmd/tiny", &body, "route_not_found"),
        ("/v1/vlm", &body, "route_not_found"),
    ] {
        let (status, error) = refusal(&server, path, body).await;
        assert_eq!(
            (status, &error["code"]),
            (404, &json!(code)),
            "{path}: {error}"
        );
    }
    let got = server.get("/v1/vlm/vlmd/tiny").await;
    assert_eq!(got.status(), StatusCode::METHOD_NOT_ALLOWED);
    let (status, error) = refusal(&server, "/v1/vlm/vlmd/tiny", &json!([])).await;
    assert_eq!((status, &error["code"]), (400, &json!("invalid_type")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_text_is_never_fetched() {
    let picture = std::fs::read(project().join("models/tiny/examples/shapes.png")).unwrap();
    let hits = Arc::new(AtomicUsize::new(0));
    let (served, counted) = (picture.clone(), Arc::clone(&hits));
    let address = serve_bytes(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        http("200 OK", &[("content-type", "image/png")], &served)
    })
    .await;
    let server = Server::start(&["--allow-media-host", "127.0.0.1"]).await;
    let url = format!("http://{address}/x.png");
    let asked = |content: Value| {
        json!({"model": "vlmd/tiny", "temperature": 0, "max_tokens": 1,
            "messages": [{"role": "user", "content": content}]})
    };
    let tags = [
        format!("<img src=\"{url}\" />"),
        format!("<IMG SRC='{url}'>"),
        format!("<img src={url}>"),
        format!("<img src=\"{}\">", url.replace("http", "HTTP")),
        format!("<img src=\"{}\">", url.replace("http", "&#104;ttp")),
        format!("<img src=\"{}\">", url.replace("http:", "")),
        format!("<img\nsrc = \" {url} \" src=\"data:image/png;base64,AA\">"),
        format!("<video src=\"{url}\"></video>"),
        format!("![x]({url})"),
        url.clone(),
    ];
    for tag in &tags {
        for content in [
            json!(format!("What? {tag}")),
            json!([{"type": "text", "text": tag}]),
        ] {
            for path in ["/v1/chat/completions", "/v1/vlm/vlmd/tiny"] {
                let status = post(&server, path, &asked(content.clone())).await.status();
                // Refused, or words like others.
                assert!([200, 400].contains(&status.as_u16()), "{content}: {status}");
                assert!(content.is_string() || status == 200, "{content}");
            }
        }
    }
    assert_eq!(hits.load(Ordering::Relaxed), 0);
    // Where an address may stand it is fetched.
    let part = json!([{"type": "image_url", "image_url": {"url": url}}]);
    answer(&server, "/v1/vlm/vlmd/tiny", &asked(part)).await;
    assert_eq!(hits.load(Ordering::Relaxed), 1);
}
