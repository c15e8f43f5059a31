//! Where prompts end: before an answer, or in the middle of the last message.

use serde_json::{Value, json};
use vlmd_text::ToolFamily;

use crate::script::Role;
use crate::server::{MODEL, Setup, TestServer, chat_body, error_of, json_of};
use crate::stream::frames;

/// A conversation that ends with the beginning of an answer.
fn begun(extra: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "hi"},
        {"role": "assistant", "content": "uvw"}]});
    let fields = body.as_object_mut().unwrap();
    fields.extend(extra.as_object().unwrap().clone());
    body
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[tokio::test]
async fn an_answer_goes_on_from_its_beginning() {
    let server = TestServer::start().await;
    for more in [json!({}), json!({"add_generation_prompt": false})] {
        let mut asked = begun(&more);
        asked["continue_final_message"] = json!(true);
        let answer = server.answer(&asked).await;
        assert_eq!(content(&answer), "xyz");
        // No token stands between the two.
        assert_eq!(answer["usage"]["prompt_tokens"], 5);
    }
    let fresh = server.answer(&begun(&json!({}))).await;
    assert!(content(&fresh).starts_with("abc"));
    assert_eq!(fresh["usage"]["prompt_tokens"], 6);
}

#[tokio::test]
async fn the_beginning_is_repeated_if_it_is_to_be() {
    let server = TestServer::start().await;
    let asked = begun(&json!({"continue_final_message": true, "echo": true, "n": 2}));
    let answer = server.answer(&asked).await;
    assert_eq!(content(&answer), "uvwxyz");
    let mut streamed = asked.clone();
    streamed["stream"] = json!(true);
    let chunks = frames(server.chat(&streamed).await).await;
    for index in [0, 1] {
        let own = chunks.iter().map(|chunk| &chunk["choices"][0]);
        let own = own.filter(|choice| choice["index"] == index);
        let texts = own.filter_map(|choice| choice["delta"]["content"].as_str());
        assert_eq!(texts.collect::<String>(), "uvwxyz");
    }
    // What the user said last is not the answer's beginning.
    let asked = json!({"echo": true, "max_tokens": 2});
    assert_eq!(content(&server.answer(&asked).await), "ab");
}

#[tokio::test]
async fn a_prompt_need_not_lead_to_an_answer() {
    let server = TestServer::start().await;
    for (extra, tokens) in [
        (json!({}), json!([104, 105, 0x60])),
        (
            json!({"add_generation_prompt": true}),
            json!([104, 105, 0x60]),
        ),
        (json!({"add_generation_prompt": false}), json!([104, 105])),
        (json!({"continue_final_message": true}), json!([104, 105])),
    ] {
        let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
        let fields = body.as_object_mut().unwrap();
        fields.extend(extra.as_object().unwrap().clone());
        let response = server.ask("/tokenize", &body).await;
        assert_eq!(json_of(response).await["tokens"], tokens, "{extra}");
        let rendered = server
            .ask("/v1/chat/completions/render", &chat_body(&body))
            .await;
        assert_eq!(json_of(rendered).await["token_ids"], tokens, "{extra}");
    }
    let answer = server
        .answer(&json!({"messages": [{"role": "user", "content": "w"}],
            "add_generation_prompt": false}))
        .await;
    assert_eq!(content(&answer), "xyz");
}

#[tokio::test]
async fn prompts_that_cannot_end_so_are_refused() {
    let server = TestServer::start().await;
    let picture = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}});
    for extra in [
        json!({"add_generation_prompt": true, "continue_final_message": true}),
        json!({"continue_final_message": true,
            "messages": [{"role": "user", "content": [picture]}]}),
        json!({"continue_final_message": true, "messages": [{"role": "assistant",
            "tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]}]}),
    ] {
        let (status, error) = server.refusal(&extra).await;
        assert_eq!(
            (status, &error["code"]),
            (400, &json!("conflicting_parameters")),
            "{error}"
        );
        assert_eq!(error["param"], "continue_final_message");
    }
    let without_turns = TestServer::with(Setup {
        points: true,
        ..Setup::default()
    })
    .await;
    let extra = json!({"add_generation_prompt": false});
    let (status, error) = without_turns.refusal(&extra).await;
    assert_eq!(
        (status, &error["code"]),
        (400, &json!("unsupported_parameter"))
    );
    assert_eq!(error["param"], "add_generation_prompt");
}

#[tokio::test]
async fn anthropics_prefill_is_the_same() {
    let server = TestServer::start().await;
    let body = json!({"model": MODEL, "max_tokens": 12, "messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "uvw"}]}]});
    let answer = json_of(server.ask("/v1/messages", &body).await).await;
    assert_eq!(answer["content"], json!([{"type": "text", "text": "xyz"}]));
    assert_eq!(answer["usage"]["input_tokens"], 5);
    let counted = server.ask("/v1/messages/count_tokens", &body).await;
    assert_eq!(json_of(counted).await["input_tokens"], 5);
    let called = json!({"model": MODEL, "max_tokens": 12, "messages": [
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": [
            {"type": "tool_use", "id": "c", "name": "look", "input": {}}]}]});
    let refused = json_of(server.ask("/v1/messages", &called).await).await;
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("`messages` must end with"), "{message}");
}

#[tokio::test]
async fn functions_are_called_under_their_older_name() {
    let says = "<tool_call>{\"name\": \"look\", \"arguments\": {\"at\": 1}}</tool_call>";
    let role = Role::new(Some(ToolFamily::Hermes), says);
    let heard = role.heard.clone();
    let server = TestServer::with(Setup {
        role: Some(role),
        ..Setup::default()
    })
    .await;
    let asked = json!({"functions": [{"name": "look", "parameters": {"type": "object"}}],
        "messages": [{"role": "user", "content": "hi"},
            {"role": "assistant", "content": null,
                "function_call": {"name": "look", "arguments": "{}"}},
            {"role": "function", "name": "look", "content": "nothing"}]});
    let answer = server.answer(&asked).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "function_call");
    assert_eq!(
        choice["message"]["function_call"],
        json!({"name": "look", "arguments": "{\"at\": 1}"})
    );
    assert_eq!(choice["message"]["tool_calls"], json!([]));
    {
        let heard = heard.lock().unwrap();
        assert_eq!(heard[0].messages[1].tool_calls[0].name, "look");
        assert_eq!(
            heard[0].messages[2].tool_call_id,
            heard[0].messages[1].tool_calls[0].id
        );
    }

    let mut streamed = asked.clone();
    streamed["stream"] = json!(true);
    let chunks = frames(server.chat(&streamed).await).await;
    let calls = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"]["function_call"]);
    let arguments = calls.clone().filter_map(|call| call["arguments"].as_str());
    assert_eq!(arguments.collect::<String>(), "{\"at\": 1}");
    assert_eq!(calls.filter(|call| call["name"] == "look").count(), 1);
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "function_call"
    );

    let plain = TestServer::start().await;
    let (status, error) =
        error_of(plain.chat(&json!({"functions": [{"name": "look"}]})).await).await;
    assert_eq!((status, &error["param"]), (400, &json!("functions")));
}
