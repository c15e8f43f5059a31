//! Text completions: the model goes on with the alphabet from the prompt's last letter.

use serde_json::{Value, json};

use crate::script::POISON;
use crate::server::{MODEL, Setup, TestServer, error_of, json_of};
use crate::stream::frames;

const ROUTE: &str = "/v1/completions";

fn body(extra: &Value) -> Value {
    let mut body = json!({"model": MODEL, "prompt": "w"});
    let fields = extra.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    body
}

async fn answer(server: &TestServer, extra: &Value) -> Value {
    let response = server.ask(ROUTE, &body(extra)).await;
    let status = response.status();
    let answer = json_of(response).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn refusal(server: &TestServer, extra: &Value) -> (u16, Value) {
    error_of(server.ask(ROUTE, &body(extra)).await).await
}

async fn stream(server: &TestServer, extra: &Value) -> Vec<Value> {
    let mut body = body(extra);
    body["stream"] = json!(true);
    let response = server.ask(ROUTE, &body).await;
    assert_eq!(response.status(), 200);
    frames(response).await
}

fn texts(answer: &Value) -> Vec<&str> {
    let choices = answer["choices"].as_array().unwrap();
    choices
        .iter()
        .map(|c| c["text"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_completion_has_the_shape_and_counts_of_the_contract() {
    let server = TestServer::start().await;
    let answer = answer(&server, &json!({})).await;
    let id = answer["id"].as_str().unwrap();
    assert!(id.starts_with("cmpl-") && id.len() == 37, "{id}");
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["model"], MODEL);
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(
        answer["choices"],
        json!([{"index": 0, "text": "xyz", "logprobs": null, "finish_reason": "stop",
            "stop_reason": null, "prompt_logprobs": null}])
    );
    // Three letters and the token that ends them.
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": 1, "total_tokens": 5, "completion_tokens": 4,
            "prompt_tokens_details": null})
    );
}

#[tokio::test]
async fn an_answer_that_is_not_bounded_has_16_tokens() {
    let server = TestServer::start().await;
    let unbounded = answer(&server, &json!({"prompt": "a"})).await;
    assert_eq!(texts(&unbounded), ["bcdefghijklmnopq"]);
    assert_eq!(unbounded["choices"][0]["finish_reason"], "length");
    let bounded = answer(&server, &json!({"prompt": "a", "max_tokens": 2})).await;
    assert_eq!(texts(&bounded), ["bc"]);
    let stopped = answer(&server, &json!({"prompt": "a", "stop": "e"})).await;
    assert_eq!(texts(&stopped), ["bcd"]);
    assert_eq!(stopped["choices"][0]["stop_reason"], "e");
    let small = TestServer::with(Setup {
        max_model_len: 8,
        ..Setup::default()
    })
    .await;
    let room = answer(&small, &json!({"prompt": "abc"})).await;
    assert_eq!(texts(&room), ["defgh"]);
}

#[tokio::test]
async fn every_prompt_has_its_answers() {
    let server = TestServer::start().await;
    let answers = answer(&server, &json!({"prompt": ["w", [0x78], "ax"], "n": 2})).await;
    assert_eq!(texts(&answers), ["xyz", "xyz", "yz", "yz", "yz", "yz"]);
    let choices = answers["choices"].as_array().unwrap();
    assert!(
        (0..)
            .zip(choices)
            .all(|(index, choice)| choice["index"] == index)
    );
    assert_eq!(answers["usage"]["prompt_tokens"], 4);
    assert_eq!(answers["usage"]["completion_tokens"], 2 * (4 + 3 + 3));
    // All that was asked has been paid back.
    server.idle().await;
    let tokens = answer(&server, &json!({"prompt": [0x61, 0x77]})).await;
    assert_eq!(texts(&tokens), ["xyz"]);
}

#[tokio::test]
async fn control_tokens_in_a_prompt_are_control_tokens() {
    let server = TestServer::start().await;
    // What ends an answer is followed by another alphabet.
    let begun = answer(&server, &json!({"prompt": "w<end>", "max_tokens": 3})).await;
    assert_eq!(texts(&begun), ["abc"]);
    assert_eq!(begun["usage"]["prompt_tokens"], 2);
}

#[tokio::test]
async fn log_probabilities_come_in_the_older_form() {
    let server = TestServer::start().await;
    let told = answer(&server, &json!({"logprobs": 2})).await;
    let logprobs = &told["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["x", "y", "z", "<end>"]));
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2, 3]));
    for (at, token) in ["x", "y", "z", "<end>"].into_iter().enumerate() {
        let top = logprobs["top_logprobs"][at].as_object().unwrap();
        assert_eq!(top.len(), 2);
        assert_eq!(top[token], logprobs["token_logprobs"][at]);
        assert!(top[token].as_f64().unwrap() > -1e-3);
    }
    let chosen = answer(&server, &json!({"logprobs": 0})).await;
    let top = &chosen["choices"][0]["logprobs"]["top_logprobs"];
    assert_eq!(top[0].as_object().unwrap().len(), 1);
    let prompt = answer(
        &server,
        &json!({"prompt": "vw", "prompt_logprobs": 0, "n": 2}),
    )
    .await;
    let first = &prompt["choices"][0]["prompt_logprobs"];
    assert_eq!(first[0], json!(null));
    assert_eq!(first[1]["119"]["decoded_token"], "w");
    assert_eq!(prompt["choices"][1]["prompt_logprobs"], json!(null));
}

#[tokio::test]
async fn a_prompt_comes_back_in_front_of_its_answers() {
    let server = TestServer::start().await;
    let asked = json!({"prompt": ["vw", [0x78]], "n": 2, "echo": true});
    let echoed = answer(&server, &asked).await;
    assert_eq!(texts(&echoed), ["vwxyz", "vwxyz", "xyz", "xyz"]);
    assert_eq!(echoed["choices"][0]["logprobs"], json!(null));
    let mut streamed = vec![String::new(); 4];
    for chunk in stream(&server, &asked).await {
        let choice = &chunk["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        streamed[index].push_str(choice["text"].as_str().unwrap());
    }
    assert_eq!(streamed, texts(&echoed));
    // A stop string is looked for in the answer alone.
    let stopped = answer(&server, &json!({"prompt": "yw", "echo": true, "stop": "y"})).await;
    assert_eq!(texts(&stopped), ["ywx"]);
}

#[tokio::test]
async fn what_is_known_of_the_prompt_comes_with_it() {
    let server = TestServer::start().await;
    let asked = json!({"prompt": "vx", "echo": true, "logprobs": 1});
    let told = answer(&server, &asked).await;
    let logprobs = &told["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["v", "x", "y", "z", "<end>"]));
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2, 3, 4]));
    assert_eq!(logprobs["token_logprobs"][0], json!(null));
    assert_eq!(logprobs["top_logprobs"][0], json!(null));
    // `w` would have been probable, and `x` was not.
    let second = logprobs["top_logprobs"][1].as_object().unwrap();
    assert_eq!(second.keys().collect::<Vec<_>>(), ["w", "x"]);
    assert!(logprobs["token_logprobs"][1].as_f64().unwrap() < -10.0);
    assert!(logprobs["token_logprobs"][2].as_f64().unwrap() > -1e-3);
    assert_eq!(told["choices"][0]["prompt_logprobs"], json!(null));

    let mut lists = [Vec::new(), Vec::new()];
    for chunk in stream(&server, &asked).await {
        for (list, name) in lists.iter_mut().zip(["tokens", "text_offset"]) {
            let more = chunk["choices"][0]["logprobs"][name].as_array();
            list.extend(more.unwrap().clone());
        }
    }
    assert_eq!(
        json!(lists),
        json!([logprobs["tokens"], logprobs["text_offset"]])
    );

    let both = json!({"prompt": "vx", "echo": true, "logprobs": 3, "prompt_logprobs": 0});
    let both = answer(&server, &both).await;
    let scores = both["choices"][0]["prompt_logprobs"][1].as_object();
    assert_eq!(scores.unwrap().len(), 1, "as many as were asked for");
}

#[tokio::test]
async fn a_prompt_may_be_all_that_is_wanted() {
    let server = TestServer::start().await;
    let asked = json!({"prompt": "vw", "echo": true, "logprobs": 0, "max_tokens": 0,
        "return_timings": true});
    let told = answer(&server, &asked).await;
    let choice = &told["choices"][0];
    assert_eq!(
        (&choice["text"], &choice["finish_reason"]),
        (&json!("vw"), &json!("length"))
    );
    assert_eq!(choice["logprobs"]["tokens"], json!(["v", "w"]));
    assert_eq!(told["usage"]["completion_tokens"], 0);
    assert_eq!(told["usage"]["total_tokens"], 2);
    assert!(told["usage"]["timings"]["prefill_ms"].is_number());
    let chunks = stream(&server, &asked).await;
    let texts = chunks
        .iter()
        .map(|chunk| chunk["choices"][0]["text"].as_str());
    assert_eq!(texts.map(Option::unwrap).collect::<String>(), "vw");
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "length"
    );
}

#[tokio::test]
async fn the_best_of_several_are_given() {
    let server = TestServer::start().await;
    let best = answer(&server, &json!({"n": 2, "best_of": 5})).await;
    assert_eq!(texts(&best), ["xyz", "xyz"]);
    assert_eq!(best["choices"][0]["logprobs"], json!(null));
    // All that were drawn are counted.
    assert_eq!(best["usage"]["completion_tokens"], 5 * 4);
}

#[tokio::test]
async fn streams_carry_text_and_one_end_for_each_answer() {
    let server = TestServer::start().await;
    let asked = json!({"prompt": ["w", "x"], "n": 2, "logprobs": 0,
        "stream_options": {"include_usage": true}});
    let mut chunks = stream(&server, &asked).await;
    let usage = chunks.pop().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["prompt_tokens"], 2);
    assert_eq!(usage["usage"]["completion_tokens"], 2 * (4 + 3));
    let id = &chunks[0]["id"];
    for chunk in &chunks {
        assert_eq!(&chunk["id"], id);
        assert_eq!(chunk["object"], "text_completion");
        assert!(chunk.get("usage").is_none());
    }
    let choices = chunks.iter().map(|chunk| &chunk["choices"][0]);
    for (index, expected) in ["xyz", "xyz", "yz", "yz"].into_iter().enumerate() {
        let own: Vec<_> = choices.clone().filter(|c| c["index"] == index).collect();
        let text: String = own.iter().map(|c| c["text"].as_str().unwrap()).collect();
        assert_eq!(text, expected);
        let ends: Vec<_> = own
            .iter()
            .filter(|c| !c["finish_reason"].is_null())
            .collect();
        assert_eq!(ends.len(), 1);
        assert_eq!(ends[0]["finish_reason"], "stop");
        let offsets = own
            .iter()
            .flat_map(|c| c["logprobs"]["text_offset"].as_array().unwrap());
        let offsets: Vec<u64> = offsets.map(|offset| offset.as_u64().unwrap()).collect();
        let expected: Vec<u64> = (0..=expected.len() as u64).collect();
        assert_eq!(offsets, expected);
    }
    let continuous = stream(
        &server,
        &json!({"stream_options": {"include_usage": true, "continuous_usage_stats": true}}),
    )
    .await;
    assert!(
        continuous
            .iter()
            .all(|chunk| chunk["usage"]["prompt_tokens"] == 1)
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_prompt_is_told_by_its_place() {
    let server = TestServer::with(Setup {
        max_model_len: 32,
        ..Setup::default()
    })
    .await;
    let long = "a".repeat(32);
    for (extra, code, param) in [
        (
            json!({"prompt": null}),
            "missing_required_parameter",
            "prompt",
        ),
        (json!({"prompt": ""}), "invalid_value", "prompt"),
        (json!({"prompt": ["a", ""]}), "invalid_value", "prompt[1]"),
        (json!({"prompt": [97, 257]}), "invalid_value", "prompt[1]"),
        (
            json!({"prompt": [[97], [300]]}),
            "invalid_value",
            "prompt[1][0]",
        ),
        (
            json!({ "prompt": long }),
            "context_length_exceeded",
            "prompt",
        ),
        (
            json!({"max_tokens": 32}),
            "context_length_exceeded",
            "max_tokens",
        ),
        (json!({"echo": "w"}), "invalid_type", "echo"),
        (json!({"max_tokens": 0}), "invalid_value", "max_tokens"),
        (
            json!({"echo": true, "logprobs": 0, "n": 2}),
            "conflicting_parameters",
            "n",
        ),
        (json!({"suffix": "z"}), "unsupported_parameter", "suffix"),
        (json!({"temperature": 9}), "invalid_value", "temperature"),
        (
            json!({"stop_token_ids": [400]}),
            "invalid_value",
            "stop_token_ids",
        ),
        (
            json!({"guided_regex": "("}),
            "invalid_grammar",
            "guided_regex",
        ),
    ] {
        let (status, error) = refusal(&server, &extra).await;
        assert_eq!(
            (status, &error["code"]),
            (400, &json!(code)),
            "{extra}: {error}"
        );
        assert_eq!(error["param"], param, "{extra}: {error}");
    }
    let (status, error) = refusal(&server, &json!({"model": "other"})).await;
    assert_eq!((status, &error["param"]), (404, &json!("model")));
    assert_eq!(texts(&answer(&server, &json!({})).await), ["xyz"]);
}

#[tokio::test]
async fn a_prompt_that_fails_fails_its_request() {
    let server = TestServer::start().await;
    let (status, error) = refusal(&server, &json!({"prompt": ["w", POISON]})).await;
    assert_eq!((status, &error["code"]), (500, &json!("internal_error")));
    let chunks = stream(&server, &json!({ "prompt": POISON })).await;
    let last = chunks.last().unwrap();
    assert_eq!(last["error"]["object"], "error");
    server.idle().await;
    assert_eq!(texts(&answer(&server, &json!({})).await), ["xyz"]);
}

#[tokio::test]
async fn an_answer_can_be_held_to_a_form() {
    let server = TestServer::start().await;
    let held = answer(
        &server,
        &json!({"prompt": "b", "guided_choice": ["no", "cat"]}),
    )
    .await;
    assert_eq!(texts(&held), ["cat"]);
}

#[tokio::test]
async fn invocations_are_told_apart_by_their_fields() {
    let server = TestServer::start().await;
    let response = server.ask("/invocations", &body(&json!({}))).await;
    assert!(response.headers().contains_key("x-request-id"));
    assert_eq!(json_of(response).await["object"], "text_completion");
    let chat = json!({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]});
    let response = server.ask("/invocations", &chat).await;
    assert_eq!(json_of(response).await["object"], "chat.completion");
    let neither = server.ask("/invocations", &json!({"model": MODEL})).await;
    assert_eq!(error_of(neither).await.1["param"], "messages");
    let ping = server.ask("/ping", &json!({})).await;
    assert_eq!(ping.status(), 200);
}
