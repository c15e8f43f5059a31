//! Reading tools, choices and past calls, each field with its bounds.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    ALLOWED, AllowedChoice, AllowedTools, FUNCTION, Function, MAX_FUNCTION_NAME, MAX_TOOLS,
    MAX_TOOLS_BYTES, NamedFunction, NamedTool, PastCall, PastFunction, Tool, ToolChoice, ToolMode,
};
use crate::reader::{Fields, out_of_range, show, wrong_type};
use crate::{ChatRequest, RequestError};

/// The fields of a request that are about tools.
#[derive(Debug, Clone, Default)]
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
        let mut tools = read_tools(fields)?;
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
        if let Some(ToolChoice::Allowed(allowed)) = &choice {
            let allowed = &allowed.allowed_tools.tools;
            tools.retain(|tool| {
                let mut names = allowed.iter().map(|tool| &tool.function.name);
                names.any(|name| *name == tool.function.name)
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
    let bound = "`none`, `auto`, `required`, or an object that names a function or `allowed_tools`";
    let mode = match fields.take("tool_choice") {
        None => return Ok(None),
        Some(Value::String(word)) => match word.as_str() {
            "none" => ToolMode::None,
            "auto" => ToolMode::Auto,
            "required" => ToolMode::Required,
            _ => return Err(out_of_range(path, bound, &Value::from(word))),
        },
        Some(some @ Value::Object(_)) if some["type"] == ALLOWED => {
            return read_allowed(some, path, tools).map(Some);
        }
        Some(named @ Value::Object(_)) => {
            let named = read_named(named, &path, tools)?;
            return Ok(Some(ToolChoice::Function(named)));
        }
        Some(other) => return Err(wrong_type(path, bound, &other)),
    };
    Ok(Some(ToolChoice::Mode(mode)))
}

fn read_allowed(value: Value, path: String, tools: &[Tool]) -> Result<ToolChoice, RequestError> {
    let mut fields = Fields::new(value, path)?;
    let mut allowed = read_object(&mut fields, ALLOWED)?;
    let mode = allowed
        .string("mode")?
        .ok_or_else(|| allowed.missing("mode"))?;
    let mode = match mode.as_str() {
        "auto" => ToolMode::Auto,
        "required" => ToolMode::Required,
        _ => {
            let bound = "`auto` or `required`";
            return Err(out_of_range(allowed.at("mode"), bound, &mode.into()));
        }
    };
    let path = allowed.at("tools");
    let named = allowed
        .array("tools")?
        .ok_or_else(|| allowed.missing("tools"))?;
    if !(1..=MAX_TOOLS).contains(&named.len()) {
        return Err(RequestError::Value {
            field: path,
            bound: format!("an array of 1 to {MAX_TOOLS} tools"),
            value: format!("an array of {}", named.len()),
        });
    }
    let named = named.into_iter().enumerate();
    let named = named.map(|(index, tool)| read_named(tool, &format!("{path}[{index}]"), tools));
    Ok(ToolChoice::Allowed(AllowedChoice {
        r#type: ALLOWED,
        allowed_tools: AllowedTools {
            mode,
            tools: named.collect::<Result<_, _>>()?,
        },
    }))
}

fn read_named(value: Value, path: &str, tools: &[Tool]) -> Result<NamedTool, RequestError> {
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
    Ok(NamedTool {
        r#type: FUNCTION,
        function: NamedFunction { name },
    })
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
pub(super) fn read_past(fields: &mut Fields) -> Result<Vec<PastCall>, RequestError> {
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
    pub(super) fn read(value: Value, path: &str) -> Result<Self, RequestError> {
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
