use serde_json::{Value, json};

use super::read::{ToolFields, read_past};
use super::*;
use crate::RequestError;
use crate::reader::Fields;

fn read(body: Value) -> Result<ToolFields, RequestError> {
    ToolFields::read(&mut Fields::new(body, String::new()).unwrap())
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name}})
}

#[test]
fn tools_are_read_and_kept_as_they_were_written() {
    let definition = json!({"type": "function", "function": {"description": "Looks.",
        "name": "look", "parameters": {"type": "object", "properties": {"z": {}, "a": {}}},
        "strict": true, "x-other": 1}});
    let fields = read(json!({"tools": [definition], "parallel_tool_calls": false})).unwrap();
    let [tool] = fields.tools.as_slice() else {
        panic!("{fields:?}");
    };
    assert_eq!(tool.function.name, "look");
    assert_eq!(tool.function.description.as_deref(), Some("Looks."));
    assert_eq!(tool.function.strict, Some(true));
    assert_eq!(tool.definition.to_string(), definition.to_string());
    assert_eq!((fields.choice, fields.parallel), (None, Some(false)));
}

#[test]
fn choices_are_read_in_every_spelling() {
    for (choice, expected) in [
        (json!("none"), ToolChoice::Mode(ToolMode::None)),
        (json!("auto"), ToolChoice::Mode(ToolMode::Auto)),
        (json!("required"), ToolChoice::Mode(ToolMode::Required)),
        (
            tool("look"),
            ToolChoice::Function(NamedTool {
                r#type: "function",
                function: NamedFunction {
                    name: "look".into(),
                },
            }),
        ),
    ] {
        let fields = read(json!({"tools": [tool("look")], "tool_choice": choice})).unwrap();
        assert_eq!(fields.choice.as_ref(), Some(&expected));
        assert_eq!(serde_json::to_value(expected).unwrap(), choice);
    }
    for harmless in [
        json!({"tool_choice": "none"}),
        json!({"tools": [], "tool_choice": "auto"}),
        json!({"tools": null, "tool_choice": null, "parallel_tool_calls": true}),
    ] {
        assert!(read(harmless).unwrap().tools.is_empty());
    }
}

#[test]
fn what_is_wrong_with_tools_is_named() {
    let many: Vec<Value> = (0..=MAX_TOOLS).map(|n| tool(&n.to_string())).collect();
    let large = json!([{"type": "function", "function": {"name": "a",
        "description": "x".repeat(MAX_TOOLS_BYTES)}}]);
    for (body, field, code) in [
        (json!({"tools": {}}), "tools", "invalid_type"),
        (json!({"tools": many}), "tools", "invalid_value"),
        (json!({"tools": large}), "tools", "invalid_value"),
        (json!({"tools": [7]}), "tools[0]", "invalid_type"),
        (
            json!({"tools": [{}]}),
            "tools[0].function",
            "missing_required_parameter",
        ),
        (
            json!({"tools": [{"type": "function", "function": {}}]}),
            "tools[0].function.name",
            "missing_required_parameter",
        ),
        (
            json!({"tools": [tool("")]}),
            "tools[0].function.name",
            "invalid_value",
        ),
        (
            json!({"tools": [tool("a b")]}),
            "tools[0].function.name",
            "invalid_value",
        ),
        (
            json!({"tools": [tool(&"a".repeat(65))]}),
            "tools[0].function.name",
            "invalid_value",
        ),
        (
            json!({"tools": [tool("a"), tool("a")]}),
            "tools[1].function.name",
            "conflicting_parameters",
        ),
        (
            json!({"tools": [{"type": "retrieval"}]}),
            "tools[0].type",
            "unsupported_parameter",
        ),
        (
            json!({"tools": [{"function": {"name": "a", "parameters": "x"}}]}),
            "tools[0].function.parameters",
            "invalid_type",
        ),
        (
            json!({"tools": [{"function": {"name": "a", "parameters": {"type": "array"}}}]}),
            "tools[0].function.parameters.type",
            "invalid_value",
        ),
        (
            json!({"tools": [{"function": {"name": "a", "strict": "yes"}}]}),
            "tools[0].function.strict",
            "invalid_type",
        ),
        (
            json!({"tool_choice": "auto"}),
            "tool_choice",
            "conflicting_parameters",
        ),
        (
            json!({"tools": [], "tool_choice": "required"}),
            "tool_choice",
            "conflicting_parameters",
        ),
        (
            json!({"tool_choice": tool("a")}),
            "tool_choice",
            "conflicting_parameters",
        ),
        (
            json!({"tools": [tool("a")], "tool_choice": "any"}),
            "tool_choice",
            "invalid_value",
        ),
        (
            json!({"tools": [tool("a")], "tool_choice": 1}),
            "tool_choice",
            "invalid_type",
        ),
        (
            json!({"tools": [tool("a")], "tool_choice": tool("b")}),
            "tool_choice.function.name",
            "invalid_value",
        ),
        (
            json!({"tools": [tool("a")], "tool_choice": {"type": "function"}}),
            "tool_choice.function",
            "missing_required_parameter",
        ),
        (
            json!({"parallel_tool_calls": 1}),
            "parallel_tool_calls",
            "invalid_type",
        ),
    ] {
        let error = read(body).unwrap_err();
        assert_eq!(
            (error.param(), error.code()),
            (Some(field), code),
            "{error}"
        );
    }
}

#[test]
fn schemas_of_arguments_are_those_of_objects() {
    let schema = |parameters: Value| {
        let tool = json!({"function": {"name": "a", "parameters": parameters}});
        read(json!({"tools": [tool]})).unwrap().tools[0]
            .function
            .schema()
    };
    assert_eq!(schema(json!(null))["additionalProperties"], false);
    assert_eq!(schema(json!({"properties": {"a": {}}}))["type"], "object");
    let whole = json!({"type": "object", "required": ["a"]});
    assert_eq!(schema(whole.clone()), whole);
}

#[test]
fn arguments_of_past_calls_are_objects() {
    let past = |arguments: Value| {
        let call = json!({"id": "c", "type": "function",
            "function": {"name": "look", "arguments": arguments}});
        read_past(&mut Fields::new(json!({"tool_calls": [call]}), "messages[1]".into()).unwrap())
    };
    for (written, expected) in [
        (json!("{\"a\": [1]}"), json!({"a": [1]})),
        (json!({"a": 1}), json!({"a": 1})),
        (json!(""), json!({})),
        (json!(null), json!({})),
    ] {
        let calls = past(written).unwrap();
        assert_eq!(Value::Object(calls[0].function.arguments.clone()), expected);
        assert_eq!(calls[0].id.as_deref(), Some("c"));
    }
    for wrong in [json!("{\"a\":"), json!("[1]"), json!(7)] {
        let error = past(wrong).unwrap_err();
        assert_eq!(
            error.param(),
            Some("messages[1].tool_calls[0].function.arguments"),
            "{error}"
        );
    }
}

#[test]
fn ids_are_fresh_and_shaped_as_vllms() {
    let id = tool_call_id();
    let digits = id.strip_prefix("chatcmpl-tool-").unwrap();
    assert!(digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_ne!(id, tool_call_id());
}
