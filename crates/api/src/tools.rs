//! Tools that a model may call, and its calls.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::reader::{Fields, out_of_range, show, wrong_type};
use crate::{ChatRequest, RequestError};

/// Most tools of a request, as at OpenAI. Also the most calls of a message.
pub const MAX_TOOLS: usize = 128;
/// Most bytes of all tools together, written as JSON. They become part of the prompt.
pub const MAX_TOOLS_BYTES: usize = 256 << 10;
/// Longest name of a function, as at OpenAI.
pub const MAX_FUNCTION_NAME: usize = 64;

const FUNCTION: &str = "function";

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Tool {
    /// Always `function`.
    #[schema(value_type = String)]
    pub r#type: &'static str,
    /// What it is called and takes.
    pub function: Function,
    /// All of it as the client wrote it: chat templates show it to the model field by field.
    #[serde(skip)]
    #[schema(ignore)]
    pub definition: Value,
}

/// What a function is called and takes.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Function {
    /// Letters a to z and A to Z, digits, `_` and `-`; each name once in a request.
    #[schema(max_length = 64, pattern = "^[a-zA-Z0-9_-]{1,64}$")]
    pub name: String,
    /// What it does, for the model to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON schema of its arguments, of type `object`. Default: no arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Map<String, Value>>,
    /// Whether the arguments must fit the schema. They always do where `tool_choice` is
    /// `required` or names a function; where the model decides, this is a hint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// Whether tools are called, and which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    /// Any of them.
    Mode(ToolMode),
    /// The answer is a call of this function.
    Function(NamedTool),
}

/// Whether tools are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolMode {
    /// The model does not see them and calls none.
    None,
    /// The model decides. The default.
    Auto,
    /// The answer is at least one call.
    Required,
}

/// A tool, named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NamedTool {
    /// Always `function`.
    #[schema(value_type = String)]
    pub r#type: &'static str,
    /// Which.
    pub function: NamedFunction,
}

/// A function, named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NamedFunction {
    /// One of `tools`.
    pub name: String,
}

/// A call in the conversation so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PastCall {
    /// As the answer gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Always `function`.
    #[schema(value_type = String)]
    pub r#type: &'static str,
    /// What was called.
    pub function: PastFunction,
}

/// What was called, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PastFunction {
    /// Of the function.
    pub name: String,
    /// A JSON object, written as a string. An object itself is taken as well.
    #[schema(value_type = String)]
    pub arguments: Map<String, Value>,
}

/// A call in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ToolCall {
    /// To which the tool's answer refers, as `tool_call_id`.
    pub id: String,
    /// Always `function`.
    #[schema(value_type = String)]
    pub r#type: &'static str,
    /// What is called.
    pub function: FunctionCall,
}

/// What is called, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FunctionCall {
    /// One of the request's `tools`.
    pub name: String,
    /// A JSON object, written as a string. Cut short if the answer is.
    pub arguments: String,
}

/// What a chunk adds to one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ToolCallDelta {
    /// Of the call in the answer, from 0.
    pub index: u32,
    /// In the call's first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, in the call's first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub r#type: Option<&'static str>,
    /// The addition.
    pub function: FunctionDelta,
}

/// What a chunk adds to what is called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct FunctionDelta {
    /// In the call's first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More of the arguments.
    pub arguments: String,
}

/// A fresh id for a call, `chatcmpl-tool-` and 32 hexadecimal digits, as vLLM gives it.
#[must_use]
pub fn tool_call_id() -> String {
    format!("chatcmpl-tool-{}", Uuid::new_v4().simple())
}

impl ToolCall {
    /// A call without arguments so far.
    #[must_use]
    pub fn new(id: String, name: String) -> Self {
        Self {
            id,
            r#type: FUNCTION,
            function: FunctionCall {
                name,
                arguments: String::new(),
            },
        }
    }
}

impl ToolCallDelta {
    /// Opens a call.
    #[must_use]
    pub fn opening(index: u32, id: String, name: String) -> Self {
        Self {
            index,
            id: Some(id),
            r#type: Some(FUNCTION),
            function: FunctionDelta {
                name: Some(name),
                arguments: String::new(),
            },
        }
    }

    /// Adds arguments to a call.
    #[must_use]
    pub fn arguments(index: u32, arguments: String) -> Self {
        Self {
            index,
            id: None,
            r#type: None,
            function: FunctionDelta {
                name: None,
                arguments,
            },
        }
    }
}

impl Function {
    /// The schema of its arguments, with its type.
    #[must_use]
    pub fn schema(&self) -> Value {
        match &self.parameters {
            None => json!({"type": "object", "properties": {}, "additionalProperties": false}),
            Some(parameters) => {
                let mut schema = parameters.clone();
                schema.entry("type").or_insert_with(|| "object".into());
                Value::Object(schema)
            }
        }
    }
}

/// The fields of a request that are about tools.
#[derive(Debug, Default)]
pub(crate) struct ToolFields {
    pub(crate) tools: Vec<Tool>,
    pub(crate) choice: Option<ToolChoice>,
    pub(crate) parallel: Option<bool>,
}

impl ToolFields {
    /// Takes them out of a request.
    pub(crate) fn read(fields: &mut Fields) -> Result<Self, RequestError> {
        // An empty list is what many clients send that have no tools.
        let are_given = fields.peek("tools").is_some();
        let tools = read_tools(fields)?;
        let choice = read_choice(fields, &tools)?;
        let parallel = fields.boolean("parallel_tool_calls")?;
        let needs_tools = match choice {
            None | Some(ToolChoice::Mode(ToolMode::None)) => false,
            Some(ToolChoice::Mode(ToolMode::Auto)) => !are_given,
            Some(_) => true,
        };
        if needs_tools && tools.is_empty() {
            return Err(RequestError::Conflict {
                field: fields.at("tool_choice"),
                problem: "is only allowed where `tools` are given".into(),
            });
        }
        Ok(Self {
            tools,
            choice,
            parallel,
        })
    }
}

fn read_tools(fields: &mut Fields) -> Result<Vec<Tool>, RequestError> {
    let path = fields.at("tools");
    let given = fields.array("tools")?.unwrap_or_default();
    if given.len() > MAX_TOOLS {
        return Err(RequestError::Value {
            field: path,
            bound: format!("at most {MAX_TOOLS} tools"),
            value: given.len().to_string(),
        });
    }
    let bytes: usize = given.iter().map(|tool| tool.to_string().len()).sum();
    if bytes > MAX_TOOLS_BYTES {
        return Err(RequestError::Value {
            field: path,
            bound: format!("at most {MAX_TOOLS_BYTES} bytes of JSON"),
            value: format!("{bytes} bytes"),
        });
    }
    let mut names = BTreeSet::new();
    let mut tools = Vec::with_capacity(given.len());
    for (index, tool) in given.into_iter().enumerate() {
        let tool = Tool::read(tool, &format!("{path}[{index}]"))?;
        if !names.insert(tool.function.name.clone()) {
            return Err(RequestError::Conflict {
                field: format!("{path}[{index}].function.name"),
                problem: format!(
                    "must be another than those before it, got {:?} again",
                    tool.function.name
                ),
            });
        }
        tools.push(tool);
    }
    Ok(tools)
}

impl Tool {
    fn read(value: Value, path: &str) -> Result<Self, RequestError> {
        let definition = value.clone();
        let mut fields = Fields::new(value, path.to_owned())?;
        read_type(&mut fields)?;
        let mut function = read_object(&mut fields, FUNCTION)?;
        let name = function
            .string("name")?
            .ok_or_else(|| function.missing("name"))?;
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if !(1..=MAX_FUNCTION_NAME).contains(&name.len()) || !name.bytes().all(is_part) {
            return Err(out_of_range(
                function.at("name"),
                format!("1 to {MAX_FUNCTION_NAME} letters a to z, A to Z, digits, `_` and `-`"),
                &Value::from(name),
            ));
        }
        Ok(Self {
            r#type: FUNCTION,
            function: Function {
                name,
                description: function.string("description")?,
                parameters: read_parameters(&mut function)?,
                strict: function.boolean("strict")?,
            },
            definition,
        })
    }
}

fn read_parameters(function: &mut Fields) -> Result<Option<Map<String, Value>>, RequestError> {
    let path = function.at("parameters");
    let parameters = function.object("parameters")?;
    match parameters.as_ref().and_then(|schema| schema.get("type")) {
        Some(kind) if kind != "object" => Err(out_of_range(
            format!("{path}.type"),
            "`object`: arguments have names",
            kind,
        )),
        _ => Ok(parameters),
    }
}

fn read_choice(fields: &mut Fields, tools: &[Tool]) -> Result<Option<ToolChoice>, RequestError> {
    let path = fields.at("tool_choice");
    let bound = "`none`, `auto`, `required` or an object that names a function";
    let mode = match fields.take("tool_choice") {
        None => return Ok(None),
        Some(Value::String(word)) => match word.as_str() {
            "none" => ToolMode::None,
            "auto" => ToolMode::Auto,
            "required" => ToolMode::Required,
            _ => return Err(out_of_range(path, bound, &Value::from(word))),
        },
        Some(named @ Value::Object(_)) => {
            return read_named(named, &path, tools).map(Some);
        }
        Some(other) => return Err(wrong_type(path, bound, &other)),
    };
    Ok(Some(ToolChoice::Mode(mode)))
}

fn read_named(value: Value, path: &str, tools: &[Tool]) -> Result<ToolChoice, RequestError> {
    let mut fields = Fields::new(value, path.to_owned())?;
    read_type(&mut fields)?;
    let mut function = read_object(&mut fields, FUNCTION)?;
    let name = function
        .string("name")?
        .ok_or_else(|| function.missing("name"))?;
    if !tools.is_empty() && tools.iter().all(|tool| tool.function.name != name) {
        return Err(out_of_range(
            function.at("name"),
            "the name of one of `tools`",
            &Value::from(name),
        ));
    }
    Ok(ToolChoice::Function(NamedTool {
        r#type: FUNCTION,
        function: NamedFunction { name },
    }))
}

/// Refuses a request whose answer must be a call, and something else as well. `response_format` is
/// about answers that are no calls.
pub(crate) fn alone(request: &ChatRequest) -> Result<(), RequestError> {
    let other = request.constraint().map(|constraint| constraint.field);
    match other.filter(|field| !field.starts_with("response_format")) {
        Some(field) if request.must_call() => Err(RequestError::Conflict {
            field: "tool_choice".into(),
            problem: format!(
                "makes the answer a call, and `{field}` something else; leave one out"
            ),
        }),
        _ => Ok(()),
    }
}

/// Reads the `tool_calls` of an assistant's message.
pub(crate) fn read_past(fields: &mut Fields) -> Result<Vec<PastCall>, RequestError> {
    let path = fields.at("tool_calls");
    let calls = fields.array("tool_calls")?.unwrap_or_default();
    if calls.len() > MAX_TOOLS {
        return Err(RequestError::Value {
            field: path,
            bound: format!("at most {MAX_TOOLS} calls"),
            value: calls.len().to_string(),
        });
    }
    calls
        .into_iter()
        .enumerate()
        .map(|(index, call)| PastCall::read(call, &format!("{path}[{index}]")))
        .collect()
}

impl PastCall {
    fn read(value: Value, path: &str) -> Result<Self, RequestError> {
        let mut fields = Fields::new(value, path.to_owned())?;
        let id = fields.string("id")?;
        read_type(&mut fields)?;
        let mut function = read_object(&mut fields, FUNCTION)?;
        let name = function
            .string("name")?
            .ok_or_else(|| function.missing("name"))?;
        let arguments = read_arguments(&mut function)?;
        Ok(Self {
            id,
            r#type: FUNCTION,
            function: PastFunction { name, arguments },
        })
    }
}

/// Chat templates want an object where the wire has its text.
fn read_arguments(function: &mut Fields) -> Result<Map<String, Value>, RequestError> {
    let path = function.at("arguments");
    let bound = "a JSON object, written as a string";
    match function.take("arguments") {
        None => Ok(Map::new()),
        Some(Value::Object(arguments)) => Ok(arguments),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Map::new()),
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(Value::Object(arguments)) => Ok(arguments),
            _ => Err(out_of_range(path, bound, &Value::from(text))),
        },
        Some(other) => Err(wrong_type(path, bound, &other)),
    }
}

/// `type`, which may be left out: there is one kind of tools.
fn read_type(fields: &mut Fields) -> Result<(), RequestError> {
    match fields.string("type")? {
        None => Ok(()),
        Some(kind) if kind == FUNCTION => Ok(()),
        Some(kind) => Err(RequestError::Unsupported {
            field: fields.at("type"),
            neutral: "`function`",
            value: show(&Value::from(kind)),
        }),
    }
}

fn read_object(fields: &mut Fields, name: &str) -> Result<Fields, RequestError> {
    let path = fields.at(name);
    match fields.take(name) {
        None => Err(fields.missing(name)),
        Some(value) => Fields::new(value, path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            read_past(
                &mut Fields::new(json!({"tool_calls": [call]}), "messages[1]".into()).unwrap(),
            )
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
}
