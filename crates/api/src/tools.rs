//! Tools that a model may call, and its calls.

mod functions;
mod read;
#[cfg(test)]
mod tests;

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

pub(crate) use functions::{FunctionFields, name_calls, read_calls};
pub(crate) use read::{ToolFields, alone};

/// Most tools of a request, as at OpenAI. Also the most calls of a message.
pub const MAX_TOOLS: usize = 128;
/// Most bytes of all tools together, written as JSON. They become part of the prompt.
pub const MAX_TOOLS_BYTES: usize = 256 << 10;
/// Longest name of a function, as at OpenAI.
pub const MAX_FUNCTION_NAME: usize = 64;

const FUNCTION: &str = "function";
const ALLOWED: &str = "allowed_tools";

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
    /// Some of them: the model does not see the others.
    Allowed(AllowedChoice),
}

/// Some of the tools, in the way that `mode` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AllowedChoice {
    /// Always `allowed_tools`.
    #[schema(value_type = String)]
    pub r#type: &'static str,
    /// Which, and how.
    pub allowed_tools: AllowedTools,
}

/// Tools that may be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AllowedTools {
    /// `auto` or `required`.
    pub mode: ToolMode,
    /// At least one of `tools`.
    #[schema(min_items = 1, max_items = 128)]
    pub tools: Vec<NamedTool>,
}

/// Whether functions are called, and which: `tool_choice` under its older name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum FunctionChoice {
    /// Any of them: `none` or `auto`.
    Mode(ToolMode),
    /// The answer is a call of this function.
    Function(NamedFunction),
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
