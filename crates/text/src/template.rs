//! Chat templates: Jinja as Hugging Face's transformers runs it.
//!
//! The reference is `transformers/utils/chat_template_utils.py`: jinja2's immutable sandbox with
//! `trim_blocks`, `lstrip_blocks`, loop controls, the functions `raise_exception` and
//! `strftime_now`, a `tojson` filter with Python's spelling, and a `generation` tag that marks
//! assistant text for training and does nothing else.
//!
//! Templates come with the model and are trusted to be what the model was trained with, not to be
//! cheap; conversations are not trusted at all. Work and output are bounded by [`TemplateLimits`].

mod files;
mod generation;
mod json;
mod python;

use std::collections::BTreeMap;
use std::io;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde_json::Map;
use time::OffsetDateTime;
use time::format_description::parse_strftime_borrowed;

pub use self::files::{SpecialTokens, TemplateFiles};
use crate::error::TextError;
use crate::shield::remove;
use crate::tools::ToolFamily;

const NAME: &str = "chat_template";

/// Variables that the server sets and a client cannot.
const RESERVED: [&str; 4] = [
    "messages",
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
];

/// Bounds on one rendering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemplateLimits {
    /// Work, in template instructions and units of 64 bytes processed.
    pub fuel: u64,
    /// Length of the rendered prompt in bytes.
    pub output_bytes: usize,
}

impl Default for TemplateLimits {
    /// Ten million instructions (about a second; long conversations take tens of thousands) and
    /// 16 MiB (more text than any served model's context holds).
    fn default() -> Self {
        Self {
            fuel: 10_000_000,
            output_bytes: 16 << 20,
        }
    }
}

/// A model's chat template, compiled.
///
/// Differences from jinja2 that templates could notice: `~` and `join` spell `true`, `false` and
/// `none` in lower case where Python capitalises them (`{{ ... }}`, `string` and `tojson` follow
/// Python); `range` is limited to 100,000 items.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    specials: BTreeMap<String, String>,
    tool_family: Option<ToolFamily>,
    limits: TemplateLimits,
}

impl ChatTemplate {
    /// Compiles `source`. The template sees `specials` as `bos_token`, `eos_token` and so on.
    ///
    /// # Errors
    /// [`TextError::InvalidTemplate`] with the place of the mistake.
    pub fn compile(source: &str, specials: &SpecialTokens) -> Result<Self, TextError> {
        Self::compile_with(source, specials, TemplateLimits::default(), SystemTime::now)
    }

    /// [`compile`](Self::compile) with limits, and with the clock that `strftime_now` reads. Dates
    /// are in UTC.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn compile_with(
        source: &str,
        specials: &SpecialTokens,
        limits: TemplateLimits,
        clock: fn() -> SystemTime,
    ) -> Result<Self, TextError> {
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .keep_trailing_newline(false)
                .build()
                .map_err(|error| TextError::InvalidTemplate(describe(&error)))?,
        );
        // Like jinja2's default: undefined prints as nothing, its attributes are errors.
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(python::write);
        environment.set_fuel(Some(limits.fuel));
        environment.add_filter("string", python::string);
        environment.add_filter("tojson", json::to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", move |format: &str| {
            strftime(clock(), format)
        });
        environment
            .add_template_owned(NAME, generation::without_tags(source))
            .map_err(|error| TextError::InvalidTemplate(describe(&error)))?;
        Ok(Self {
            environment,
            specials: specials.variables(),
            tool_family: ToolFamily::of_template(source),
            limits,
        })
    }

    /// The form in which the model calls tools, if its template carries them.
    #[must_use]
    pub fn tool_family(&self) -> Option<ToolFamily> {
        self.tool_family
    }

    /// The prompt text for `messages`, an array of `{"role": ..., "content": ...}` objects.
    ///
    /// `kwargs` become variables of the template (`date_string`, `enable_thinking`, `tools`,
    /// `documents`, ...); the last two are `none` where they are not given. Strings of clients, in
    /// both, must be [shielded](crate::Tokenizer::shield) by the caller.
    ///
    /// # Errors
    /// - [`TextError::ReservedKwarg`] where `kwargs` would override the conversation, the
    ///   generation prompt, the template or a special token,
    /// - [`TextError::Refused`] with the template's own words where it calls `raise_exception`,
    /// - [`TextError::OutOfFuel`] and [`TextError::OutputTooLong`] at the limits,
    /// - [`TextError::Render`] for everything else, usually a message without a field that the
    ///   template needs.
    pub fn render(
        &self,
        messages: &serde_json::Value,
        kwargs: &Map<String, serde_json::Value>,
        add_generation_prompt: bool,
    ) -> Result<String, TextError> {
        let mut variables: BTreeMap<String, Value> = self
            .specials
            .iter()
            .map(|(name, token)| (name.clone(), Value::from(token.as_str())))
            .collect();
        variables.insert("messages".into(), Value::from(Serde(messages)));
        variables.insert("add_generation_prompt".into(), add_generation_prompt.into());
        for name in ["tools", "documents"] {
            variables.insert(name.into(), Value::from(()));
        }
        for (name, value) in kwargs {
            let is_special = name.ends_with("_token") || name.ends_with("_tokens");
            if RESERVED.contains(&name.as_str()) || is_special {
                return Err(TextError::ReservedKwarg(remove(name).into_owned()));
            }
            variables.insert(name.clone(), Value::from(Serde(value)));
        }

        let mut output = Bounded {
            bytes: Vec::new(),
            limit: self.limits.output_bytes,
            full: false,
        };
        let result = self.environment.get_template(NAME).and_then(|template| {
            template
                .render_captured_to(Value::from(variables), &mut output)
                .map(|_| ())
        });
        match result {
            Ok(()) => String::from_utf8(output.bytes)
                .map_err(|_| TextError::Render("the output is not UTF-8".into())),
            Err(_) if output.full => Err(TextError::OutputTooLong {
                limit: self.limits.output_bytes,
            }),
            Err(error) => Err(self.classify(&error)),
        }
    }

    fn classify(&self, error: &Error) -> TextError {
        if let Some(Refusal(message)) = cause(error) {
            TextError::Refused(remove(message).into_owned())
        } else if error.kind() == ErrorKind::OutOfFuel {
            TextError::OutOfFuel {
                fuel: self.limits.fuel,
            }
        } else {
            TextError::Render(remove(&describe(error)).into_owned())
        }
    }
}

/// What the template said when it called `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned())
        .with_source(Refusal(message.to_owned())))
}

/// The refusal behind `error`, which macros and blocks may have wrapped.
fn cause(error: &Error) -> Option<&Refusal> {
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        if let Some(refusal) = source.downcast_ref() {
            return Some(refusal);
        }
        next = source.source();
    }
    None
}

/// One line, with the line of the template but without its text.
fn describe(error: &Error) -> String {
    let detail = error
        .detail()
        .map_or_else(String::new, |d| format!(": {d}"));
    let line = error.line().map_or_else(String::new, |line| {
        format!(" (line {line} of the template)")
    });
    format!("{}{detail}{line}", error.kind())
}

/// Python's `datetime.strftime` in UTC.
fn strftime(now: SystemTime, format: &str) -> Result<String, Error> {
    let invalid = |error: &dyn std::fmt::Display| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now({format:?}): {error}"),
        )
    };
    let items = parse_strftime_borrowed(format).map_err(|error| invalid(&error))?;
    OffsetDateTime::from(now)
        .format(&items)
        .map_err(|error| invalid(&error))
}

/// Collects output up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit.saturating_sub(self.bytes.len()) {
            self.full = true;
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
