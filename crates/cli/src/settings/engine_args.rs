//! Arguments of vLLM, which NIM containers take after `nim-serve` and in `NIM_PASSTHROUGH_ARGS`.
//!
//! Most that mean something here have the same name. Those that mean nothing here are let pass and
//! reported: they tune an engine that is another one. Names and forms are those of vLLM's
//! `vllm/engine/arg_utils.py` and `vllm/entrypoints/openai/cli_args.py`.

use anyhow::{Result, anyhow, bail};
use clap::{Arg, Command};
use serde_json::Value;

use super::values;

/// Arguments of an engine, told apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EngineArguments {
    /// Those that set something.
    pub(super) given: Vec<Given>,
    /// The words of the others.
    pub(crate) unknown: Vec<String>,
}

/// One that sets something.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Given {
    /// Id of our argument.
    pub(super) argument: String,
    /// Its flag, without dashes.
    long: String,
    pub(super) values: Vec<String>,
    /// As it was written.
    pub(super) said: String,
    switch: bool,
}

/// A flag of vLLM that is called otherwise here, and what becomes of its value.
const RENAMED: &[(&str, &str, Reader)] = &[
    (
        "enable-prefix-caching",
        "no_prefix_cache",
        Reader::Fixed("false"),
    ),
    (
        "no-enable-prefix-caching",
        "no_prefix_cache",
        Reader::Fixed("true"),
    ),
    ("limit-mm-per-prompt", "max_images", Reader::Value(images)),
    (
        "allowed-origins",
        "cors_allow_origins",
        Reader::Value(values::list),
    ),
    (
        "allowed-methods",
        "cors_allow_methods",
        Reader::Value(values::list),
    ),
    (
        "allowed-headers",
        "cors_allow_headers",
        Reader::Value(values::list),
    ),
    (
        "allow-credentials",
        "cors_allow_credentials",
        Reader::Fixed("true"),
    ),
    (
        "uvicorn-log-level",
        "log_level",
        Reader::Value(values::log_level),
    ),
    ("dtype", "dtype", Reader::Value(dtype)),
];

#[derive(Clone, Copy)]
enum Reader {
    /// A switch, with what it sets.
    Fixed(&'static str),
    Value(fn(&str) -> values::Read),
}

impl EngineArguments {
    /// Tells `words` apart by the arguments of `serve`.
    ///
    /// # Errors
    /// When a value is missing, or none of those that an argument can have.
    pub(crate) fn read(words: &[String], serve: &Command) -> Result<Self> {
        let mut found = Self::default();
        let mut rest = words;
        while let [word, after @ ..] = rest {
            let values = after.iter().take_while(|word| !is_flag(word)).count();
            let (following, later) = after.split_at(values);
            rest = later;
            match word.strip_prefix("--") {
                Some(flag) if !flag.is_empty() => found.flag(word, flag, following, serve)?,
                _ => found.pass(word, following),
            }
        }
        Ok(found)
    }

    fn flag(
        &mut self,
        word: &str,
        flag: &str,
        following: &[String],
        serve: &Command,
    ) -> Result<()> {
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let name = name.replace('_', "-");
        let given: Vec<String> = inline
            .into_iter()
            .chain(following.iter().cloned())
            .collect();
        let said = [&[word.to_owned()], following].concat().join(" ");
        let renamed = RENAMED.iter().find(|(theirs, ..)| *theirs == name);
        let arg = match renamed {
            Some((_, id, _)) => serve.get_arguments().find(|arg| arg.get_id() == id),
            None => serve.get_arguments().find(|arg| answers_to(arg, &name)),
        };
        let Some((arg, long)) = arg.and_then(|arg| Some((arg, arg.get_long()?))) else {
            self.pass(word, following);
            return Ok(());
        };
        let switch = !arg.get_action().takes_values();
        let values = match renamed {
            Some((_, _, Reader::Fixed(value))) => vec![(*value).to_owned()],
            Some((_, _, Reader::Value(read))) => {
                let text = given.join(",");
                match read(&text).map_err(|fault| anyhow!("`{said}`: {fault}"))? {
                    Some(values) => values,
                    None => return Ok(()),
                }
            }
            None if switch => vec![given.first().map_or("true", String::as_str).to_owned()],
            None => given,
        };
        if values.is_empty() {
            bail!("`{said}` needs a value");
        }
        if values.len() > 1 && arg.get_value_delimiter().is_none() {
            bail!("`{said}` takes one value, not {}", values.len());
        }
        self.given.push(Given {
            argument: arg.get_id().to_string(),
            long: long.to_owned(),
            values,
            said,
            switch,
        });
        Ok(())
    }

    fn pass(&mut self, word: &str, following: &[String]) {
        self.unknown.push(word.to_owned());
        self.unknown.extend_from_slice(following);
    }

    /// What sets something, as a command line of ours. Of switches only those that are on can be
    /// said there.
    pub(crate) fn command_line(&self) -> impl Iterator<Item = String> {
        self.given.iter().filter_map(|given| {
            let value = given.values.join(",");
            match given.switch {
                true => (value == "true").then(|| format!("--{}", given.long)),
                false => Some(format!("--{}={value}", given.long)),
            }
        })
    }
}

/// Whether a word begins an argument, and is not the value of one: -1 is a value.
fn is_flag(word: &str) -> bool {
    word.strip_prefix('-')
        .is_some_and(|rest| rest.starts_with(|c: char| c == '-' || c.is_ascii_alphabetic()))
}

fn answers_to(arg: &Arg, name: &str) -> bool {
    arg.get_long() == Some(name)
        || arg
            .get_all_aliases()
            .is_some_and(|aliases| aliases.contains(&name))
}

/// `--limit-mm-per-prompt`, as JSON or as `image=4,video=1`.
fn images(text: &str) -> values::Read {
    let fault = || "expected `{\"image\": NUMBER}` or `image=NUMBER`".to_owned();
    let count = if text.trim_start().starts_with('{') {
        let limits: Value = serde_json::from_str(text).map_err(|_| fault())?;
        match limits.get("image") {
            None => return Ok(None),
            Some(Value::Object(options)) => options.get("count").and_then(Value::as_u64),
            Some(count) => count.as_u64(),
        }
    } else {
        let of_images = text
            .split(',')
            .find_map(|limit| limit.trim().strip_prefix("image="));
        match of_images {
            None if text.contains('=') => return Ok(None),
            count => count.and_then(|count| count.parse().ok()),
        }
    };
    Ok(Some(vec![count.ok_or_else(fault)?.to_string()]))
}

fn dtype(text: &str) -> values::Read {
    let ours = match text {
        "bfloat16" => "bf16",
        "float16" | "half" => "f16",
        "float32" | "float" => "f32",
        other => other,
    };
    values::plain(ours)
}
