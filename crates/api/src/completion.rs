//! The body of `POST /v1/completions`: plain texts, or their tokens, to be continued.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, OneOfBuilder, Schema};
use utoipa::openapi::{Ref, RefOr};

use crate::reader::{Fields, integer, wrong_type};
use crate::request::{MAX_CHOICES, MAX_COUNT, MAX_TOP_LOGPROBS};
use crate::unsupported::{self, UNSUPPORTED_IN_COMPLETIONS};
use crate::{ChatRequest, RequestError, validate};

/// Most prompts of one request.
pub const MAX_PROMPTS: usize = 64;
/// Most answers to all prompts of one request together, those that `best_of` drops included.
pub const MAX_COMPLETIONS: usize = 128;
/// Tokens of an answer whose request does not bound it, as at OpenAI and in vLLM.
pub const DEFAULT_MAX_TOKENS: u32 = 16;

/// Fields of [`ChatRequest`] that a text completion does not have, or has in another form.
pub const CHAT_FIELDS: [&str; 16] = [
    "add_generation_prompt",
    "best_of",
    "bounding_boxes",
    "chat_template_kwargs",
    "continue_final_message",
    "echo",
    "function_call",
    "functions",
    "grounded_response",
    "logprobs",
    "max_tokens",
    "messages",
    "parallel_tool_calls",
    "tool_choice",
    "tools",
    "top_logprobs",
];

/// Of [`CHAT_FIELDS`], those whose loss would change what is asked.
const CONVERSATION: [&str; 3] = ["functions", "messages", "tools"];

/// Texts to be continued, and how.
///
/// Takes the sampling fields of the chat route as well, with their bounds; `max_tokens` is 16
/// unless it says otherwise.
#[derive(Debug, Clone, PartialEq, ToSchema)]
pub struct CompletionRequest {
    /// A text, an array of texts, an array of token ids, or an array of such arrays; at most 64
    /// prompts. Texts are tokenised as they stand: no template, and control tokens that are
    /// written out are control tokens.
    #[schema(schema_with = prompt_schema)]
    pub prompt: Vec<TextPrompt>,
    /// Whether the tokenizer puts its own tokens around texts, such as one for the beginning.
    /// Default true.
    #[schema(required = false)]
    pub add_special_tokens: bool,
    /// Most tokens of an answer. 0 only with `echo`: the prompt comes back, and no more.
    #[schema(required = false, minimum = 0, default = 16)]
    pub max_tokens: u32,
    /// Repeats the prompt in front of its answers, and with `logprobs` tells those of its tokens,
    /// too; then only with one answer for each prompt. Default false.
    #[schema(required = false)]
    pub echo: bool,
    /// Reports the log probability of each token, with this many of the most probable at its
    /// place.
    #[schema(maximum = 20)]
    pub logprobs: Option<u32>,
    /// Answers to draw for each prompt, at least `n`, of which the `n` with the largest sum of
    /// log probabilities are given. Above `n` not with `stream`. With `use_beam_search`, beams.
    #[schema(minimum = 1, maximum = 16)]
    pub best_of: Option<u32>,
    /// Answers to give for each prompt.
    #[schema(required = false, minimum = 1, maximum = 16)]
    pub n: u32,
    /// How each prompt is answered: a chat request without messages, that asks for as many
    /// answers as are drawn and for the log probabilities by which the best are found.
    #[schema(ignore)]
    pub settings: ChatRequest,
    /// How many alternatives of a prompt's tokens the answer is to tell (`prompt_logprobs`); with
    /// `echo`, the settings may ask for more.
    #[schema(ignore)]
    pub prompt_logprobs: Option<u32>,
}

/// What is to be continued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TextPrompt {
    /// A text.
    Text(String),
    /// The ids of its tokens.
    Tokens(Vec<u32>),
}

impl CompletionRequest {
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
        let mut fields = Fields::new(value, String::new())?;
        for name in CONVERSATION {
            if fields.peek(name).is_some_and(|value| !is_empty(value)) {
                return Err(conflict(
                    name,
                    "belongs to `/v1/chat/completions`: here the question is `prompt`".into(),
                ));
            }
        }
        unsupported::check(&fields, UNSUPPORTED_IN_COMPLETIONS)?;
        let logprobs = fields.integer("logprobs", 0..=i64::from(MAX_TOP_LOGPROBS))?;
        // A search has beams, which it draws from no further.
        let searches = fields.peek("use_beam_search") == Some(&Value::Bool(true));
        let best_of = fields.integer("best_of", 1..=i64::from(MAX_CHOICES))?;
        let echo = fields.boolean("echo")?.unwrap_or(false);
        let least = i64::from(!echo);
        let max_tokens: Option<u32> = fields.integer("max_tokens", least..=MAX_COUNT)?;
        let add_special_tokens = fields.boolean("add_special_tokens")?.unwrap_or(true);
        for name in CHAT_FIELDS {
            fields.take(name);
        }
        let mut prompt = Vec::new();
        let mut settings = ChatRequest::read(fields, |fields| {
            let model = fields.string("model")?;
            let model = model.ok_or_else(|| fields.missing("model"))?;
            prompt = read_prompt(fields)?;
            Ok((model, Vec::new()))
        })?;
        // Of none, one is written and thrown away.
        settings.max_tokens = max_tokens.map(|most| most.max(1));
        settings.best_of = best_of.filter(|_| searches);
        settings.logprobs = logprobs.map(|_| true);
        settings.top_logprobs = logprobs;
        validate::relations(&settings)?;
        let n = settings.n.unwrap_or(1);
        let drawn = match best_of {
            Some(best_of) if !searches => best_of,
            _ => n,
        };
        check(&settings, prompt.len(), n, drawn)?;
        let prompt_logprobs = settings.prompt_logprobs;
        if let Some(count) = logprobs.filter(|_| echo) {
            if drawn > 1 {
                let field = if drawn > n { "best_of" } else { "n" };
                let problem = format!("must be 1 with `echo` and `logprobs`, got {drawn}");
                return Err(conflict(field, problem));
            }
            settings.prompt_logprobs = Some(count.max(prompt_logprobs.unwrap_or(0)));
        }
        if drawn > n {
            settings.n = Some(drawn);
            settings.logprobs = Some(true);
            settings.top_logprobs = Some(logprobs.unwrap_or(0));
        }
        Ok(Self {
            prompt,
            add_special_tokens,
            max_tokens: max_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
            echo,
            logprobs,
            n,
            best_of,
            settings,
            prompt_logprobs,
        })
    }
}

/// Checks fields against each other, as far as the chat route does not have them.
fn check(settings: &ChatRequest, prompts: usize, n: u32, drawn: u32) -> Result<(), RequestError> {
    if drawn < n {
        let problem = format!("must be at least `n`, which is {n}, got {drawn}");
        return Err(conflict("best_of", problem));
    }
    if drawn > n && settings.stream == Some(true) {
        let problem = "above `n` cannot be streamed: which answers are the best shows in the end";
        return Err(conflict("best_of", problem.into()));
    }
    let most_drawn = drawn.max(settings.best_of.unwrap_or(0));
    let answers = prompts.saturating_mul(most_drawn as usize);
    if answers > MAX_COMPLETIONS {
        let field = if most_drawn > n { "best_of" } else { "n" };
        let problem = format!(
            "times the number of prompts must be at most {MAX_COMPLETIONS}, got {most_drawn} times \
             {prompts}"
        );
        return Err(conflict(field, problem));
    }
    if let (Some(min), None) = (settings.min_tokens, settings.max_new_tokens())
        && min > DEFAULT_MAX_TOKENS
    {
        let problem =
            format!("must be at most `max_tokens`, which is {DEFAULT_MAX_TOKENS}, got {min}");
        return Err(conflict("min_tokens", problem));
    }
    Ok(())
}

fn conflict(field: &str, problem: String) -> RequestError {
    RequestError::Conflict {
        field: field.to_owned(),
        problem,
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

fn read_prompt(fields: &mut Fields) -> Result<Vec<TextPrompt>, RequestError> {
    const EXPECTED: &str = "a string, an array of strings, or an array of token ids or of such";
    let prompts = match fields.take("prompt") {
        None => return Err(fields.missing("prompt")),
        Some(Value::String(text)) => return Ok(vec![TextPrompt::Text(text)]),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong_type(fields.at("prompt"), EXPECTED, &other)),
    };
    if matches!(prompts.first(), Some(Value::Number(_))) {
        return Ok(vec![TextPrompt::Tokens(token_ids("prompt", &prompts)?)]);
    }
    if !(1..=MAX_PROMPTS).contains(&prompts.len()) {
        return Err(RequestError::Value {
            field: fields.at("prompt"),
            bound: format!("an array of 1 to {MAX_PROMPTS} prompts"),
            value: format!("an array of {}", prompts.len()),
        });
    }
    let prompt = |(index, prompt)| {
        let field = format!("prompt[{index}]");
        match prompt {
            Value::String(text) => Ok(TextPrompt::Text(text)),
            Value::Array(ids) => token_ids(&field, &ids).map(TextPrompt::Tokens),
            other => Err(wrong_type(
                field,
                "a string or an array of token ids",
                &other,
            )),
        }
    };
    prompts.into_iter().enumerate().map(prompt).collect()
}

/// Reads token ids. Whether the model has them is not known here, and the context bounds them.
pub(crate) fn token_ids(field: &str, ids: &[Value]) -> Result<Vec<u32>, RequestError> {
    if ids.is_empty() {
        return Err(RequestError::Value {
            field: field.to_owned(),
            bound: "an array of at least one token id".into(),
            value: "an empty array".into(),
        });
    }
    ids.iter()
        .enumerate()
        .map(|(index, id)| integer(&format!("{field}[{index}]"), id, 0..=MAX_COUNT))
        .collect()
}

fn prompt_schema() -> Schema {
    let one = || RefOr::Ref(Ref::from_schema_name("TextPrompt"));
    let several = ArrayBuilder::new()
        .items(one())
        .min_items(Some(1))
        .max_items(Some(MAX_PROMPTS));
    OneOfBuilder::new().item(one()).item(several).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(more: &Value) -> Result<CompletionRequest, RequestError> {
        let mut body = json!({"model": "m", "prompt": "x"});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        CompletionRequest::from_value(body)
    }

    #[test]
    fn prompts_come_in_four_forms() {
        let text = |text: &str| TextPrompt::Text(text.into());
        for (prompt, expected) in [
            (json!("a"), vec![text("a")]),
            (json!(""), vec![text("")]),
            (json!(["a", "b"]), vec![text("a"), text("b")]),
            (json!([1, 2.0]), vec![TextPrompt::Tokens(vec![1, 2])]),
            (
                json!([[1], [2, 3]]),
                vec![TextPrompt::Tokens(vec![1]), TextPrompt::Tokens(vec![2, 3])],
            ),
            (
                json!(["a", [3]]),
                vec![text("a"), TextPrompt::Tokens(vec![3])],
            ),
        ] {
            let request = read(&json!({ "prompt": prompt })).unwrap();
            assert_eq!(request.prompt, expected, "{prompt}");
        }
    }

    #[test]
    fn what_is_no_prompt_is_refused_by_its_place() {
        for (prompt, field) in [
            (json!(null), "prompt"),
            (json!(7), "prompt"),
            (json!({}), "prompt"),
            (json!([]), "prompt"),
            (json!([[]]), "prompt[0]"),
            (json!([1, "a"]), "prompt[1]"),
            (json!([1, -1]), "prompt[1]"),
            (json!([1, [2]]), "prompt[1]"),
            (json!(["a", 1]), "prompt[1]"),
            (json!([[1], [2, 1.5]]), "prompt[1][1]"),
            (json!([[u64::MAX]]), "prompt[0][0]"),
            (json!(["a", null]), "prompt[1]"),
            (json!(vec!["a"; MAX_PROMPTS + 1]), "prompt"),
        ] {
            let error = read(&json!({ "prompt": prompt })).unwrap_err();
            assert_eq!(error.param(), Some(field), "{prompt}: {error}");
        }
    }

    #[test]
    fn sampling_fields_are_those_of_the_chat_route() {
        let request = read(
            &json!({"temperature": 0.5, "stop": "z", "seed": 3, "top_k": 5,
            "nvext": {"ignore_eos": true}, "guided_regex": "a+", "n": 2}),
        )
        .unwrap();
        let settings = &request.settings;
        assert_eq!(settings.temperature, Some(0.5));
        assert_eq!(settings.stops(), ["z"]);
        assert!(settings.ignore_eos() && settings.messages.is_empty());
        assert_eq!((request.n, settings.n), (2, Some(2)));
        assert!(settings.constraint().is_some());
        for (more, field) in [
            (json!({"temperature": 3}), "temperature"),
            (json!({"suffix": "b"}), "suffix"),
            (json!({"echo": 1}), "echo"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"echo": true, "logprobs": 1, "n": 2}), "n"),
            (
                json!({"echo": true, "logprobs": 1, "best_of": 2}),
                "best_of",
            ),
            (json!({"functions": [{}]}), "functions"),
            (json!({"prompt_embeds": "b"}), "prompt_embeds"),
            (json!({"logprobs": 21}), "logprobs"),
            (json!({"logprobs": true}), "logprobs"),
            (json!({"messages": [{"role": "user"}]}), "messages"),
            (json!({"tools": [{}]}), "tools"),
            (json!({"min_tokens": 17}), "min_tokens"),
            (json!({"use_beam_search": true, "logprobs": 1}), "logprobs"),
            (
                json!({"stream": true, "prompt_logprobs": 1}),
                "prompt_logprobs",
            ),
        ] {
            let error = read(&more).unwrap_err();
            assert_eq!(error.param(), Some(field), "{more}: {error}");
        }
        for more in [
            json!({"suffix": null, "echo": false, "messages": null, "tools": []}),
            json!({"suffix": "", "tool_choice": "none", "top_logprobs": 3}),
            json!({"min_tokens": 17, "max_tokens": 20}),
            json!({"echo": true, "stream": true, "logprobs": 1, "max_tokens": 0}),
            json!({"echo": true, "n": 2}),
        ] {
            assert!(read(&more).is_ok(), "{more}");
        }
    }

    #[test]
    fn an_echo_asks_for_as_much_of_the_prompt_as_of_the_answer() {
        let request = read(&json!({"echo": true, "logprobs": 3, "prompt_logprobs": 1})).unwrap();
        assert_eq!(request.settings.prompt_logprobs, Some(3));
        assert_eq!(request.prompt_logprobs, Some(1));
        let request = read(&json!({"echo": true, "logprobs": 1, "max_tokens": 0})).unwrap();
        assert_eq!(request.prompt_logprobs, None);
        assert_eq!(
            (request.max_tokens, request.settings.max_tokens),
            (0, Some(1))
        );
        let request = read(&json!({"echo": true})).unwrap();
        assert_eq!(
            (request.max_tokens, request.settings.max_tokens),
            (16, None)
        );
        assert_eq!(request.settings.prompt_logprobs, None);
    }

    #[test]
    fn the_best_are_found_by_their_log_probabilities() {
        let request = read(&json!({"n": 2, "best_of": 5})).unwrap();
        assert_eq!((request.n, request.settings.n), (2, Some(5)));
        assert_eq!(request.logprobs, None);
        assert_eq!(request.settings.wanted_logprobs(), Some(0));
        let request = read(&json!({"best_of": 3, "logprobs": 4})).unwrap();
        assert_eq!(request.settings.wanted_logprobs(), Some(4));
        let search = read(&json!({"n": 2, "best_of": 3, "use_beam_search": true})).unwrap();
        assert_eq!(
            (search.settings.n, search.settings.best_of),
            (Some(2), Some(3))
        );
        for (more, field) in [
            (json!({"n": 3, "best_of": 2}), "best_of"),
            (
                json!({"n": 3, "best_of": 2, "use_beam_search": true}),
                "best_of",
            ),
            (json!({"best_of": 2, "stream": true}), "best_of"),
            (json!({"n": 3, "prompt": vec!["a"; 43]}), "n"),
            (json!({"best_of": 3, "prompt": vec!["a"; 43]}), "best_of"),
            (json!({"n": 17}), "n"),
            (json!({"best_of": 17}), "best_of"),
        ] {
            let error = read(&more).unwrap_err();
            assert_eq!(error.param(), Some(field), "{more}: {error}");
        }
        assert!(read(&json!({"n": 2, "prompt": vec!["a"; 64]})).is_ok());
    }
}
