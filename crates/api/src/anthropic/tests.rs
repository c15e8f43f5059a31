//! Requests of the Messages dialect as chat requests, and every refusal in its own words.

use serde_json::{Value, json};
use utoipa::PartialSchema;

use super::*;
use crate::{ChatRequest, RequestError, ToolChoice, ToolMode, Translated};

fn read(extra: Value) -> Result<ReadMessages, RequestError> {
    let mut body = json!({"model": "m", "max_tokens": 5,
        "messages": [{"role": "user", "content": "hi"}]});
    if let (Value::Object(body), Value::Object(extra)) = (&mut body, extra) {
        body.extend(extra);
    }
    read_messages(body.to_string().as_bytes())
}

fn chat(extra: Value) -> ChatRequest {
    read(extra).unwrap().translated.chat
}

/// The messages as chat has them.
fn talk(messages: &Value) -> Value {
    json!(chat(json!({"messages": messages})).messages)
}

/// The field at fault, which the message must name.
fn fault(extra: Value) -> String {
    let error = read(extra).unwrap_err();
    let field = error.param().unwrap().to_owned();
    assert!(error.to_string().contains(&field), "{error}");
    field
}

fn png(data: &str) -> Value {
    json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}})
}

#[test]
fn settings_have_chats_names() {
    let request = chat(
        json!({"temperature": 0.5, "top_p": 0.25, "top_k": 0, "seed": 7,
        "stop_sequences": ["a"], "metadata": {"user_id": "u"}, "system": "Be brief.",
        "thinking": {"type": "enabled", "budget_tokens": 1024}, "service_tier": "auto",
        "cache_control": {"type": "ephemeral"}, "output_config": {"effort": "low"},
        "mcp_servers": []}),
    );
    assert_eq!(request.max_tokens, Some(5));
    assert_eq!(
        (request.temperature, request.top_p),
        (Some(0.5), Some(0.25))
    );
    assert_eq!((request.top_k(), request.seed), (Some(None), Some(7)));
    assert_eq!(request.stops(), ["a"]);
    assert_eq!(request.user.as_deref(), Some("u"));
    assert_eq!(
        json!(request.messages[0]),
        json!({"role": "system", "content": [{"type": "text", "text": "Be brief."}]})
    );
}

#[test]
fn words_and_pictures_keep_their_order_and_markup_is_text() {
    let url = json!({"type": "image", "source": {"type": "url", "url": "https://h/x"},
        "cache_control": {"type": "ephemeral"}});
    let content = json!([png("AA=="), {"type": "text", "text": "<img src='data:x'>"}, url]);
    assert_eq!(
        talk(&json!([{"role": "user", "content": content}])),
        json!([{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
            {"type": "text", "text": "<img src='data:x'>"},
            {"type": "image_url", "image_url": {"url": "https://h/x"}}]}])
    );
    let markup = talk(&json!([{"role": "user", "content": "<img src='data:x'>"}]));
    assert_eq!(markup[0]["content"][0]["text"], "<img src='data:x'>");
}

#[test]
fn an_answer_that_is_begun_is_gone_on_from() {
    let user = json!({"role": "user", "content": "x"});
    let begun = json!({"role": "assistant", "content": "It is"});
    assert!(chat(json!({"messages": [user, begun]})).continues());
    assert!(!chat(json!({"messages": [user, begun, user]})).continues());
}

#[test]
fn calls_and_results_become_messages() {
    let messages = json!([
        {"role": "user", "content": "what?"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": 1}}]},
        {"role": "user", "content": [{"type": "text", "text": "and?"},
            {"type": "tool_result", "tool_use_id": "c1", "content": [
                {"type": "text", "text": "see"}, png("AA==")]},
            {"type": "tool_result", "tool_use_id": "c2", "content": [], "is_error": true}]},
    ]);
    let request = chat(json!({"messages": messages, "tools": [tool()]}));
    let told = json!(request.messages);
    assert_eq!(told[1]["tool_calls"][0]["function"]["name"], "look");
    assert_eq!(
        told[1]["content"],
        json!([{"type": "text", "text": "I look."}])
    );
    assert_eq!(told[2]["tool_call_id"], "c1");
    assert_eq!(told[2]["content"], json!([{"type": "text", "text": "see"}]));
    assert_eq!(told[3]["content"], "");
    let asked = told[4]["content"].as_array().unwrap();
    assert_eq!(asked[0]["type"], "image_url");
    assert_eq!(asked[1]["text"], "and?");
}

fn tool() -> Value {
    json!({"name": "look", "description": "Looks.", "cache_control": {"type": "ephemeral"},
        "input_schema": {"type": "object", "properties": {"at": {"type": "integer"}}}})
}

#[test]
fn tools_and_choices_become_chats() {
    use ToolMode::{Auto, None, Required};
    for (kind, mode) in [("auto", Auto), ("any", Required), ("none", None)] {
        let choice = json!({"type": kind, "disable_parallel_tool_use": true});
        let request = chat(json!({"tools": [tool()], "tool_choice": choice}));
        assert_eq!(request.tool_choice, Some(ToolChoice::Mode(mode)));
        assert_eq!(request.parallel_tool_calls, Some(false));
        assert_eq!(
            request.tools[0].definition["function"]["description"],
            "Looks."
        );
    }
    let choice = json!({"type": "tool", "name": "look"});
    let request = chat(json!({"tools": [tool()], "tool_choice": choice}));
    assert!(matches!(request.tool_choice, Some(ToolChoice::Function(_))));
}

#[test]
fn a_schema_holds_the_answer() {
    let format = json!({"type": "json_schema", "schema": {"type": "null"}});
    let read = read(json!({"output_config": {"format": format}})).unwrap();
    let constraint = read.translated.chat.constraint().unwrap();
    let field = read.translated.names.of(&constraint.field);
    assert_eq!(field, "output_config.format.schema");
}

#[test]
fn what_is_at_fault_has_its_name_in_this_dialect() {
    let said = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    let tools = |tool: Value| json!({"tools": [tool]});
    for (extra, field) in [
        (json!({"max_tokens": null}), "max_tokens"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"temperature": 1.5}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"top_k": -1}), "top_k"),
        (json!({"stop_sequences": ["a", ""]}), "stop_sequences[1]"),
        (json!({"stop_sequences": "a"}), "stop_sequences"),
        (json!({"system": [png("AA==")]}), "system[0].type"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [], "system": "s"}), "messages"),
        (
            json!({"messages": [{"role": "tool", "content": "x"}]}),
            "messages[0].role",
        ),
        (
            json!({"messages": [{"role": "user"}]}),
            "messages[0].content",
        ),
        (
            json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": [
                {"type": "tool_use", "id": "c", "name": "look", "input": {}}]}]}),
            "messages",
        ),
        (said(json!([])), "messages[0].content"),
        (
            said(json!([{"type": "text"}])),
            "messages[0].content[0].text",
        ),
        (
            said(json!([{"type": "document"}])),
            "messages[0].content[0].type",
        ),
        (
            said(json!([{"type": "image"}])),
            "messages[0].content[0].source",
        ),
        (
            said(json!([{"type": "image", "source": {"type": "file", "file_id": "f"}}])),
            "messages[0].content[0].source.type",
        ),
        (
            said(json!([{"type": "image", "source": {"type": "url", "url": ""}}])),
            "messages[0].content[0].source.url",
        ),
        (
            said(json!([{"type": "image", "source":
                {"type": "base64", "media_type": "image/png;asset_id", "data": "x"}}])),
            "messages[0].content[0].source.media_type",
        ),
        (
            said(json!([{"type": "tool_result", "tool_use_id": 7}])),
            "messages[0].content[0].tool_use_id",
        ),
        (tools(json!({"name": "look"})), "tools[0].input_schema"),
        (
            tools(json!({"name": "a b", "input_schema": {}})),
            "tools[0].name",
        ),
        (
            tools(json!({"name": "a", "input_schema": {"type": "array"}})),
            "tools[0].input_schema.type",
        ),
        (
            tools(json!({"name": "web_search", "type": "web_search_20250305"})),
            "tools[0].type",
        ),
        (
            json!({"tools": [tool()], "tool_choice": {"type": "tool", "name": "sing"}}),
            "tool_choice.name",
        ),
        (json!({"tool_choice": {"type": "any"}}), "tool_choice"),
        (
            json!({"tool_choice": {"type": "required"}}),
            "tool_choice.type",
        ),
        (json!({"thinking": {"type": "much"}}), "thinking.type"),
        (
            json!({"output_config": {"format": {"type": "json_schema", "schema": 7}}}),
            "output_config.format.schema",
        ),
        (json!({"mcp_servers": [{}]}), "mcp_servers"),
        (json!({"cache_salt": 7}), "cache_salt"),
    ] {
        assert_eq!(fault(extra.clone()), field, "{extra}");
    }
}

#[test]
fn faults_of_the_server_find_their_field() {
    let read = read(json!({"system": "s", "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}, png("AA==")]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "n", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [png("BB==")]}]},
    ]}))
    .unwrap();
    let Translated { chat, names } = read.translated;
    let pictures = chat
        .messages
        .iter()
        .flat_map(|message| message.content.images());
    let fields: Vec<_> = pictures.map(|image| names.of(&image.field)).collect();
    assert_eq!(
        fields,
        [
            "messages[0].content[1].source.data",
            "messages[2].content[0].content[0].source.data"
        ]
    );
    assert_eq!(names.of("messages[2].tool_calls"), "messages[1].content[0]");
}

#[test]
fn every_documented_field_is_read() {
    let mut documented = Vec::new();
    let schema = serde_json::to_value(MessagesRequest::schema()).unwrap();
    let count = serde_json::to_value(CountTokensRequest::schema()).unwrap();
    for schema in schema["allOf"].as_array().unwrap().iter().chain([&count]) {
        let properties = schema["properties"].as_object();
        documented.extend(
            properties
                .into_iter()
                .flat_map(|fields| fields.keys().cloned()),
        );
    }
    assert!(documented.len() > 10, "{documented:?}");
    for name in documented {
        // Of another type than any of them has.
        let field = fault(json!({ name.as_str(): [[1]] }));
        assert!(field.starts_with(&name), "{name}: {field}");
    }
}

#[test]
fn counting_needs_no_bound() {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).to_string();
    assert!(read_count(body.as_bytes()).is_ok());
    assert!(read_messages(body.as_bytes()).is_err());
}

#[test]
fn events_have_their_name_as_type() {
    let events = [
        StreamEvent::Ping {},
        StreamEvent::MessageStop {},
        StreamEvent::ContentBlockStop { index: 1 },
        StreamEvent::ContentBlockDelta {
            index: 0,
            delta: BlockDelta::TextDelta { text: "a".into() },
        },
    ];
    for event in events {
        assert_eq!(json!(event)["type"], event.name());
    }
}

#[test]
fn cached_tokens_are_counted_once() {
    let mut usage = crate::Usage::new(10, 3);
    usage.prompt_tokens_details = Some(crate::PromptTokensDetails { cached_tokens: 4 });
    assert_eq!(
        json!(Usage::from(&usage)),
        json!({"input_tokens": 6, "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4, "output_tokens": 3})
    );
}
