//! Calls of tools, whole and streamed.

use serde_json::{Value, json};
use vlmd_models::Part;
use vlmd_text::ToolFamily;

use crate::script::Role;
use crate::server::{Setup, TestServer};
use crate::stream::stream;

const CALL: &str =
    "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": \"größe\"}}\n</tool_call>";

async fn server(family: ToolFamily, says: &str) -> TestServer {
    with_role(Role::new(Some(family), says)).await
}

async fn with_role(role: Role) -> TestServer {
    TestServer::with(Setup {
        role: Some(role),
        ..Setup::default()
    })
    .await
}

fn tools() -> Value {
    let tool = |name: &str| {
        json!({"type": "function", "function": {"name": name, "description": "d",
            "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}})
    };
    json!([tool("look"), tool("say")])
}

/// Name and arguments of each call of a choice's message.
fn calls(choice: &Value) -> Vec<(String, String)> {
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    let field = |call: &Value, name: &str| call["function"][name].as_str().unwrap().to_owned();
    calls
        .iter()
        .map(|call| (field(call, "name"), field(call, "arguments")))
        .collect()
}

/// The choices of a stream as those of a whole answer.
fn joined(frames: &[Value], count: usize) -> Vec<Value> {
    let mut choices = vec![json!({"message": {"content": "", "tool_calls": []}}); count];
    let parts = frames.iter();
    for part in parts.flat_map(|frame| frame["choices"].as_array().unwrap()) {
        let choice = &mut choices[part["index"].as_u64().unwrap() as usize];
        let delta = &part["delta"];
        if let Some(more) = delta["content"].as_str() {
            let text = choice["message"]["content"].as_str().unwrap().to_owned() + more;
            choice["message"]["content"] = text.into();
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let known = choice["message"]["tool_calls"].as_array_mut().unwrap();
            let index = call["index"].as_u64().unwrap() as usize;
            if index == known.len() {
                assert_eq!(call["type"], "function");
                assert!(call["id"].is_string() && call["function"]["name"].is_string());
                known.push(json!({"function": {"name": call["function"]["name"],
                    "arguments": ""}}));
            } else {
                assert!(call.get("id").is_none() && call["function"].get("name").is_none());
            }
            let more = call["function"]["arguments"].as_str().unwrap();
            let known = &mut known[index]["function"]["arguments"];
            *known = (known.as_str().unwrap().to_owned() + more).into();
        }
        if !part["finish_reason"].is_null() {
            choice["finish_reason"] = part["finish_reason"].clone();
        }
    }
    choices
}

#[tokio::test]
async fn an_answer_that_only_calls_has_no_content() {
    let server = server(ToolFamily::Hermes, CALL).await;
    let answer = server.answer(&json!({"tools": tools()})).await;
    let choice = &answer["choices"][0];
    let call = &choice["message"]["tool_calls"][0];
    let id = call["id"].as_str().unwrap();
    assert!(id.starts_with("chatcmpl-tool-"), "{id}");
    assert_eq!(
        choice["message"],
        json!({"role": "assistant", "reasoning_content": null, "content": null,
            "tool_calls": [{"id": id, "type": "function",
                "function": {"name": "look", "arguments": "{\"at\": \"größe\"}"}}]})
    );
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["stop_reason"], json!(null));
    assert_eq!(answer["usage"]["completion_tokens"], CALL.len() + 1);
    // To those who watch the engine, it stopped.
    let metrics = server.get("/v1/metrics").send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(!metrics.contains("tool_calls"), "{metrics}");
}

#[tokio::test]
async fn an_answer_without_a_call_is_as_without_tools() {
    let server = server(ToolFamily::Hermes, "It is 5 < 6. ").await;
    let with = server.answer(&json!({"tools": tools()})).await;
    let without = server.answer(&json!({})).await;
    assert_eq!(with["choices"], without["choices"]);
    assert_eq!(with["choices"][0]["finish_reason"], "stop");
    assert_eq!(with["choices"][0]["message"]["tool_calls"], json!([]));
}

#[tokio::test]
async fn streamed_calls_are_the_whole_ones_piece_by_piece() {
    let twice = format!("I look. {CALL}{CALL}");
    for (family, says, calls) in [
        (ToolFamily::Hermes, CALL, 1),
        (ToolFamily::Hermes, &twice, 2),
        (
            ToolFamily::Hermes,
            "<tool_call>{\"name\": \"fly\"}</tool_call>",
            0,
        ),
        (ToolFamily::Hermes, "Well. <tool", 0),
        (
            ToolFamily::Llama3Json,
            "{\"name\": \"say\", \"parameters\": {\"at\": \"here\"}}; {\"name\": \"look\", \
             \"parameters\": {}}",
            2,
        ),
        (
            ToolFamily::Mistral,
            "[TOOL_CALLS][{\"name\": \"say\", \"arguments\": {}}]",
            1,
        ),
    ] {
        let server = server(family, says).await;
        let request = json!({"tools": tools(), "n": 2});
        let answer = server.answer(&request).await;
        let frames = stream(&server, &request).await;
        for (whole, streamed) in answer["choices"]
            .as_array()
            .unwrap()
            .iter()
            .zip(joined(&frames, 2))
        {
            assert_eq!(self::calls(whole), self::calls(&streamed), "{says}");
            assert_eq!(self::calls(whole).len(), calls, "{says}");
            let content = whole["message"]["content"].as_str().unwrap_or_default();
            assert_eq!(streamed["message"]["content"], content);
            assert_eq!(whole["finish_reason"], streamed["finish_reason"]);
        }
        // Arguments come as they are written.
        let chunks = frames.iter().filter(|frame| {
            frame["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].is_string()
        });
        assert!(calls == 0 || chunks.count() >= 2 * calls);
    }
}

#[tokio::test]
async fn a_mark_that_is_a_special_token_is_seen_and_others_are_left_out() {
    let server = server(
        ToolFamily::Mistral,
        "So: [TOOL_CALLS] [{\"name\": \"look\", \"arguments\": {\"at\": \"é\"}}]",
    )
    .await;
    let answer = server.answer(&json!({"tools": tools()})).await;
    let choice = &answer["choices"][0];
    assert_eq!(
        calls(choice),
        [("look".to_owned(), "{\"at\": \"é\"}".to_owned())]
    );
    assert_eq!(choice["message"]["content"], "So:");
    let id = choice["message"]["tool_calls"][0]["id"].as_str().unwrap();
    assert!(
        id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{id}"
    );
    // Without tools it is a special token like others.
    let answer = server.answer(&json!({})).await;
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.starts_with("So:  [{"), "{text}");
}

#[tokio::test]
async fn functions_that_are_not_offered_are_not_called() {
    let says = "<tool_call>{\"name\": \"fly\", \"arguments\": {}}</tool_call>";
    let unknown = server(ToolFamily::Hermes, says).await;
    let answer = unknown.answer(&json!({"tools": tools()})).await;
    assert_eq!(answer["choices"][0]["message"]["content"], says);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");

    // Where none may be called, a call is text, and the model does not hear of any.
    let role = Role::new(Some(ToolFamily::Hermes), CALL);
    let heard = role.heard.clone();
    let server = with_role(role).await;
    let answer = server
        .answer(&json!({"tools": tools(), "tool_choice": "none"}))
        .await;
    assert_eq!(answer["choices"][0]["message"]["content"], CALL);
    assert!(heard.lock().unwrap()[0].tools.is_empty());
}

#[tokio::test]
async fn one_call_at_a_time_where_the_request_says_so() {
    let server = server(ToolFamily::Hermes, &format!("{CALL}\n{CALL}\nDone.")).await;
    let count = async |parallel: Value| {
        let request = json!({"tools": tools(), "parallel_tool_calls": parallel});
        let answer = server.answer(&request).await;
        let streamed = joined(&stream(&server, &request).await, 1);
        assert_eq!(calls(&streamed[0]), calls(&answer["choices"][0]));
        assert_eq!(answer["choices"][0]["message"]["content"], "\nDone.");
        calls(&answer["choices"][0]).len()
    };
    assert_eq!(count(json!(null)).await, 2);
    assert_eq!(count(json!(true)).await, 2);
    assert_eq!(count(json!(false)).await, 1);
}

#[tokio::test]
async fn a_call_that_is_cut_short_ends_for_its_length() {
    let server = server(ToolFamily::Hermes, CALL).await;
    let begin = CALL.find("{\"at").unwrap();
    let request = json!({"tools": tools(), "max_tokens": begin + 5});
    let answer = server.answer(&request).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(
        calls(choice),
        [("look".to_owned(), CALL[begin..begin + 5].to_owned())]
    );
}

#[tokio::test]
async fn usage_and_log_probabilities_are_those_of_the_tokens() {
    let server = server(ToolFamily::Hermes, CALL).await;
    let request = json!({"tools": tools(), "logprobs": true,
        "stream_options": {"include_usage": true}});
    let frames = stream(&server, &request).await;
    let tokens: usize = frames
        .iter()
        .filter_map(|frame| frame["choices"][0]["logprobs"]["content"].as_array())
        .map(Vec::len)
        .sum();
    let usage = &frames.last().unwrap()["usage"];
    assert_eq!(usage["completion_tokens"], CALL.len() + 1);
    assert_eq!(tokens, CALL.len() + 1);
}

#[tokio::test]
async fn a_call_and_its_result_come_back_to_the_model() {
    let role = Role::new(Some(ToolFamily::Hermes), "A cat.");
    let heard = role.heard.clone();
    let server = with_role(role).await;
    let messages = json!([
        {"role": "user", "content": "What is there?"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function",
            "function": {"name": "look", "arguments": "{\"at\": \"the bed\"}"}}]},
        {"role": "tool", "tool_call_id": "c1", "name": "look", "content": "a cat"},
    ]);
    let answer = server
        .answer(&json!({"messages": messages, "tools": tools()}))
        .await;
    assert_eq!(answer["choices"][0]["message"]["content"], "A cat.");
    let heard = heard.lock().unwrap();
    assert_eq!(heard[0].tools, *tools().as_array().unwrap());
    let [_, calling, result] = heard[0].messages.as_slice() else {
        panic!("{heard:?}");
    };
    let call = &calling.tool_calls[0];
    assert_eq!(
        (call.id.as_deref(), call.name.as_str()),
        (Some("c1"), "look")
    );
    assert_eq!(call.arguments["at"], "the bed");
    assert_eq!(result.tool_call_id.as_deref(), Some("c1"));
    assert_eq!(result.name.as_deref(), Some("look"));
    assert_eq!(result.parts, [Part::Text("a cat".into())]);
}

#[tokio::test]
async fn models_without_tools_refuse_them_by_name() {
    let server = TestServer::start().await;
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let talk = json!([{"role": "user", "content": "x"},
        {"role": "assistant", "content": null, "tool_calls": [call]}]);
    for (request, param) in [
        (json!({"tools": tools()}), "tools"),
        (json!({"messages": talk}), "messages[1].tool_calls"),
    ] {
        let (status, error) = server.refusal(&request).await;
        assert_eq!((status, &error["param"]), (400, &json!(param)), "{error}");
        assert_eq!(error["code"], "unsupported_parameter");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains("chat template carries no tools"),
            "{message}"
        );
    }
    // Tools that cannot be called change nothing.
    for harmless in [
        json!({"tools": tools(), "tool_choice": "none"}),
        json!({"tools": [], "tool_choice": "auto"}),
    ] {
        server.answer(&harmless).await;
    }
}

/// Schemas that leave a model no choice but the one.
fn narrow_tools() -> Value {
    let tool = |name: &str, value: &str| {
        json!({"type": "function", "function": {"name": name, "parameters": {"type": "object",
            "properties": {"at": {"enum": [value]}}, "required": ["at"],
            "additionalProperties": false}}})
    };
    json!([tool("look", "ü{"), tool("say", "hi")])
}

#[tokio::test]
async fn an_answer_that_must_call_calls_whatever_the_model_would_say() {
    for family in [
        ToolFamily::Hermes,
        ToolFamily::Llama3Json,
        ToolFamily::Mistral,
    ] {
        let server = server(family, "I would rather not.").await;
        let say = json!({"type": "function", "function": {"name": "say"}});
        for choice in [json!("required"), say.clone()] {
            let request = json!({"tools": narrow_tools(), "tool_choice": choice, "seed": 1});
            let answer = server.answer(&request).await;
            let whole = &answer["choices"][0];
            assert_eq!(
                whole["message"]["content"],
                json!(null),
                "{family:?}: {answer}"
            );
            assert_eq!(whole["finish_reason"], "tool_calls");
            let made = calls(whole);
            assert!(!made.is_empty(), "{answer}");
            for (name, arguments) in &made {
                let expected = if name == "say" { "hi" } else { "ü{" };
                let arguments: Value = serde_json::from_str(arguments).unwrap();
                assert_eq!(arguments, json!({"at": expected}));
                assert!(choice != say || name == "say");
            }
            let streamed = joined(&stream(&server, &request).await, 1);
            assert_eq!(calls(&streamed[0]), made);
            assert_eq!(streamed[0]["finish_reason"], "tool_calls");
        }
    }
}

#[tokio::test]
async fn a_model_that_may_call_or_answer_in_a_form_does_either() {
    let document = r#"{"mood": "fine"}"#;
    let form = json!({"type": "json_schema", "json_schema": {"name": "m", "schema": {
        "type": "object", "properties": {"mood": {"type": "string"}}, "required": ["mood"],
        "additionalProperties": false}}});
    let request = json!({"tools": tools(), "response_format": form});
    let answering = server(ToolFamily::Hermes, document).await;
    let answer = answering.answer(&request).await;
    assert_eq!(answer["choices"][0]["message"]["content"], document);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let calling = server(ToolFamily::Hermes, CALL).await;
    let answer = calling.answer(&request).await;
    assert_eq!(calls(&answer["choices"][0])[0].0, "look");
}

#[tokio::test]
async fn schemas_that_cannot_be_enforced_are_refused_where_they_would_have_to_be() {
    let server = server(ToolFamily::Hermes, "Well.").await;
    let tools = json!([{"type": "function", "function": {"name": "f",
        "parameters": {"type": "object", "not": {}}}}]);
    let (status, error) = server
        .refusal(&json!({"tools": tools, "tool_choice": "required"}))
        .await;
    assert_eq!((status, &error["param"]), (400, &json!("tools")), "{error}");
    assert!(
        error["message"].as_str().unwrap().contains("`not`"),
        "{error}"
    );
    // Where the model decides, it sees the schema, and that is all.
    server.answer(&json!({"tools": tools})).await;
}
