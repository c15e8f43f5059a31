//! Answers that must be of a form, in every way to ask for it.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{Server, project, request};

/// The embedded model, with room for the grammars of many requests.
async fn start() -> Server {
    Server::start(&["--served-model-name", "test"]).await
}

/// A question, to be answered as `form` says.
fn question(form: &Value) -> Value {
    let mut body = request(&[], "What is in the picture?");
    body["max_tokens"] = json!(600);
    body.as_object_mut()
        .unwrap()
        .extend(form.as_object().unwrap().clone());
    body
}

/// Text and end of a whole answer.
async fn whole(server: &Server, form: &Value) -> (String, String) {
    let response = server.chat(&question(form)).await;
    let status = response.status();
    let answer: Value = response.json().await.unwrap();
    assert_eq!(status, StatusCode::OK, "{form}: {answer}");
    let choice = &answer["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap().to_owned();
    (text, choice["finish_reason"].as_str().unwrap().to_owned())
}

/// The same of a stream.
async fn streamed(server: &Server, form: &Value) -> (String, String) {
    let mut body = question(form);
    body["stream"] = json!(true);
    let response = server.chat(&body).await;
    assert_eq!(response.status(), StatusCode::OK, "{form}");
    let (mut text, mut end) = (String::new(), String::new());
    for line in response.text().await.unwrap().lines() {
        let Some(data) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else {
            continue;
        };
        let chunk: Value = serde_json::from_str(data).unwrap();
        assert!(chunk["error"].is_null(), "{form}: {chunk}");
        let choice = &chunk["choices"][0];
        text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        end.push_str(choice["finish_reason"].as_str().unwrap_or_default());
    }
    (text, end)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_schemas_give_valid_documents_streamed_and_whole() {
    let file = std::fs::read(project().join("tests/schemas/valid.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&file).unwrap();
    assert_eq!(cases.len(), 100);
    let server = &start().await;
    let failures: Vec<String> = stream::iter(cases)
        .map(|case| async move {
            let (name, schema) = (&case["name"], &case["schema"]);
            let form = json!({"response_format": {
                "type": "json_schema",
                "json_schema": {"name": "it", "schema": schema, "strict": true},
            }});
            let (text, end) = whole(server, &form).await;
            let again = streamed(server, &form).await;
            if (&text, &end) != (&again.0, &again.1) {
                return Some(format!("{name}: {text} whole, {} streamed", again.0));
            }
            let validator = jsonschema::validator_for(schema).unwrap();
            let document = serde_json::from_str(&text);
            let valid = document.is_ok_and(|document: Value| validator.is_valid(&document));
            (!valid || end != "stop").then(|| format!("{name}: {text:?} ({end})"))
        })
        .buffer_unordered(8)
        .filter_map(|failure| async { failure })
        .collect()
        .await;
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_asking_is_obeyed() {
    let server = start().await;
    let schema = json!({
        "type": "object",
        "properties": {"round": {"type": "boolean"}},
        "required": ["round"],
        "additionalProperties": false,
    });
    let is_document = |text: &str| {
        let document: Value = serde_json::from_str(text).unwrap();
        document["round"].is_boolean() && document.as_object().unwrap().len() == 1
    };
    for form in [
        json!({"guided_json": schema}),
        json!({"guided_json": schema.to_string()}),
        json!({"guided_json": schema, "guided_decoding_backend": "xgrammar"}),
        json!({"nvext": {"guided_json": schema}}),
        json!({"structured_outputs": {"json": schema}}),
    ] {
        let (text, end) = whole(&server, &form).await;
        assert!(is_document(&text), "{form}: {text}");
        assert_eq!(end, "stop");
    }
    let choices = ["a red square", "green", "nothing at all"];
    for form in [
        json!({"guided_choice": choices}),
        json!({"nvext": {"guided_choice": choices}}),
        json!({"structured_outputs": {"choice": choices}}),
        json!({"guided_choice": choices, "temperature": 2, "seed": 5}),
        json!({"guided_choice": choices, "logprobs": true}),
    ] {
        let (text, end) = whole(&server, &form).await;
        assert!(choices.contains(&text.as_str()), "{form}: {text}");
        assert_eq!(end, "stop");
    }
    let (lark, gbnf) = ("start: /[0-9]{2}/ \"%\"", "root ::= [0-9]{2} \"%\"");
    for form in [
        json!({"guided_regex": "[0-9]{2}%"}),
        json!({"nvext": {"guided_regex": "^[0-9]{2}%$"}}),
        json!({"structured_outputs": {"regex": "\\d\\d%"}}),
        json!({"guided_grammar": lark}),
        json!({"guided_grammar": gbnf}),
        json!({"nvext": {"guided_grammar": lark}}),
        json!({"structured_outputs": {"grammar": gbnf}}),
    ] {
        let (text, _) = whole(&server, &form).await;
        let number = text
            .strip_suffix('%')
            .unwrap_or_else(|| panic!("{form}: {text}"));
        assert!(
            number.len() == 2 && number.parse::<u8>().is_ok(),
            "{form}: {text}"
        );
    }
    for form in [
        json!({"response_format": {"type": "text"}}),
        json!({"response_format": null, "guided_json": null, "structured_outputs": {}}),
    ] {
        let plain = whole(&server, &json!({})).await;
        assert_eq!(whole(&server, &form).await, plain);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_answers_are_each_of_the_form() {
    let server = start().await;
    let mut body = question(&json!({"guided_regex": "[a-z]{3}-[0-9]{3}"}));
    body["n"] = json!(4);
    body["temperature"] = json!(2);
    let answer: Value = server.chat(&body).await.json().await.unwrap();
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4, "{answer}");
    for choice in choices {
        let text = choice["message"]["content"].as_str().unwrap();
        let (letters, digits) = text.split_once('-').unwrap();
        assert!(
            letters.len() == 3 && letters.bytes().all(|b| b.is_ascii_lowercase()),
            "{text}"
        );
        assert!(
            digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_forms_are_refused_in_time_and_harm_nobody() {
    let server = start().await;
    let cross: Vec<Value> = (0..40)
        .map(|i| {
            let option =
                |j| json!({"type": "object", "properties": {format!("p{i}{j}"): {"type": "null"}}});
            json!({"anyOf": [option(0), option(1), option(2)]})
        })
        .collect();
    let deep = (0..50).fold(
        json!({}),
        |inner, _| json!({"items": {"items": {"items": inner}}}),
    );
    let deep = deep.to_string();
    let words: Vec<String> = (0..20_000).map(|i| format!("word {i}")).collect();
    let schema = |schema: Value| json!({"guided_json": schema});
    let cases = [
        (schema(json!({"enum": words})), "131072 bytes"),
        (json!({"guided_choice": words}), "4096 strings"),
        (json!({"guided_json": deep}), "recursion limit"),
        (schema(json!({"allOf": cross})), "too large"),
        (schema(json!({"$ref": "#"})), "no text"),
        (
            schema(json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})),
            "no text",
        ),
        (
            schema(json!({"$ref": "http://169.254.169.254/latest"})),
            "not looked up",
        ),
        (schema(json!({"type": "string", "minLength": 1e9})), "4096"),
        (
            schema(json!({"type": "string", "maxLength": 1_000_000_000})),
            "4096",
        ),
        (
            schema(json!({"type": "array", "minItems": 1_000_000_000})),
            "4096",
        ),
        (
            schema(json!({"type": "string", "pattern": "((a{99}){99}){99}"})),
            "16384",
        ),
        (
            schema(json!({"type": "integer", "multipleOf": 99_999_999})),
            "10000",
        ),
        (schema(json!({"not": {"type": "null"}})), "`not`"),
        (schema(json!({"if": {}, "then": {}})), "`if`"),
        (
            schema(json!({"type": "array", "uniqueItems": true})),
            "`uniqueItems`",
        ),
        (json!({"guided_regex": "(a|b"}), "unclosed"),
        (
            json!({"guided_regex": "((((a{50}){50}){50}){50})"}),
            "16384",
        ),
        (json!({"guided_grammar": "start: a\na: a\n"}), ""),
        (
            json!({"guided_grammar": format!("root ::= {}", "(".repeat(9000))}),
            "nested",
        ),
        (json!({"guided_choice": []}), "at least one"),
        (
            json!({"structured_outputs": {"structural_tag": {}}}),
            "structural_tag",
        ),
        (
            json!({"guided_regex": "a", "nvext": {"guided_json": {}}}),
            "`guided_regex`",
        ),
        (json!({"response_format": {"type": "xml"}}), "json_object"),
        (
            json!({"guided_json": {}, "guided_whitespace_pattern": " *"}),
            "guided_whitespace_pattern",
        ),
    ];
    for (form, words) in cases {
        let start = Instant::now();
        let response = server.chat(&question(&form)).await;
        let time = start.elapsed();
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        let case: String = form.to_string().chars().take(120).collect();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{case}: {answer}");
        assert!(time < Duration::from_secs(2), "{case}: {time:?}");
        let error = &answer["error"];
        assert!(
            error["message"].as_str().unwrap().contains(words),
            "{case}: {answer}"
        );
        assert!(error["param"].is_string(), "{case}: {answer}");
    }
    let (text, _) = whole(&server, &json!({"guided_choice": ["still here"]})).await;
    assert_eq!(text, "still here");
}
