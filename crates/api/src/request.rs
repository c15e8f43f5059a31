//! The body of `POST /v1/chat/completions`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::nvext::NvExt;
use crate::reader::{Bounds, Fields, number, out_of_range};
use crate::stops::{self, StopSequences};
use crate::structured::{self, Constraint, Guided, ResponseFormat, StructuredOutputs};
use crate::tools::{self, FunctionFields, ToolFields};
use crate::unsupported::{self, UNSUPPORTED};
use crate::{
    Function, FunctionChoice, Message, RequestError, Role, Tool, ToolChoice, ToolMode, validate,
    vocabulary,
};

/// Most answers to one request. NIM documents 128; each takes a place in the batch.
pub const MAX_CHOICES: u32 = 16;
/// Most messages of a conversation.
pub const MAX_MESSAGES: usize = 4096;
/// Most entries of `logit_bias`.
pub const MAX_LOGIT_BIAS: usize = 1024;
/// Most alternatives per token in `top_logprobs`, as at OpenAI.
pub const MAX_TOP_LOGPROBS: u32 = 20;

/// Largest `priority`, and its smallest with a minus.
pub(crate) const MAX_PRIORITY: i64 = 1000;

/// Longest run of tokens in `no_repeat_ngram_size`. Each token looks through all before it.
pub const MAX_NO_REPEAT_NGRAM: i64 = 64;

/// Largest count of tokens that is read at all; the context length is the real bound.
pub(crate) const MAX_COUNT: i64 = u32::MAX as i64;

/// A conversation to be continued, and how.
///
/// Unknown fields are ignored. Fields of OpenAI, NIM and vLLM that would change the answer and
/// are not implemented are accepted with a neutral value and refused otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct ChatRequest {
    /// Name of a served model, as `GET /v1/models` lists it.
    pub model: String,
    /// The conversation, oldest first; at least one message.
    #[schema(min_items = 1)]
    pub messages: Vec<Message>,
    /// Most tokens of an answer. Default: what the context has left.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_tokens: Option<u32>,
    /// Newer name of `max_tokens`; wins if both are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<u32>,
    /// Tokens before which nothing but `max_tokens` ends an answer. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_tokens: Option<u32>,
    /// 0 always takes the most probable token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    /// Draws from the smallest set of tokens whose probabilities reach this sum.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Draws from this many of the most probable tokens; -1 and 0 mean all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// Drops tokens less probable than this share of the most probable one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f32>,
    /// Draws from the tokens whose information is closest to the expected one, the fewest whose
    /// probabilities reach this sum; 1 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub typical_p: Option<f32>,
    /// Answers to give. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 16)]
    pub n: Option<u32>,
    /// Gives the `n` most probable answers that a search with `best_of` beams finds, best first,
    /// as transformers' `num_beams` does. Settings of sampling have no effect then. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_beam_search: Option<bool>,
    /// Beams of the search, at least `n`. Default `n`. Without a search only `n` itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 16)]
    pub best_of: Option<u32>,
    /// Power of an answer's length by which the search divides its log probability. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -10, maximum = 10)]
    pub length_penalty: Option<f32>,
    /// Ends the search as soon as there are `best_of` answers. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<bool>,
    /// Texts that end an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopSequences>,
    /// Tokens that end an answer, beside the model's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub stop_token_ids: Vec<u32>,
    /// Whether the text that ended an answer is part of it. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_stop_str_in_output: Option<bool>,
    /// Goes on after the model's own end-of-answer tokens. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_eos: Option<bool>,
    /// Leaves the model's control tokens out of the text. Default true. With false, a model that
    /// points at what it names answers in its own markup, and without `entities`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_special_tokens: Option<bool>,
    /// The same seed and request give the same answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Lowers tokens by how often the answer has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f32>,
    /// Lowers tokens that the answer has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f32>,
    /// Lowers tokens that prompt or answer have; 1 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0, maximum = 2)]
    pub repetition_penalty: Option<f32>,
    /// No run of this many tokens comes twice, prompt and answer taken together; 0 is off.
    /// Default: what the model's own settings say.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 64)]
    pub no_repeat_ngram_size: Option<u32>,
    /// Token id to a value from -100 to 100 that is added to its logit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    pub logit_bias: BTreeMap<u32, f32>,
    /// Texts that the answer must not have, each as its tokens spell it at the beginning of a
    /// text and behind a blank.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false, max_items = 128)]
    pub bad_words: Vec<String>,
    /// The only tokens that the answer may have. The model's own end of an answer has to be among
    /// them for the answer to end by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1)]
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Reports the log probability of each token. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<bool>,
    /// Most probable alternatives to report per token. Default 1 where `logprobs` is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 20)]
    pub top_logprobs: Option<u32>,
    /// Reports the log probabilities of the prompt's tokens, with this many of the most probable
    /// at each place. Not with `stream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 20)]
    pub prompt_logprobs: Option<u32>,
    /// Smaller is served earlier; 0 is ordinary. Ten seconds of waiting count as one step of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1000, maximum = 1000)]
    pub priority: Option<i32>,
    /// Tells in `usage` where the request's time went. vlmd's own. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_timings: Option<bool>,
    /// Sends the answer as server-sent events while it is written. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// What a stream carries beside text. Only with `stream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// Sets the request apart from others with another salt, or with none: nothing that is
    /// remembered of the ones, of their pictures or names for them, serves the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_salt: Option<String>,
    /// Functions that the model may call, for models whose chat template carries them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false, max_items = 128)]
    pub tools: Vec<Tool>,
    /// Whether they are called, and which. Default `auto`. Only with `tools`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice>,
    /// Whether an answer may have several calls. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// Older name for `tools`. The answer has its call in `function_call` then, and never more
    /// than one. Not beside `tools`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false, max_items = 128)]
    pub functions: Vec<Function>,
    /// Older name for `tool_choice`: `none`, `auto` or `{"name": ...}`. Only with `functions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionChoice>,
    /// Whether the prompt ends with what the template writes in front of an answer. Default true,
    /// and false with `continue_final_message`, beside which it must not be true. Models without a
    /// template of turns refuse false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_generation_prompt: Option<bool>,
    /// Ends the prompt with the text of the last message, which the answer continues and does not
    /// repeat. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continue_final_message: Option<bool>,
    /// Begins the answer with the text of the last message, where that is an assistant's. Default
    /// false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo: Option<bool>,
    /// Variables for the model's chat template, such as `enable_thinking`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[schema(required = false, value_type = Object)]
    pub chat_template_kwargs: Map<String, Value>,
    /// Whether the answer points at what it names, for models that can. Default true. Also
    /// accepted as `bounding_boxes`, its older name, and within `chat_template_kwargs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grounded_response: Option<bool>,
    /// What the answer must be. Default: any text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat>,
    /// What the answer must be, in vLLM's form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structured_outputs: Option<StructuredOutputs>,
    /// A JSON schema, as an object or as JSON in a string, that the answer follows. One of
    /// `response_format`, `structured_outputs` and these may be given. `guided_decoding_backend`
    /// has no effect, and `guided_whitespace_pattern` is refused beside `guided_json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    pub guided_json: Option<Value>,
    /// A regular expression that the answer matches as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guided_regex: Option<String>,
    /// Strings of which the answer is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guided_choice: Option<Vec<String>>,
    /// A grammar that the answer follows, in Lark's syntax or in GBNF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guided_grammar: Option<String>,
    /// Who asks, for the client's own records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// NIM's extensions; a field at the top level wins over the same one in here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvext: Option<NvExt>,
}

/// What a stream carries beside text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct StreamOptions {
    /// Ends with a chunk without choices that carries the usage. Default true.
    #[schema(required = false)]
    pub include_usage: bool,
    /// With `include_usage`: every chunk carries the usage so far. Default false.
    #[schema(required = false)]
    pub continuous_usage_stats: bool,
}

impl ChatRequest {
    /// Reads and checks a request body.
    ///
    /// # Errors
    /// The first thing that is wrong with it; see [`RequestError`].
    pub fn from_slice(body: &[u8]) -> Result<Self, RequestError> {
        let value = serde_json::from_slice(body)
            .map_err(|error| RequestError::Syntax(error.to_string()))?;
        Self::from_value(value)
    }

    /// Reads and checks a request body that is parsed already.
    ///
    /// # Errors
    /// See [`Self::from_slice`].
    pub fn from_value(value: Value) -> Result<Self, RequestError> {
        Self::read(Fields::new(value, String::new())?, |fields| {
            let model = fields.string("model")?;
            Ok((
                model.ok_or_else(|| fields.missing("model"))?,
                read_messages(fields)?,
            ))
        })
    }

    /// Reads and checks a body of which `about` takes the model's name and the conversation.
    pub(crate) fn read(
        mut fields: Fields,
        about: impl FnOnce(&mut Fields) -> Result<(String, Vec<Message>), RequestError>,
    ) -> Result<Self, RequestError> {
        let guided = Guided::read(&mut fields)?;
        let about_functions = FunctionFields::read(&mut fields)?;
        let about_tools = match &about_functions {
            None => ToolFields::read(&mut fields)?,
            Some(functions) => functions.as_tools(),
        };
        let about_functions = about_functions.unwrap_or_default();
        let (model, messages) = about(&mut fields)?;
        let request = Self {
            model,
            messages,
            max_tokens: fields.integer("max_tokens", 1..=MAX_COUNT)?,
            max_completion_tokens: fields.integer("max_completion_tokens", 1..=MAX_COUNT)?,
            min_tokens: fields.integer("min_tokens", 0..=MAX_COUNT)?,
            temperature: fields.number("temperature", Bounds::Closed(0.0, 2.0))?,
            top_p: fields.number("top_p", Bounds::Above(0.0, 1.0))?,
            top_k: fields.integer("top_k", -1..=MAX_COUNT)?,
            min_p: fields.number("min_p", Bounds::Closed(0.0, 1.0))?,
            typical_p: fields.number("typical_p", Bounds::Above(0.0, 1.0))?,
            n: fields.integer("n", 1..=i64::from(MAX_CHOICES))?,
            use_beam_search: fields.boolean("use_beam_search")?,
            best_of: fields.integer("best_of", 1..=i64::from(MAX_CHOICES))?,
            length_penalty: fields.number("length_penalty", Bounds::Closed(-10.0, 10.0))?,
            early_stopping: fields.boolean("early_stopping")?,
            stop: stops::read(&mut fields)?,
            stop_token_ids: stops::token_ids(&mut fields)?,
            include_stop_str_in_output: fields.boolean("include_stop_str_in_output")?,
            ignore_eos: fields.boolean("ignore_eos")?,
            skip_special_tokens: fields.boolean("skip_special_tokens")?,
            seed: fields.integer("seed", i64::MIN..=i64::MAX)?,
            frequency_penalty: fields.number("frequency_penalty", Bounds::Closed(-2.0, 2.0))?,
            presence_penalty: fields.number("presence_penalty", Bounds::Closed(-2.0, 2.0))?,
            repetition_penalty: fields.number("repetition_penalty", Bounds::Above(0.0, 2.0))?,
            no_repeat_ngram_size: fields
                .integer("no_repeat_ngram_size", 0..=MAX_NO_REPEAT_NGRAM)?,
            logit_bias: read_logit_bias(&mut fields)?,
            bad_words: vocabulary::bad_words(&mut fields)?,
            allowed_token_ids: vocabulary::allowed_token_ids(&mut fields)?,
            logprobs: fields.boolean("logprobs")?,
            top_logprobs: fields.integer("top_logprobs", 0..=i64::from(MAX_TOP_LOGPROBS))?,
            prompt_logprobs: fields.integer("prompt_logprobs", 0..=i64::from(MAX_TOP_LOGPROBS))?,
            priority: fields.integer("priority", -MAX_PRIORITY..=MAX_PRIORITY)?,
            return_timings: fields.boolean("return_timings")?,
            stream: fields.boolean("stream")?,
            stream_options: StreamOptions::read(&mut fields)?,
            cache_salt: validate::cache_salt(&mut fields)?,
            tools: about_tools.tools,
            tool_choice: about_tools.choice,
            parallel_tool_calls: about_tools.parallel,
            functions: about_functions.functions,
            function_call: about_functions.choice,
            add_generation_prompt: fields.boolean("add_generation_prompt")?,
            continue_final_message: fields.boolean("continue_final_message")?,
            echo: fields.boolean("echo")?,
            chat_template_kwargs: validate::template_kwargs(&mut fields)?,
            grounded_response: read_grounded(&mut fields)?,
            response_format: ResponseFormat::read(&mut fields)?,
            structured_outputs: StructuredOutputs::read(&mut fields)?,
            guided_json: guided.json,
            guided_regex: guided.regex,
            guided_choice: guided.choice,
            guided_grammar: guided.grammar,
            user: fields.string("user")?,
            nvext: NvExt::read(&mut fields)?,
        };
        validate::inert_fields(&mut fields)?;
        unsupported::check(&fields, UNSUPPORTED)?;
        validate::relations(&request)?;
        validate::ending(&request)?;
        structured::only(request.constraints())?;
        tools::alone(&request)?;
        Ok(request)
    }

    /// What the answer must be, whichever field says so.
    #[must_use]
    pub fn constraint(&self) -> Option<Constraint> {
        self.constraints().into_iter().next()
    }

    /// All that is said of it; more than one thing is refused.
    fn constraints(&self) -> Vec<Constraint> {
        let top = Guided {
            json: self.guided_json.clone(),
            regex: self.guided_regex.clone(),
            choice: self.guided_choice.clone(),
            grammar: self.guided_grammar.clone(),
        };
        let ext = self.nvext.as_ref().map(|ext| Guided {
            json: ext.guided_json.clone(),
            regex: ext.guided_regex.clone(),
            choice: ext.guided_choice.clone(),
            grammar: ext.guided_grammar.clone(),
        });
        let mut found = Vec::new();
        found.extend(
            self.response_format
                .as_ref()
                .and_then(ResponseFormat::constraint),
        );
        if let Some(outputs) = &self.structured_outputs {
            found.extend(outputs.constraints());
        }
        found.extend(top.constraints(""));
        if let Some(ext) = ext {
            found.extend(ext.constraints("nvext."));
        }
        found
    }

    /// Most tokens of an answer, under either of its names.
    #[must_use]
    pub fn max_new_tokens(&self) -> Option<u32> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// Name under which [`Self::max_new_tokens`] was given, for error messages.
    #[must_use]
    pub fn max_new_tokens_field(&self) -> &'static str {
        match self.max_completion_tokens {
            Some(_) => "max_completion_tokens",
            None => "max_tokens",
        }
    }

    /// `top_k` of the top level or of `nvext`; `Some(None)` keeps all tokens.
    #[must_use]
    pub fn top_k(&self) -> Option<Option<u32>> {
        let given = self
            .top_k
            .or(self.nvext.as_ref().and_then(|ext| ext.top_k))?;
        Some(u32::try_from(given).ok().filter(|k| *k > 0))
    }

    /// The tools that the answer may call: none where `tool_choice` is `none`.
    #[must_use]
    pub fn usable_tools(&self) -> &[Tool] {
        match self.tool_choice {
            Some(ToolChoice::Mode(ToolMode::None)) => &[],
            _ => &self.tools,
        }
    }

    /// Whether the answer must be a call of [`Self::usable_tools`].
    #[must_use]
    pub fn must_call(&self) -> bool {
        matches!(
            self.tool_choice,
            Some(ToolChoice::Mode(ToolMode::Required) | ToolChoice::Function(_))
        ) || matches!(&self.tool_choice, Some(ToolChoice::Allowed(allowed))
            if allowed.allowed_tools.mode == ToolMode::Required)
    }

    /// Whether it speaks of functions, the older name for tools, as its answers then do.
    #[must_use]
    pub fn speaks_of_functions(&self) -> bool {
        !self.functions.is_empty()
    }

    /// Whether the answer continues the text of the last message.
    #[must_use]
    pub fn continues(&self) -> bool {
        self.continue_final_message.unwrap_or(false)
    }

    /// What the answer begins with by `echo`: the text of a last message that is an assistant's.
    #[must_use]
    pub fn echoed(&self) -> Option<String> {
        let last = self.messages.last().filter(|_| self.echo == Some(true))?;
        (last.role == Role::Assistant).then(|| last.content.text())
    }

    /// `repetition_penalty` of the top level or of `nvext`.
    #[must_use]
    pub fn repetition_penalty(&self) -> Option<f32> {
        self.repetition_penalty
            .or(self.nvext.as_ref().and_then(|ext| ext.repetition_penalty))
    }

    /// `ignore_eos` of the top level or of `nvext`.
    #[must_use]
    pub fn ignore_eos(&self) -> bool {
        self.ignore_eos
            .or(self.nvext.as_ref().and_then(|ext| ext.ignore_eos))
            .unwrap_or(false)
    }

    /// Alternatives to report per token, if log probabilities are wanted at all.
    #[must_use]
    pub fn wanted_logprobs(&self) -> Option<u32> {
        self.logprobs
            .unwrap_or(false)
            .then(|| self.top_logprobs.unwrap_or(1))
    }

    /// How urgent it is, smaller being more so, by its own word or by an agent's.
    #[must_use]
    pub fn priority(&self) -> i32 {
        let hinted = || self.nvext.as_ref().and_then(NvExt::priority);
        self.priority.or_else(hinted).unwrap_or(0)
    }

    /// The stop strings.
    #[must_use]
    pub fn stops(&self) -> &[String] {
        match &self.stop {
            None => &[],
            Some(StopSequences::One(stop)) => std::slice::from_ref(stop),
            Some(StopSequences::Many(stops)) => stops,
        }
    }
}

impl StreamOptions {
    fn read(fields: &mut Fields) -> Result<Option<Self>, RequestError> {
        let Some(value) = fields.take("stream_options") else {
            return Ok(None);
        };
        let mut fields = Fields::new(value, fields.at("stream_options"))?;
        Ok(Some(Self {
            include_usage: fields.boolean("include_usage")?.unwrap_or(true),
            continuous_usage_stats: fields.boolean("continuous_usage_stats")?.unwrap_or(false),
        }))
    }
}

/// Both names are checked; the newer wins.
fn read_grounded(fields: &mut Fields) -> Result<Option<bool>, RequestError> {
    let newer = fields.boolean("grounded_response")?;
    let older = fields.boolean("bounding_boxes")?;
    Ok(newer.or(older))
}

pub(crate) fn read_messages(fields: &mut Fields) -> Result<Vec<Message>, RequestError> {
    let messages = fields
        .array("messages")?
        .ok_or_else(|| fields.missing("messages"))?;
    if messages.is_empty() {
        return Err(RequestError::Value {
            field: fields.at("messages"),
            bound: "an array of at least one message".into(),
            value: "an empty array".into(),
        });
    }
    stops::at_most("messages", "messages", MAX_MESSAGES, messages.len())?;
    let mut messages = messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| Message::read(message, &format!("messages[{index}]")))
        .collect::<Result<Vec<_>, _>>()?;
    tools::name_calls(&mut messages);
    Ok(messages)
}

fn read_logit_bias(fields: &mut Fields) -> Result<BTreeMap<u32, f32>, RequestError> {
    let entries = fields.object("logit_bias")?.unwrap_or_default();
    stops::at_most("logit_bias", "tokens", MAX_LOGIT_BIAS, entries.len())?;
    entries
        .into_iter()
        .map(|(key, value)| {
            let token = key.trim().parse().map_err(|_| {
                out_of_range(
                    "logit_bias",
                    "an object whose keys are token ids",
                    &Value::from(key.as_str()),
                )
            })?;
            let field = format!("logit_bias.{token}");
            let bias = number(&field, &value, Bounds::Closed(-100.0, 100.0))?;
            Ok((token, bias))
        })
        .collect()
}
