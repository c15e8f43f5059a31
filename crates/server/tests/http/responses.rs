//! OpenAI's Responses dialect.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use vlmd_server::{ApiKeys, ResponseMemory, ServerConfig};
use vlmd_text::ToolFamily;

use crate::messages::events_of;
use crate::script::Role;
use crate::server::{MODEL, Setup, TestServer, error_of, json_of};

async fn post(server: &TestServer, extra: &Value) -> Response {
    post_as(server, "none", extra).await
}

async fn post_as(server: &TestServer, key: &str, extra: &Value) -> Response {
    let mut body = json!({"model": MODEL, "input": "hi", "max_output_tokens": 12});
    let fields = body.as_object_mut().unwrap();
    fields.extend(extra.as_object().unwrap().clone());
    let request = server.client.post(format!("{}/v1/responses", server.base));
    request
        .bearer_auth(key)
        .header("content-type", "application/json")
        .body(body.to_string())
        .send()
        .await
        .unwrap()
}

async fn create(server: &TestServer, extra: &Value) -> Value {
    let response = post(server, extra).await;
    let status = response.status();
    let body = json_of(response).await;
    assert_eq!(status, 200, "{body}");
    body
}

async fn ask(server: &TestServer, method: Method, id: &Value, then: &str, key: &str) -> Response {
    let id = id.as_str().unwrap();
    let url = format!("{}/v1/responses/{id}{then}", server.base);
    let request = server.client.request(method, url).bearer_auth(key);
    request.send().await.unwrap()
}

async fn get(server: &TestServer, id: &Value) -> (u16, Value) {
    let response = ask(server, Method::GET, id, "", "none").await;
    (response.status().as_u16(), json_of(response).await)
}

fn text_of(response: &Value) -> &str {
    response["output"][0]["content"][0]["text"]
        .as_str()
        .unwrap()
}

/// Never ends by itself.
fn endless() -> Value {
    json!({"background": true, "max_output_tokens": 4000})
}

async fn slow(memory: ResponseMemory) -> TestServer {
    TestServer::with(Setup {
        config: ServerConfig {
            responses: memory,
            ..ServerConfig::default()
        },
        pace: Duration::from_millis(5),
        ..Setup::default()
    })
    .await
}

#[tokio::test]
async fn a_response_has_openais_shape_and_chats_words() {
    let server = TestServer::start().await;
    let chat = server.answer(&json!({"max_tokens": 12})).await;
    let extra = json!({"instructions": null, "metadata": {"a": "b"}});
    let response = create(&server, &extra).await;
    assert!(response["id"].as_str().unwrap().starts_with("resp_"));
    assert_eq!(response["object"], "response");
    assert_eq!(response["status"], "incomplete");
    assert_eq!(
        response["incomplete_details"]["reason"],
        "max_output_tokens"
    );
    assert_eq!(response["metadata"], json!({"a": "b"}));
    assert_eq!(text_of(&response), chat["choices"][0]["message"]["content"]);
    assert_eq!(
        response["usage"]["input_tokens"],
        chat["usage"]["prompt_tokens"]
    );
    assert_eq!(response["usage"]["output_tokens"], 12);
    for (name, value) in [
        ("error", json!(null)),
        ("tools", json!([])),
        ("tool_choice", json!("auto")),
        ("parallel_tool_calls", json!(true)),
        (
            "text",
            json!({"format": {"type": "text"}, "verbosity": "medium"}),
        ),
        ("truncation", json!("disabled")),
        ("background", json!(false)),
        ("store", json!(true)),
    ] {
        assert_eq!(response[name], value, "{name}");
    }
    assert_eq!(get(&server, &response["id"]).await, (200, response));
}

#[tokio::test]
async fn a_stream_tells_what_the_whole_response_says() {
    let server = TestServer::start().await;
    let include = json!(["message.output_text.logprobs"]);
    let extra = json!({"include": include, "top_logprobs": 1});
    let whole = create(&server, &extra).await;
    let mut streamed = extra.clone();
    streamed["stream"] = json!(true);
    let events = events_of(post(&server, &streamed).await).await;
    for (number, (_, data)) in events.iter().enumerate() {
        assert_eq!(data["sequence_number"], number);
    }
    let joined: String = events
        .iter()
        .filter(|(name, _)| name == "response.output_text.delta")
        .map(|(_, data)| data["delta"].as_str().unwrap())
        .collect();
    assert_eq!(joined, text_of(&whole));
    let (name, last) = events.last().unwrap();
    assert_eq!(name, "response.incomplete");
    let last = &last["response"];
    let logprobs = |response: &Value| response["output"][0]["content"][0]["logprobs"].clone();
    assert_eq!(logprobs(last), logprobs(&whole));
    assert_eq!(logprobs(last).as_array().unwrap().len(), 12);
    assert_eq!(last["usage"], whole["usage"]);
    assert_eq!(
        get(&server, &last["id"]).await,
        (200, last.clone()),
        "kept as well"
    );
}

#[tokio::test]
async fn calls_are_items_and_a_conversation_goes_on_from_them() {
    let says = "<tool_call>{\"name\": \"look\", \"arguments\": {\"at\": 1}}</tool_call>";
    let server = TestServer::with(Setup {
        role: Some(Role::new(Some(ToolFamily::Hermes), says)),
        ..Setup::default()
    })
    .await;
    let tools = json!([{"type": "function", "name": "look", "parameters": {"type": "object"}}]);
    let extra = json!({"tools": tools, "max_output_tokens": 200});
    let response = create(&server, &extra).await;
    assert_eq!(response["status"], "completed");
    let [call] = response["output"].as_array().unwrap().as_slice() else {
        panic!("{response}");
    };
    assert_eq!(call["type"], "function_call");
    assert_eq!(call["arguments"], "{\"at\": 1}");
    let result =
        json!([{"type": "function_call_output", "call_id": call["call_id"], "output": "a"}]);
    let next = json!({"previous_response_id": response["id"], "input": result, "tools": tools});
    let next = create(&server, &next).await;
    assert_eq!(next["previous_response_id"], response["id"]);

    // The same said in one request.
    let talk = json!([{"role": "user", "content": "hi"}, call, result[0]]);
    let at_once = create(&server, &json!({"input": talk, "tools": tools})).await;
    assert_eq!(
        next["usage"]["input_tokens"],
        at_once["usage"]["input_tokens"]
    );

    let mut streamed = extra;
    streamed["stream"] = json!(true);
    let events = events_of(post(&server, &streamed).await).await;
    let done = events
        .iter()
        .find(|(name, _)| name == "response.function_call_arguments.done");
    assert_eq!(done.unwrap().1["arguments"], "{\"at\": 1}");
}

#[tokio::test]
async fn responses_are_their_keys_alone() {
    let server = TestServer::with(Setup {
        config: ServerConfig {
            api_keys: ApiKeys::new(["one", "two"]),
            ..ServerConfig::default()
        },
        ..Setup::default()
    })
    .await;
    let response = json_of(post_as(&server, "one", &json!({})).await).await;
    let id = &response["id"];
    for (method, then) in [
        (Method::GET, ""),
        (Method::DELETE, ""),
        (Method::POST, "/cancel"),
    ] {
        let refused = ask(&server, method, id, then, "two").await;
        let (status, error) = error_of(refused).await;
        assert_eq!(
            (status, &error["code"]),
            (404, &json!("response_not_found"))
        );
    }
    let next = json!({ "previous_response_id": id });
    let (status, error) = error_of(post_as(&server, "two", &next).await).await;
    assert_eq!(
        (status, &error["param"]),
        (400, &json!("previous_response_id"))
    );
    assert_eq!(error["code"], "previous_response_not_found");
    assert_eq!(post_as(&server, "one", &next).await.status(), 200);

    let gone = json_of(ask(&server, Method::DELETE, id, "", "one").await).await;
    assert_eq!(
        gone,
        json!({"id": id, "object": "response", "deleted": true})
    );
    assert_eq!(ask(&server, Method::GET, id, "", "one").await.status(), 404);
}

#[tokio::test]
async fn what_runs_in_the_background_ends_by_itself_or_by_word() {
    let server = slow(ResponseMemory::default()).await;
    let begun = create(&server, &json!({"background": true})).await;
    assert_eq!(begun["status"], "in_progress");
    let next = json!({"previous_response_id": begun["id"]});
    let ended = loop {
        let (status, now) = get(&server, &begun["id"]).await;
        assert_eq!(status, 200);
        if now["status"] != "in_progress" {
            break now;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(ended["status"], "incomplete");
    assert_eq!(ended["usage"]["output_tokens"], 12);
    assert_eq!(post(&server, &next).await.status(), 200);

    let begun = create(&server, &endless()).await;
    server.busy(1).await;
    let next = json!({"previous_response_id": begun["id"]});
    let (status, error) = error_of(post(&server, &next).await).await;
    assert_eq!(
        (status, &error["code"]),
        (400, &json!("previous_response_unfinished"))
    );
    let cancelled = ask(&server, Method::POST, &begun["id"], "/cancel", "none").await;
    assert_eq!(json_of(cancelled).await["status"], "cancelled");
    server.idle().await;
    assert_eq!(get(&server, &begun["id"]).await.1["status"], "cancelled");

    let begun = create(&server, &endless()).await;
    server.busy(1).await;
    ask(&server, Method::DELETE, &begun["id"], "", "none").await;
    server.idle().await;
    assert_eq!(get(&server, &begun["id"]).await.0, 404);

    let waited_for = create(&server, &json!({})).await;
    let refused = ask(&server, Method::POST, &waited_for["id"], "/cancel", "none").await;
    let (status, error) = error_of(refused).await;
    assert_eq!(
        (status, &error["code"]),
        (400, &json!("response_not_in_background"))
    );
}

#[tokio::test]
async fn a_server_that_keeps_nothing_says_so() {
    let memory = ResponseMemory {
        bytes: 0,
        ..ResponseMemory::default()
    };
    let server = slow(memory).await;
    let response = create(&server, &json!({})).await;
    assert_eq!(response["store"], false);
    assert_eq!(get(&server, &response["id"]).await.0, 404);
    let (status, error) = error_of(post(&server, &endless()).await).await;
    assert_eq!((status, &error["param"]), (400, &json!("background")));
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("--responses-store")
    );
    server.idle().await;
}

#[tokio::test]
async fn inputs_are_listed_page_by_page() {
    let server = TestServer::start().await;
    let input = json!([{"role": "developer", "content": "d"},
        {"role": "user", "content": [{"type": "input_text", "text": "what?"}]}]);
    let first = create(&server, &json!({ "input": input })).await;
    let next = json!({"previous_response_id": first["id"], "input": "and now?"});
    let next = create(&server, &next).await;
    let list = async |id: &Value, query: &str| {
        let then = format!("/input_items{query}");
        let response = ask(&server, Method::GET, id, &then, "none").await;
        (response.status().as_u16(), json_of(response).await)
    };
    let (status, own) = list(&first["id"], "?order=asc").await;
    assert_eq!((status, &own["object"]), (200, &json!("list")));
    let texts = |list: &Value| -> Vec<String> {
        let items = list["data"].as_array().unwrap().iter();
        let text = |item: &Value| item["content"][0]["text"].as_str().unwrap().to_owned();
        items.map(text).collect()
    };
    assert_eq!(texts(&own), ["d", "what?"]);
    assert_eq!(own["has_more"], false);
    assert_eq!(own["first_id"], own["data"][0]["id"]);

    let (_, page) = list(&next["id"], "?limit=2").await;
    assert_eq!(texts(&page), ["and now?", text_of(&first)]);
    assert_eq!(page["has_more"], true);
    let last = page["last_id"].as_str().unwrap();
    assert_eq!(last, first["output"][0]["id"], "an answer keeps its id");
    let (_, rest) = list(&next["id"], &format!("?limit=2&after={last}")).await;
    assert_eq!(texts(&rest), ["what?", "d"]);
    assert_eq!(rest["has_more"], false);

    for (query, param) in [
        ("?limit=0", "limit"),
        ("?limit=x", "limit"),
        ("?order=up", "order"),
        ("?after=msg_0", "after"),
    ] {
        let (status, body) = list(&next["id"], query).await;
        assert_eq!(
            (status, &body["error"]["param"]),
            (400, &json!(param)),
            "{query}"
        );
    }
    assert_eq!(list(&json!("resp_0"), "").await.0, 404);
}

#[tokio::test]
async fn items_of_kept_responses_are_named_by_their_ids() {
    let server = TestServer::with(Setup {
        config: ServerConfig {
            api_keys: ApiKeys::new(["one", "two"]),
            ..ServerConfig::default()
        },
        ..Setup::default()
    })
    .await;
    let first = json_of(post_as(&server, "one", &json!({"input": "hi"})).await).await;
    let answer = &first["output"][0];
    let written = json!([{"role": "user", "content": "hi"}, answer,
        {"role": "user", "content": "and?"}]);
    let written = json_of(post_as(&server, "one", &json!({ "input": written })).await).await;
    let named = json!({"input": [{"role": "user", "content": "hi"},
        {"type": "item_reference", "id": answer["id"]}, {"role": "user", "content": "and?"}]});
    let by_name = json_of(post_as(&server, "one", &named).await).await;
    let tokens = |response: &Value| response["usage"]["input_tokens"].clone();
    assert!(tokens(&by_name).is_u64(), "{by_name}");
    assert_eq!(tokens(&by_name), tokens(&written));
    let (status, error) = error_of(post_as(&server, "two", &named).await).await;
    assert_eq!((status, &error["param"]), (400, &json!("input[1].id")));

    // What stands there now does not go with what it was taken from.
    ask(&server, Method::DELETE, &first["id"], "", "one").await;
    ask(&server, Method::DELETE, &written["id"], "", "one").await;
    let then = json!({"previous_response_id": by_name["id"], "input": "and?"});
    assert_eq!(post_as(&server, "one", &then).await.status(), 200);
}

#[tokio::test]
async fn what_is_too_long_may_lose_its_beginning() {
    let server = TestServer::with(Setup {
        max_model_len: 64,
        ..Setup::default()
    })
    .await;
    let long = "x".repeat(30);
    let talk = json!([{"role": "user", "content": long}, {"role": "assistant", "content": "yes"},
        {"role": "user", "content": long}, {"role": "assistant", "content": "no"},
        {"role": "user", "content": "and?"}]);
    let extra = json!({"input": talk, "instructions": "i", "truncation": "auto"});
    let response = create(&server, &extra).await;
    assert_eq!(response["truncation"], "auto");
    // `i`, the second long one, `no` and the question, and what stands before an answer.
    assert_eq!(response["usage"]["input_tokens"], 1 + 30 + 2 + 4 + 1);
    let mut streamed = extra.clone();
    streamed["stream"] = json!(true);
    let events = events_of(post(&server, &streamed).await).await;
    assert_eq!(
        events.last().unwrap().1["response"]["usage"],
        response["usage"]
    );

    let mut refused = extra.clone();
    refused["truncation"] = json!("disabled");
    let (status, error) = error_of(post(&server, &refused).await).await;
    assert_eq!(
        (status, &error["code"]),
        (400, &json!("context_length_exceeded"))
    );
    let alone = json!({"input": "x".repeat(80), "truncation": "auto"});
    let (status, error) = error_of(post(&server, &alone).await).await;
    assert_eq!((status, &error["param"]), (400, &json!("input")));
    server.idle().await;
}

#[tokio::test]
async fn what_is_too_large_to_be_kept_says_so() {
    let memory = ResponseMemory {
        bytes: 4000,
        ..ResponseMemory::default()
    };
    let terse = slow(memory).await;
    let small = create(&terse, &json!({})).await;
    assert_eq!(small["store"], true);
    let verbose = TestServer::with(Setup {
        config: ServerConfig {
            responses: memory,
            ..ServerConfig::default()
        },
        role: Some(Role::new(None, &"x".repeat(2500))),
        ..Setup::default()
    })
    .await;
    // At its beginning already, or with its answer.
    for (server, extra) in [
        (terse, json!({"input": "x".repeat(3000)})),
        (verbose, json!({"max_output_tokens": 3000})),
    ] {
        let large = create(&server, &extra).await;
        assert_eq!(large["store"], false, "{extra}");
        assert_eq!(get(&server, &large["id"]).await.0, 404);
        let mut streamed = extra.clone();
        streamed["stream"] = json!(true);
        let events = events_of(post(&server, &streamed).await).await;
        assert_eq!(
            events.last().unwrap().1["response"]["store"],
            false,
            "{extra}"
        );
    }
}

#[tokio::test]
async fn faults_name_fields_of_this_dialect() {
    let server = TestServer::start().await;
    let picture = json!([{"role": "user", "content": [
        {"type": "input_text", "text": "what?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}]);
    let many = json!([{"role": "user", "content": vec![picture[0]["content"][1].clone(); 6]}]);
    for (extra, param) in [
        (json!({ "input": picture }), "input[0].content[1].image_url"),
        (json!({ "input": many }), "input"),
        (json!({"input": "x".repeat(5000)}), "input"),
        (json!({"max_output_tokens": 5000}), "max_output_tokens"),
        (
            json!({"text": {"format": {"type": "json_schema", "name": "n",
            "schema": {"type": "x"}}}}),
            "text.format.schema",
        ),
    ] {
        let (status, error) = error_of(post(&server, &extra).await).await;
        assert_eq!((status, &error["param"]), (400, &json!(param)), "{error}");
    }
    let response = create(&server, &json!({})).await;
    let streamed = ask(
        &server,
        Method::GET,
        &response["id"],
        "?stream=true",
        "none",
    )
    .await;
    assert_eq!(error_of(streamed).await.1["param"], "stream");
    let body = json!({"model": MODEL, "input": "hi"});
    let url = format!("{}/v1/responses/input_tokens", server.base);
    let counted = server
        .client
        .post(url)
        .header("content-type", "application/json")
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    let expected = &response["usage"]["input_tokens"];
    assert_eq!(&json_of(counted).await["input_tokens"], expected);
}
