//! The bodies of `POST /v1/messages` and of `POST /v1/messages/count_tokens`.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::blocks;
use crate::dialect::{self, Conversation, Translated};
use crate::reader::{Bounds, Fields, out_of_range, show};
use crate::unsupported::{self, Unsupported};
use crate::{FieldNames, RequestError};

/// Fields that ask for what only Anthropic has.
const UNSUPPORTED: &[Unsupported] = &[
    unsupported::null_only("container"),
    unsupported::null_only("context_management"),
    unsupported::empty("mcp_servers"),
];

/// Notes of the client, and hints that mean nothing here. Checked, and then dropped.
const NOTES: [&str; 5] = [
    "inference_geo",
    "service_tier",
    "speed",
    "user_profile_id",
    "workspace_id",
];

/// What models that think are told; those that are served here do not.
const THINKING: [&str; 4] = ["adaptive", "between_tools", "disabled", "enabled"];

/// A request that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadMessages {
    /// As a chat request.
    pub translated: Translated,
    /// Whether the answer is streamed.
    pub stream: bool,
}

/// Reads the body of `POST /v1/messages`.
///
/// # Errors
/// See [`RequestError`]; each names the field at fault in this dialect.
pub fn read_messages(body: &[u8]) -> Result<ReadMessages, RequestError> {
    read(body, true)
}

/// Reads the body of `POST /v1/messages/count_tokens`: the same with less that is required.
///
/// # Errors
/// As [`read_messages`].
pub fn read_count(body: &[u8]) -> Result<ReadMessages, RequestError> {
    read(body, false)
}

fn read(body: &[u8], is_answered: bool) -> Result<ReadMessages, RequestError> {
    let value =
        serde_json::from_slice(body).map_err(|error| RequestError::Syntax(error.to_string()))?;
    let mut fields = Fields::new(value, String::new())?;
    let mut chat = Map::new();
    let mut talk = Conversation::default();
    blocks::system(&mut fields, &mut talk)?;
    blocks::messages(&mut fields, &mut talk)?;
    // A beginning of the answer (prefill), which the answer goes on from.
    let is_begun = talk.ends_with_assistant();
    let mut names = talk.finish(&mut chat);
    if is_begun {
        chat.insert("continue_final_message".into(), true.into());
        names.add("continue_final_message", "messages");
    }
    if is_answered && fields.peek("max_tokens").is_none() {
        return Err(fields.missing("max_tokens"));
    }
    dialect::take(&mut fields, &mut chat, &["model", "max_tokens", "top_p"]);
    dialect::take_extras(&mut fields, &mut chat);
    if let Some(stops) = fields.array("stop_sequences")? {
        chat.insert("stop".into(), stops.into());
        names.add("stop", "stop_sequences");
    }
    if let Some(temperature) = fields.number("temperature", Bounds::Closed(0.0, 1.0))? {
        chat.insert("temperature".into(), temperature.into());
    }
    if let Some(top_k) = fields.integer::<i64>("top_k", 0..=i64::from(u32::MAX))? {
        chat.insert("top_k".into(), top_k.into());
    }
    tools(&mut fields, &mut chat, &mut names)?;
    tool_choice(&mut fields, &mut chat, &mut names)?;
    output_config(&mut fields, &mut chat, &mut names)?;
    metadata(&mut fields, &mut chat)?;
    thinking(&mut fields)?;
    let stream = fields.boolean("stream")?.unwrap_or(false);
    fields.object("cache_control")?;
    for name in NOTES {
        fields.string(name)?;
    }
    unsupported::check(&fields, UNSUPPORTED)?;
    let translated = Translated::read(chat, names)?;
    Ok(ReadMessages { translated, stream })
}

fn tools(
    fields: &mut Fields,
    chat: &mut Map<String, Value>,
    names: &mut FieldNames,
) -> Result<(), RequestError> {
    let Some(tools) = fields.array("tools")? else {
        return Ok(());
    };
    let read = |(index, tool)| {
        let path = format!("tools[{index}]");
        let mut tool = Fields::new(tool, path.clone())?;
        if let Some(kind) = tool.string("type")?
            && kind != "custom"
        {
            return Err(RequestError::Unsupported {
                field: tool.at("type"),
                neutral: "`custom`",
                value: show(&kind.into()),
            });
        }
        let schema = tool
            .take("input_schema")
            .ok_or_else(|| tool.missing("input_schema"))?;
        tool.object("cache_control")?;
        let mut function = Map::new();
        dialect::take(&mut tool, &mut function, &["name", "description", "strict"]);
        function.insert("parameters".into(), schema);
        let own = format!("{path}.input_schema");
        names.add(format!("{path}.function.parameters"), own);
        names.add(format!("{path}.function"), path);
        Ok(json!({"type": "function", "function": function}))
    };
    let tools = tools.into_iter().enumerate().map(read);
    let tools = tools.collect::<Result<Value, _>>()?;
    chat.insert("tools".into(), tools);
    Ok(())
}

fn tool_choice(
    fields: &mut Fields,
    chat: &mut Map<String, Value>,
    names: &mut FieldNames,
) -> Result<(), RequestError> {
    let path = fields.at("tool_choice");
    let Some(choice) = fields.take("tool_choice") else {
        return Ok(());
    };
    let mut choice = Fields::new(choice, path)?;
    let kind = choice
        .string("type")?
        .ok_or_else(|| choice.missing("type"))?;
    let choice_of_chat = match kind.as_str() {
        "auto" => Value::from("auto"),
        "any" => "required".into(),
        "none" => "none".into(),
        "tool" => {
            let name = choice
                .string("name")?
                .ok_or_else(|| choice.missing("name"))?;
            names.add("tool_choice.function", "tool_choice");
            json!({"type": "function", "function": {"name": name}})
        }
        _ => {
            let bound = "one of `auto`, `any`, `tool` or `none`";
            return Err(out_of_range(choice.at("type"), bound, &kind.into()));
        }
    };
    chat.insert("tool_choice".into(), choice_of_chat);
    if choice.boolean("disable_parallel_tool_use")? == Some(true) {
        chat.insert("parallel_tool_calls".into(), false.into());
    }
    Ok(())
}

/// `output_config`: a schema for the answer, and an effort that models here do not know.
fn output_config(
    fields: &mut Fields,
    chat: &mut Map<String, Value>,
    names: &mut FieldNames,
) -> Result<(), RequestError> {
    let path = fields.at("output_config");
    let Some(config) = fields.take("output_config") else {
        return Ok(());
    };
    let mut config = Fields::new(config, path)?;
    config.string("effort")?;
    let path = config.at("format");
    let Some(format) = config.take("format") else {
        return Ok(());
    };
    let mut format = Fields::new(format, path)?;
    let kind = format
        .string("type")?
        .ok_or_else(|| format.missing("type"))?;
    if kind != "json_schema" {
        return Err(out_of_range(
            format.at("type"),
            "`json_schema`",
            &kind.into(),
        ));
    }
    let schema = format
        .take("schema")
        .ok_or_else(|| format.missing("schema"))?;
    let schema = json!({"type": "json_schema", "json_schema": {"schema": schema}});
    chat.insert("response_format".into(), schema);
    names.add("response_format", "output_config.format");
    names.add("response_format.json_schema", "output_config.format");
    Ok(())
}

fn metadata(fields: &mut Fields, chat: &mut Map<String, Value>) -> Result<(), RequestError> {
    let path = fields.at("metadata");
    let Some(metadata) = fields.take("metadata") else {
        return Ok(());
    };
    if let Some(user) = Fields::new(metadata, path)?.string("user_id")? {
        chat.insert("user".into(), user.into());
    }
    Ok(())
}

fn thinking(fields: &mut Fields) -> Result<(), RequestError> {
    let path = fields.at("thinking");
    let Some(thinking) = fields.take("thinking") else {
        return Ok(());
    };
    let mut thinking = Fields::new(thinking, path)?;
    let kind = thinking
        .string("type")?
        .ok_or_else(|| thinking.missing("type"))?;
    if !THINKING.contains(&kind.as_str()) {
        let bound = "one of `adaptive`, `between_tools`, `disabled` or `enabled`";
        return Err(out_of_range(thinking.at("type"), bound, &kind.into()));
    }
    thinking.integer::<u32>("budget_tokens", 0..=i64::from(u32::MAX))?;
    Ok(())
}

/// The body of `POST /v1/messages`.
///
/// Unknown fields are ignored. `thinking`, `cache_control` and `output_config.effort` are
/// accepted and have no effect: no model here thinks, and prompts are cached in any case. Also
/// taken, with chat's meaning: `seed`, `min_p`, `repetition_penalty`, `frequency_penalty`,
/// `presence_penalty`, `cache_salt`, `priority` and `chat_template_kwargs`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct MessagesRequest {
    /// Most tokens of the answer.
    #[schema(minimum = 1)]
    pub max_tokens: u32,
    /// What is asked.
    #[serde(flatten)]
    pub prompt: CountTokensRequest,
    /// 0 always takes the most probable token. Default: the model's.
    #[schema(minimum = 0, maximum = 1)]
    pub temperature: Option<f32>,
    /// Draws from the smallest set of tokens whose probabilities reach this sum.
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Draws from this many of the most probable tokens; 0 means all.
    pub top_k: Option<u32>,
    /// Texts that end the answer.
    #[schema(max_items = 16)]
    pub stop_sequences: Option<Vec<String>>,
    /// Sends the answer as server-sent events while it is written. Default false.
    pub stream: Option<bool>,
    /// Who asks.
    pub metadata: Option<Metadata>,
}

/// The body of `POST /v1/messages/count_tokens`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CountTokensRequest {
    /// Name of a served model, as `GET /v1/models` lists it.
    pub model: String,
    /// The conversation, oldest first. Where the last message is the assistant's, the answer goes on
    /// from its text, and does not repeat it.
    #[schema(min_items = 1)]
    pub messages: Vec<InputMessage>,
    /// What stands before the conversation.
    pub system: Option<SystemText>,
    /// Functions that the model may call, for models whose chat template carries them.
    #[schema(max_items = 128)]
    pub tools: Option<Vec<InputTool>>,
    /// Whether they are called, and which.
    pub tool_choice: Option<InputToolChoice>,
    /// What the answer must be.
    pub output_config: Option<OutputConfig>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = AnthropicInputMessage)]
pub struct InputMessage {
    /// `user`, `assistant` or `system`. Turns of one in a row become one.
    pub role: String,
    /// What they say and show.
    pub content: InputContent,
}

/// Text, or blocks in order.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = AnthropicInputContent)]
#[serde(untagged)]
pub enum InputContent {
    /// The words. Markup in them is text.
    Text(String),
    /// The blocks.
    Blocks(Vec<InputBlock>),
}

/// A system prompt.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = AnthropicSystem)]
#[serde(untagged)]
pub enum SystemText {
    /// As text.
    Text(String),
    /// As blocks of text.
    Blocks(Vec<TextBlock>),
}

/// A text.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = AnthropicTextBlock)]
pub struct TextBlock {
    /// Always `text`.
    pub r#type: String,
    /// The words.
    pub text: String,
}

/// A piece of a message. Blocks of types `thinking` and `redacted_thinking` are skipped.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = AnthropicInputBlock)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InputBlock {
    /// Words.
    Text {
        /// The words.
        text: String,
    },
    /// A picture, of the user's or in a tool's result.
    Image {
        /// Where it is.
        source: InputSource,
    },
    /// A call, in a message of the assistant's.
    ToolUse {
        /// As the answer gave it.
        id: String,
        /// Of the tool.
        name: String,
        /// Its arguments.
        #[schema(value_type = Object)]
        input: Map<String, Value>,
    },
    /// What a call gave back, in a message of the user's.
    ToolResult {
        /// Of the call.
        tool_use_id: String,
        /// Text, or blocks of types `text` and `image`. The pictures are shown to the model in the
        /// user's message.
        #[schema(value_type = Option<Object>)]
        content: Option<Value>,
    },
}

/// Where a picture is.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = AnthropicImageSource)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InputSource {
    /// In the request.
    Base64 {
        /// `image/png`, `image/jpeg`, …; the picture itself decides.
        media_type: String,
        /// The file in base64.
        data: String,
    },
    /// Elsewhere.
    Url {
        /// An `http(s):` URL.
        url: String,
    },
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = AnthropicTool)]
pub struct InputTool {
    /// Letters a to z and A to Z, digits, `_` and `-`; each name once in a request.
    pub name: String,
    /// What it does, for the model to read.
    pub description: Option<String>,
    /// JSON schema of its arguments, of type `object`.
    #[schema(value_type = Object)]
    pub input_schema: Map<String, Value>,
    /// `custom` or absent: Anthropic's own tools are not served.
    pub r#type: Option<String>,
}

/// Whether tools are called.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = AnthropicToolChoice)]
pub struct InputToolChoice {
    /// In which way.
    pub r#type: InputToolChoiceKind,
    /// Which, with `tool`.
    pub name: Option<String>,
    /// Whether the answer may have one call at most. Default false.
    pub disable_parallel_tool_use: Option<bool>,
}

/// In which way tools are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AnthropicToolChoiceKind)]
#[serde(rename_all = "snake_case")]
pub enum InputToolChoiceKind {
    /// The model decides. The default.
    Auto,
    /// The answer is at least one call.
    Any,
    /// The answer is a call of the one named.
    Tool,
    /// The model does not see them.
    None,
}

/// What the answer must be.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = AnthropicOutputConfig)]
pub struct OutputConfig {
    /// In which form.
    pub format: Option<OutputFormat>,
}

/// A JSON document that a schema allows.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = AnthropicOutputFormat)]
pub struct OutputFormat {
    /// Always `json_schema`.
    pub r#type: String,
    /// The schema.
    #[schema(value_type = Object)]
    pub schema: Map<String, Value>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AnthropicMetadata)]
pub struct Metadata {
    /// For the client's own records.
    pub user_id: Option<String>,
}
