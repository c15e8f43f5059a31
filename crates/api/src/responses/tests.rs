//! Requests of the Responses dialect as chat requests, and every refusal in its own words.

use serde_json::{Value, json};
use utoipa::PartialSchema;

use super::*;
use crate::{RequestError, ToolChoice, Translated};

fn read(extra: Value) -> Result<(ReadResponse, Translated), RequestError> {
    let mut body = json!({"model": "m", "input": "hi"});
    if let (Value::Object(body), Value::Object(extra)) = (&mut body, extra) {
        body.extend(extra);
    }
    let mut read = read_response(body.to_string().as_bytes())?;
    let translated = read.translate::<&str>(&[])?;
    Ok((read, translated))
}

fn fault(extra: Value) -> String {
    let error = read(extra).unwrap_err();
    let field = error.param().unwrap().to_owned();
    assert!(error.to_string().contains(&field), "{error}");
    field
}

fn function() -> Value {
    json!({"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": true})
}

#[test]
fn settings_have_chats_names_and_are_repeated() {
    let given = json!({"instructions": "Be brief.", "max_output_tokens": 9, "temperature": 0.5,
        "metadata": {"a": "b"}, "reasoning": {"effort": "low"}, "truncation": "disabled",
        "text": {"format": {"type": "text"}, "verbosity": "low"}, "seed": 3, "user": "u",
        "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
        "top_logprobs": 2, "tool_choice": "auto", "store": false});
    let (read, Translated { chat, .. }) = read(given).unwrap();
    assert_eq!((chat.max_tokens, chat.seed), (Some(9), Some(3)));
    assert_eq!(chat.wanted_logprobs(), Some(2));
    assert_eq!(json!(chat.messages[0])["role"], "system");
    let settings = json!(read.settings);
    assert_eq!(settings["instructions"], "Be brief.");
    assert_eq!(settings["reasoning"]["effort"], "low");
    assert_eq!(
        settings["text"],
        json!({"format": {"type": "text"}, "verbosity": "low"})
    );
    assert_eq!(settings["metadata"], json!({"a": "b"}));
    assert_eq!(read.kept_input, None);
}

#[test]
fn items_become_messages() {
    let input = json!([
        {"role": "developer", "content": "d"},
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "what?"},
            {"type": "input_image", "image_url": "data:x", "detail": "original"}]},
        {"type": "reasoning", "id": "r", "summary": []},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
            "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{\"at\": 1}"},
        {"type": "function_call_output", "call_id": "c1", "output": [
            {"type": "input_text", "text": "see"},
            {"type": "input_image", "image_url": "https://h/y"}]},
        {"type": "function_call_output", "call_id": "c2", "output": ""},
    ]);
    let (read, Translated { chat, names }) = read(json!({"input": input})).unwrap();
    let told = json!(chat.messages);
    let roles: Vec<_> = told
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["role"])
        .collect();
    assert_eq!(
        roles,
        ["system", "user", "assistant", "tool", "tool", "user"]
    );
    assert_eq!(
        told[1]["content"][1]["image_url"],
        json!({"url": "data:x", "detail": "high"})
    );
    assert_eq!(
        told[2]["tool_calls"][0]["function"]["arguments"],
        json!({"at": 1})
    );
    assert_eq!(told[5]["content"][0]["image_url"]["url"], "https://h/y");
    let pictures = chat
        .messages
        .iter()
        .flat_map(|message| message.content.images());
    let fields: Vec<_> = pictures.map(|image| names.of(&image.field)).collect();
    assert_eq!(
        fields,
        [
            "input[1].content[1].image_url",
            "input[5].output[1].image_url"
        ]
    );
    assert_eq!(names.of("messages[2].tool_calls"), "input[4]");
    assert_eq!(names.of("messages"), "input");
    let kept: Value = serde_json::from_str(&read.kept_input.unwrap()).unwrap();
    for (index, (kept, given)) in kept
        .as_array()
        .unwrap()
        .iter()
        .zip(input.as_array().unwrap())
        .enumerate()
    {
        assert!(kept["id"].is_string(), "{index}");
        let given_id = &given["id"];
        assert!(given_id.is_null() || *given_id == kept["id"], "{index}");
        assert_eq!(kept["status"], "completed", "{index}");
    }
    assert_eq!(
        (&kept[0]["type"], &kept[0]["content"]),
        (
            &json!("message"),
            &json!([{"type": "input_text", "text": "d"}])
        )
    );
    // What was kept reads as what was given.
    let (_, again) = self::read(json!({"input": kept})).unwrap();
    assert_eq!(json!(again.chat.messages), told);
}

#[test]
fn a_conversation_goes_on_from_what_was_kept() {
    let mut first =
        read_response(br#"{"model": "m", "input": "one", "instructions": "i"}"#).unwrap();
    first.translate::<&str>(&[]).unwrap();
    let text = OutputText::new("two".into(), Vec::new());
    let mut response = ResponseObject::opening(first.settings, 1);
    response.output = vec![
        OutputItem::message("msg_1".into(), ItemStatus::Completed, vec![text]),
        OutputItem::FunctionCall {
            id: "fc_1".into(),
            call_id: "c".into(),
            name: "look".into(),
            arguments: "{}".into(),
            status: ItemStatus::Completed,
        },
    ];
    let turns = [first.kept_input.unwrap(), response.kept_output()];
    let body = json!({"model": "m", "previous_response_id": response.id, "input": [
        {"type": "function_call_output", "call_id": "c", "output": "three"}]});
    let mut next = read_response(body.to_string().as_bytes()).unwrap();
    let Translated { chat, names } = next.translate(&turns).unwrap();
    let told = json!(chat.messages);
    assert_eq!(told[0]["content"][0]["text"], "one");
    assert_eq!(told[1]["content"][0]["text"], "two");
    assert_eq!(told[1]["tool_calls"][0]["id"], "c");
    assert_eq!(told[2]["content"][0]["text"], "three");
    assert_eq!(names.of("messages[1].tool_calls"), "previous_response_id");
}

#[test]
fn references_stand_for_items_that_are_found() {
    let input = json!([{"type": "item_reference", "id": "msg_1"}, {"id": "msg_2"},
        {"role": "user", "content": "b"}]);
    let body = json!({"model": "m", "input": input});
    let mut read = read_response(body.to_string().as_bytes()).unwrap();
    assert_eq!(read.references(), ["msg_1", "msg_2"]);
    let mut lost = read.clone();
    let item = |id: &str| json!({"id": id, "type": "message", "role": "user", "content": id});
    read.resolve(|id| Some(item(id)));
    let Translated { chat, .. } = read.translate::<&str>(&[]).unwrap();
    let told = json!(chat.messages);
    assert_eq!(told[0]["content"][1]["text"], "msg_2");
    let kept = read.kept_input.unwrap();
    assert!(!kept.contains("item_reference"), "{kept}");
    lost.resolve(|id| (id == "msg_1").then(|| item(id)));
    let error = lost.translate::<&str>(&[]).unwrap_err();
    assert_eq!(error.param(), Some("input[1].id"));
}

#[test]
fn what_is_too_long_loses_its_beginning_up_to_a_users_message() {
    let earlier = [
        r#"[{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]"#,
        r#"[{"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "o"}]"#,
    ];
    let body = json!({"model": "m", "truncation": "auto", "instructions": "i", "input": [
        {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"}]});
    let read = read_response(body.to_string().as_bytes()).unwrap();
    assert!(read.truncates());
    assert_eq!(read.beginnings(&earlier).unwrap(), 3);
    let roles = |dropped| {
        let mut read = read.clone();
        let Translated { chat, .. } = read.translate_from(&earlier, dropped).unwrap();
        assert!(read.kept_input.unwrap().contains("\"d\""), "all is kept");
        let roles = chat.messages.iter().map(|message| message.role.as_str());
        roles.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        roles(0),
        "system system user assistant tool user assistant user"
    );
    assert_eq!(roles(1), "system system user assistant user");
    assert_eq!(roles(2), "system system user");
}

#[test]
fn some_of_the_tools_may_be_chosen_from() {
    let mut sing = function();
    sing["name"] = json!("sing");
    let choice = json!({"type": "allowed_tools", "mode": "required",
        "tools": [{"type": "function", "name": "sing"}]});
    let given = json!({"tools": [function(), sing], "tool_choice": choice});
    let (read, Translated { chat, .. }) = read(given).unwrap();
    assert!(chat.must_call());
    assert_eq!(chat.tools.len(), 1);
    assert_eq!(chat.tools[0].function.name, "sing");
    assert_eq!(read.settings.tools.len(), 2, "repeated as given");
    assert_eq!(read.settings.tool_choice, choice);
}

#[test]
fn tools_choices_and_formats_become_chats() {
    let choice = json!({"type": "function", "name": "look"});
    let format = json!({"type": "json_schema", "name": "n", "schema": {"type": "null"}});
    let given = json!({"tools": [function()], "tool_choice": choice, "text": {"format": format}});
    let (read, Translated { chat, names }) = read(given).unwrap();
    assert!(matches!(chat.tool_choice, Some(ToolChoice::Function(_))));
    assert_eq!(chat.tools[0].function.strict, Some(true));
    let field = names.of(&chat.constraint().unwrap().field);
    assert_eq!(field, "text.format.schema");
    assert_eq!(read.settings.tools, [function()]);
    assert_eq!(read.settings.tool_choice, choice);
}

#[test]
fn what_is_at_fault_has_its_name_in_this_dialect() {
    let said = |content: Value| json!({"input": [{"role": "user", "content": content}]});
    let long = "x".repeat(513);
    for (extra, field) in [
        (json!({"input": null}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": 7}), "input"),
        (
            json!({"input": [{"type": "web_search_call"}]}),
            "input[0].type",
        ),
        (
            json!({"input": [{"type": "item_reference", "id": "x"}]}),
            "input[0].id",
        ),
        (
            json!({"input": [{"type": "item_reference"}]}),
            "input[0].id",
        ),
        (
            json!({"tools": [function()], "tool_choice": {"type": "allowed_tools", "mode": "none",
                "tools": [{"type": "function", "name": "look"}]}}),
            "tool_choice.mode",
        ),
        (
            json!({"tools": [function()], "tool_choice": {"type": "allowed_tools", "mode": "auto",
                "tools": [{"type": "function", "name": "sing"}]}}),
            "tool_choice.tools[0].name",
        ),
        (
            json!({"tools": [function()], "tool_choice": {"type": "allowed_tools", "mode": "auto",
                "tools": []}}),
            "tool_choice.tools",
        ),
        (
            json!({"input": [{"role": "tool", "content": "x"}]}),
            "input[0].role",
        ),
        (
            json!({"input": [{"type": "function_call", "call_id": "c", "name": "n", "arguments": "x"}]}),
            "input[0].arguments",
        ),
        (
            json!({"input": [{"role": "assistant", "content": [
                {"type": "input_image", "image_url": "data:x"}]}]}),
            "input[0].content[0].type",
        ),
        (
            said(json!([{"type": "input_file"}])),
            "input[0].content[0].type",
        ),
        (
            said(json!([{"type": "input_image", "file_id": "f"}])),
            "input[0].content[0].file_id",
        ),
        (
            said(json!([{"type": "input_image"}])),
            "input[0].content[0].image_url",
        ),
        (
            said(json!([{"type": "input_image", "image_url": ""}])),
            "input[0].content[0].image_url",
        ),
        (
            said(json!([{"type": "input_image", "image_url": "data:x", "detail": "max"}])),
            "input[0].content[0].detail",
        ),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"top_logprobs": 21}), "top_logprobs"),
        (json!({"include": ["x"]}), "include[0]"),
        (json!({"metadata": {"a": 1}}), "metadata.a"),
        (json!({"metadata": {"a": long}}), "metadata.a"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (
            json!({"tools": [{"type": "function", "name": "a b"}]}),
            "tools[0].name",
        ),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (
            json!({"tools": [function()], "tool_choice": {"type": "function", "name": "sing"}}),
            "tool_choice.name",
        ),
        (
            json!({"text": {"format": {"type": "xml"}}}),
            "text.format.type",
        ),
        (
            json!({"text": {"format": {"type": "json_schema", "name": "n"}}}),
            "text.format.schema",
        ),
        (json!({"truncation": "always"}), "truncation"),
        (json!({"conversation": "conv_1"}), "conversation"),
        (json!({"background": true, "stream": true}), "stream"),
        (json!({"background": true, "store": false}), "store"),
    ] {
        assert_eq!(fault(extra.clone()), field, "{extra}");
    }
}

#[test]
fn every_documented_field_is_read() {
    let schema = serde_json::to_value(ResponsesRequest::schema()).unwrap();
    for name in schema["properties"].as_object().unwrap().keys() {
        // Of another type than any of them has.
        let field = fault(json!({ name.as_str(): [[1]] }));
        assert!(field.starts_with(name.as_str()), "{name}: {field}");
    }
}

#[test]
fn events_have_their_name_as_type_and_a_number() {
    let kind = EventKind::TextDelta {
        item_id: "msg_1".into(),
        output_index: 0,
        content_index: 0,
        delta: "a".into(),
        logprobs: Vec::new(),
    };
    let name = kind.name();
    let event = ResponseEvent {
        sequence_number: 4,
        kind,
    };
    assert_eq!(json!(event)["type"], name);
    assert_eq!(json!(event)["sequence_number"], 4);
}
