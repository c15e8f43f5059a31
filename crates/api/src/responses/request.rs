//! The body of `POST /v1/responses`.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::settings::{self, Settings};
use super::{OutputItem, items};
use crate::dialect::{self, Conversation, Translated};
use crate::reader::{Fields, out_of_range, show, wrong_type};
use crate::request::MAX_TOP_LOGPROBS;
use crate::unsupported::{self, Unsupported};
use crate::{FieldNames, Null, RequestError};

/// Fields that ask for what only OpenAI has, or for what is not done here.
const UNSUPPORTED: &[Unsupported] = &[
    unsupported::null_only("conversation"),
    unsupported::empty("context_management"),
    unsupported::null_only("moderation"),
    unsupported::null_only("prompt"),
];

/// Fields without effect: notes of the client and hints.
const NOTES: [&str; 2] = ["service_tier", "prompt_cache_retention"];

/// What `include` may name; only the first one is to be had.
const INCLUDABLE: [&str; 8] = [
    LOGPROBS,
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
];

const LOGPROBS: &str = "message.output_text.logprobs";

/// What is too long loses its beginning.
const AUTO: &str = "auto";
/// What is too long is refused.
const DISABLED: &str = "disabled";

/// A request that was read, and not yet put behind the conversation that it goes on from.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadResponse {
    /// What the response repeats. Temperature and `top_p` are the chat request's to tell.
    pub settings: Settings,
    /// Whether the response is streamed.
    pub stream: bool,
    /// The items of `input` as a JSON array, for later responses that go on from this one; `None`
    /// until they are [translated](Self::translate), or if the request forbids to keep them.
    pub kept_input: Option<String>,
    items: Vec<Value>,
    chat: Map<String, Value>,
    names: FieldNames,
}

/// Reads the body of `POST /v1/responses`.
///
/// # Errors
/// See [`RequestError`]; each names the field at fault in this dialect. What depends on the whole
/// conversation is left to [`ReadResponse::translate`].
pub fn read_response(body: &[u8]) -> Result<ReadResponse, RequestError> {
    let value =
        serde_json::from_slice(body).map_err(|error| RequestError::Syntax(error.to_string()))?;
    let mut fields = Fields::new(value, String::new())?;
    let input = fields
        .take("input")
        .ok_or_else(|| fields.missing("input"))?;
    let items = items::of_input(input)?;
    let items = items.into_iter().map(items::kept).collect();
    let mut chat = Map::new();
    let mut names = FieldNames::default();
    let model = fields
        .string("model")?
        .ok_or_else(|| fields.missing("model"))?;
    chat.insert("model".into(), model.clone().into());
    dialect::take(&mut fields, &mut chat, &["temperature", "top_p", "top_k"]);
    dialect::take_extras(&mut fields, &mut chat);
    let max_output_tokens: Option<u32> =
        fields.integer("max_output_tokens", 1..=i64::from(u32::MAX))?;
    if let Some(most) = max_output_tokens {
        chat.insert("max_tokens".into(), most.into());
        names.add("max_tokens", "max_output_tokens");
    }
    let parallel = fields.boolean("parallel_tool_calls")?;
    if let Some(parallel) = parallel {
        chat.insert("parallel_tool_calls".into(), parallel.into());
    }
    let tools = tools(&mut fields, &mut chat, &mut names)?;
    let tool_choice = tool_choice(&mut fields, &mut chat, &mut names)?;
    let text = text(&mut fields, &mut chat, &mut names)?;
    let top_logprobs = logprobs(&mut fields, &mut chat)?;
    let background = fields.boolean("background")?.unwrap_or(false);
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let store = fields.boolean("store")?.unwrap_or(true);
    let conflict = |field: &str, problem: &str| RequestError::Conflict {
        field: field.into(),
        problem: problem.into(),
    };
    if background && stream {
        let problem = "cannot be given together with `background`: ask for the response by its id";
        return Err(conflict("stream", problem));
    }
    if background && !store {
        let problem = "must be true with `background`: there would be no way to the answer";
        return Err(conflict("store", problem));
    }
    for name in NOTES {
        fields.string(name)?;
    }
    fields.integer::<u32>("max_tool_calls", 1..=i64::from(u32::MAX))?;
    if let Some(options) = fields.take("stream_options") {
        let path = fields.at("stream_options");
        Fields::new(options, path)?.boolean("include_obfuscation")?;
    }
    let settings = Settings {
        model,
        instructions: fields.string("instructions")?,
        max_output_tokens,
        max_tool_calls: Null,
        metadata: settings::metadata(&mut fields)?,
        parallel_tool_calls: parallel.unwrap_or(true),
        previous_response_id: fields.string("previous_response_id")?,
        prompt_cache_key: fields.string("prompt_cache_key")?,
        reasoning: settings::reasoning(&mut fields)?,
        safety_identifier: fields.string("safety_identifier")?,
        service_tier: "default",
        store,
        temperature: 1.0,
        text,
        tool_choice,
        tools,
        top_logprobs,
        top_p: 1.0,
        truncation: truncation(&mut fields)?,
        user: fields.string("user")?,
        background,
    };
    unsupported::check(&fields, UNSUPPORTED)?;
    Ok(ReadResponse {
        settings,
        stream,
        kept_input: None,
        items,
        chat,
        names,
    })
}

impl ReadResponse {
    /// Ids of items of kept responses that stand for them in `input`.
    #[must_use]
    pub fn references(&self) -> Vec<&str> {
        let items = self.items.iter();
        items.filter_map(items::reference).collect()
    }

    /// Puts items in the place of references to them; `find` gives the item of an id. References to
    /// others are refused by [`Self::translate`].
    pub fn resolve(&mut self, find: impl Fn(&str) -> Option<Value>) {
        for item in &mut self.items {
            if let Some(found) = items::reference(item).and_then(&find) {
                *item = found;
            } else if items::reference(item).is_some()
                && let Some(fields) = item.as_object_mut()
            {
                fields.insert("type".into(), "item_reference".into());
            }
        }
    }

    /// Whether what is too long loses its beginning (`"truncation": "auto"`).
    #[must_use]
    pub fn truncates(&self) -> bool {
        self.settings.truncation == AUTO
    }

    /// How many beginnings the conversation has behind `earlier`: messages of the user's.
    ///
    /// # Errors
    /// Where `earlier` is no JSON.
    pub fn beginnings<T: AsRef<str>>(&self, earlier: &[T]) -> Result<usize, RequestError> {
        let mut count = self
            .items
            .iter()
            .filter(|item| items::is_users(item))
            .count();
        for items in earlier {
            let items = parsed(items.as_ref())?;
            count += items.iter().filter(|item| items::is_users(item)).count();
        }
        Ok(count)
    }

    /// The chat request, behind the items of the responses that it goes on from: for each of them
    /// the JSON array of its input, and of its output. The items leave the request.
    ///
    /// # Errors
    /// As [`read_response`]. What is wrong with earlier items is wrong with
    /// `previous_response_id`.
    pub fn translate<T: AsRef<str>>(&mut self, earlier: &[T]) -> Result<Translated, RequestError> {
        self.translate_from(earlier, 0)
    }

    /// The same without the first `dropped` of the user's messages and what else stands before the
    /// next one; what who runs the conversation says stays. None are dropped beyond the last.
    ///
    /// # Errors
    /// As [`Self::translate`].
    pub fn translate_from<T: AsRef<str>>(
        &mut self,
        earlier: &[T],
        dropped: usize,
    ) -> Result<Translated, RequestError> {
        if self.settings.store {
            // Nothing in an item can fail to be written as JSON.
            self.kept_input = Some(serde_json::to_string(&self.items).unwrap_or_default());
        }
        let mut begun = 0;
        let mut is_kept = |item: &Value| {
            begun += usize::from(items::is_users(item));
            dropped == 0 || begun > dropped || items::is_systems(item)
        };
        let mut talk = Conversation::default();
        if let Some(instructions) = &self.settings.instructions {
            talk.begin("system", "instructions");
            talk.say(instructions.clone());
        }
        for items in earlier {
            for item in parsed(items.as_ref())? {
                if is_kept(&item) {
                    items::read(item, "previous_response_id", &mut talk)?;
                }
            }
        }
        for (index, item) in std::mem::take(&mut self.items).into_iter().enumerate() {
            if is_kept(&item) {
                items::read(item, &format!("input[{index}]"), &mut talk)?;
            }
        }
        let mut chat = std::mem::take(&mut self.chat);
        let mut names = talk.finish(&mut chat);
        names.add("messages", "input");
        names.extend(std::mem::take(&mut self.names));
        Translated::read(chat, names)
    }
}

/// Items as they were kept.
fn parsed(items: &str) -> Result<Vec<Value>, RequestError> {
    serde_json::from_str(items).map_err(|error| RequestError::Syntax(error.to_string()))
}

/// Items of an answer, as a later request has them in its input.
#[must_use]
pub(super) fn kept_output(output: &[OutputItem]) -> String {
    // Nothing in an item can fail to be written as JSON.
    serde_json::to_string(output).unwrap_or_else(|_| "[]".into())
}

fn tools(
    fields: &mut Fields,
    chat: &mut Map<String, Value>,
    names: &mut FieldNames,
) -> Result<Vec<Value>, RequestError> {
    let given = fields.array("tools")?.unwrap_or_default();
    let read = |(index, tool): (usize, &Value)| {
        let path = format!("tools[{index}]");
        let mut tool = Fields::new(tool.clone(), path.clone())?;
        let kind = tool.string("type")?.ok_or_else(|| tool.missing("type"))?;
        if kind != "function" {
            return Err(RequestError::Unsupported {
                field: tool.at("type"),
                neutral: "`function`",
                value: show(&kind.into()),
            });
        }
        let mut function = Map::new();
        let taken = ["name", "description", "parameters", "strict"];
        dialect::take(&mut tool, &mut function, &taken);
        names.add(format!("{path}.function"), path);
        Ok(json!({"type": "function", "function": function}))
    };
    let tools = given.iter().enumerate().map(read);
    let tools = tools.collect::<Result<Vec<_>, _>>()?;
    if !tools.is_empty() {
        chat.insert("tools".into(), tools.into());
    }
    Ok(given)
}

/// Gives what the response repeats of it.
fn tool_choice(
    fields: &mut Fields,
    chat: &mut Map<String, Value>,
    names: &mut FieldNames,
) -> Result<Value, RequestError> {
    let path = fields.at("tool_choice");
    let given = match fields.take("tool_choice") {
        None => return Ok("auto".into()),
        Some(given) => given,
    };
    let choice = match &given {
        Value::Object(_) => {
            let mut choice = Fields::new(given.clone(), path)?;
            let kind = choice
                .string("type")?
                .ok_or_else(|| choice.missing("type"))?;
            if kind == "allowed_tools" {
                let allowed = allowed_tools(&mut choice, names)?;
                chat.insert("tool_choice".into(), allowed);
                return Ok(given);
            }
            if kind != "function" {
                return Err(RequestError::Unsupported {
                    field: choice.at("type"),
                    neutral: "`function` or `allowed_tools`",
                    value: show(&kind.into()),
                });
            }
            let name = choice
                .string("name")?
                .ok_or_else(|| choice.missing("name"))?;
            names.add("tool_choice.function", "tool_choice");
            json!({"type": "function", "function": {"name": name}})
        }
        _ => given.clone(),
    };
    // Without tools there is nothing to choose, and clients send `auto` all the same.
    if chat.contains_key("tools") || choice != "auto" {
        chat.insert("tool_choice".into(), choice);
    }
    Ok(given)
}

/// A choice of some tools in chat's form.
fn allowed_tools(choice: &mut Fields, names: &mut FieldNames) -> Result<Value, RequestError> {
    let path = choice.at("tools");
    let tools = choice
        .array("tools")?
        .ok_or_else(|| choice.missing("tools"))?;
    names.add("tool_choice.allowed_tools", "tool_choice");
    let tool = |(index, tool)| {
        let own = format!("{path}[{index}]");
        let mut tool = Fields::new(tool, own.clone())?;
        let mut named = Map::new();
        dialect::take(&mut tool, &mut named, &["name"]);
        let kind = tool.take("type").unwrap_or("function".into());
        names.add(
            format!("tool_choice.allowed_tools.tools[{index}].function"),
            own,
        );
        Ok(json!({"type": kind, "function": named}))
    };
    let tools = tools.into_iter().enumerate().map(tool);
    let tools = tools.collect::<Result<Value, _>>()?;
    let mut allowed = Map::new();
    dialect::take(choice, &mut allowed, &["mode"]);
    allowed.insert("tools".into(), tools);
    Ok(json!({"type": "allowed_tools", "allowed_tools": allowed}))
}

/// Reads `truncation`.
fn truncation(fields: &mut Fields) -> Result<&'static str, RequestError> {
    match fields.string("truncation")?.as_deref() {
        None | Some(DISABLED) => Ok(DISABLED),
        Some(AUTO) => Ok(AUTO),
        Some(other) => Err(out_of_range(
            fields.at("truncation"),
            "`auto` or `disabled`",
            &other.into(),
        )),
    }
}

/// Reads `text`, and gives what the response repeats of it.
fn text(
    fields: &mut Fields,
    chat: &mut Map<String, Value>,
    names: &mut FieldNames,
) -> Result<Value, RequestError> {
    let path = fields.at("text");
    let given = fields.object("text")?.unwrap_or_default();
    let mut given = Fields::new(given.into(), path)?;
    let verbosity = given.string("verbosity")?.unwrap_or("medium".into());
    let path = given.at("format");
    let Some(format) = given.object("format")? else {
        return Ok(json!({"format": {"type": "text"}, "verbosity": verbosity}));
    };
    let repeated = json!({"format": format.clone(), "verbosity": verbosity});
    let mut format = Fields::new(format.into(), path)?;
    let kind = format
        .string("type")?
        .ok_or_else(|| format.missing("type"))?;
    let wanted = match kind.as_str() {
        "text" | "json_object" => json!({"type": kind}),
        "json_schema" => {
            let mut schema = Map::new();
            let taken = ["name", "description", "schema", "strict"];
            dialect::take(&mut format, &mut schema, &taken);
            json!({"type": "json_schema", "json_schema": schema})
        }
        _ => {
            let bound = "`text`, `json_object` or `json_schema`";
            return Err(out_of_range(format.at("type"), bound, &kind.into()));
        }
    };
    names.add("response_format", "text.format");
    names.add("response_format.json_schema", "text.format");
    chat.insert("response_format".into(), wanted);
    Ok(repeated)
}

/// Reads `include` and `top_logprobs`, and gives the latter.
fn logprobs(fields: &mut Fields, chat: &mut Map<String, Value>) -> Result<u32, RequestError> {
    let top = fields.integer("top_logprobs", 0..=i64::from(MAX_TOP_LOGPROBS))?;
    let top: u32 = top.unwrap_or(0);
    for (index, name) in fields
        .array("include")?
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let field = format!("include[{index}]");
        match name.as_str() {
            Some(LOGPROBS) => {
                chat.insert("logprobs".into(), true.into());
                chat.insert("top_logprobs".into(), top.into());
            }
            Some(known) if INCLUDABLE.contains(&known) => {}
            Some(_) => {
                let bound = format!("one of `{}`", INCLUDABLE.join("`, `"));
                return Err(out_of_range(field, bound, name));
            }
            None => return Err(wrong_type(field, "a string", name)),
        }
    }
    Ok(top)
}

/// The body of `POST /v1/responses`.
///
/// Unknown fields are ignored. `reasoning`, `service_tier`, `prompt_cache_key`, `max_tool_calls` and
/// `text.verbosity` are accepted and have no effect. Also taken, with chat's meaning: `top_k`,
/// `seed`, `min_p`, `repetition_penalty`, `frequency_penalty`, `presence_penalty`, `cache_salt`,
/// `priority` and `chat_template_kwargs`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ResponsesRequest {
    /// Name of a served model, as `GET /v1/models` lists it.
    pub model: String,
    /// What the user says, or items: messages with parts of types `input_text`, `input_image` (its
    /// `image_url` a string) and `output_text`, `function_call`, `function_call_output`, and
    /// `item_reference` with the `id` of an item of a kept response. `reasoning` is skipped.
    #[schema(value_type = Object)]
    pub input: Value,
    /// What stands before the conversation.
    pub instructions: Option<String>,
    /// Most tokens of the answer. Default: what the context has left.
    #[schema(minimum = 1)]
    pub max_output_tokens: Option<u32>,
    /// 0 always takes the most probable token. Default: the model's.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    /// Draws from the smallest set of tokens whose probabilities reach this sum.
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// What the answer must be.
    pub text: Option<TextConfig>,
    /// Functions that the model may call: `{"type": "function", "name", "description",
    /// "parameters"}`.
    #[schema(value_type = Option<Vec<Object>>, max_items = 128)]
    pub tools: Option<Vec<Value>>,
    /// `none`, `auto`, `required`, `{"type": "function", "name"}`, or `{"type": "allowed_tools",
    /// "mode", "tools"}` with `mode` `auto` or `required`.
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<Value>,
    /// Whether the answer may have several calls. Default true.
    pub parallel_tool_calls: Option<bool>,
    /// A kept response with whose input and output the conversation begins. Its `instructions` are
    /// not taken over.
    pub previous_response_id: Option<String>,
    /// Whether the response is kept for a while. Default true.
    pub store: Option<bool>,
    /// Answers at once, and goes on without anybody waiting: the response is asked for by its id.
    /// Default false.
    pub background: Option<bool>,
    /// Sends the response as server-sent events while it is written. Default false.
    pub stream: Option<bool>,
    /// `message.output_text.logprobs` reports log probabilities; other names of OpenAI's have no
    /// effect.
    pub include: Option<Vec<String>>,
    /// Most probable alternatives per token, with log probabilities.
    #[schema(maximum = 20)]
    pub top_logprobs: Option<u32>,
    /// Notes of the client: at most 16, with keys of at most 64 characters and strings of at most
    /// 512.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// `disabled`: what is too long is refused. `auto`: it loses its beginning, up to one of the
    /// user's messages, but never the last of them, `instructions` or what who runs the
    /// conversation says. Default `disabled`.
    pub truncation: Option<String>,
    /// Who asks, for the client's own records.
    pub user: Option<String>,
}

/// What the answer must be.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = ResponseTextConfig)]
pub struct TextConfig {
    /// `{"type": "text"}`, `{"type": "json_object"}` or `{"type": "json_schema", "name",
    /// "schema"}`.
    #[schema(value_type = Option<Object>)]
    pub format: Option<Value>,
}
