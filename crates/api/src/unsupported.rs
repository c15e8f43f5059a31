//! Fields that are known and not implemented.
//!
//! Each would change the answer, so a request that sets one is refused by name. The value that
//! changes nothing passes: many clients send every field they know with its default.

use serde_json::Value;

use crate::RequestError;
use crate::reader::{Fields, show};

/// A field that is accepted only with a value that changes nothing. `null` always passes.
#[derive(Debug, Clone, Copy)]
pub struct Unsupported {
    /// The field's name.
    pub name: &'static str,
    /// What it may be set to, in words.
    pub neutral: &'static str,
    is_neutral: fn(&Value) -> bool,
}

pub(crate) const fn field(
    name: &'static str,
    neutral: &'static str,
    is_neutral: fn(&Value) -> bool,
) -> Unsupported {
    Unsupported {
        name,
        neutral,
        is_neutral,
    }
}

pub(crate) const fn null_only(name: &'static str) -> Unsupported {
    field(name, "null", |_| false)
}

pub(crate) const fn empty(name: &'static str) -> Unsupported {
    field(name, "an empty value", is_empty)
}

pub(crate) const fn off(name: &'static str) -> Unsupported {
    field(name, "false", |value| *value == Value::Bool(false))
}

const fn on(name: &'static str) -> Unsupported {
    field(name, "true", |value| *value == Value::Bool(true))
}

/// Fields of the request itself.
pub const UNSUPPORTED: &[Unsupported] = &[
    off("add_special_tokens"),
    null_only("audio"),
    null_only("chat_template"),
    empty("documents"),
    null_only("image"),
    null_only("kv_transfer_params"),
    empty("logits_processors"),
    field(
        "media_io_kwargs",
        "an object about `video` and `audio`",
        is_about_videos,
    ),
    field("media_response_type", "`none`", |value| value == "none"),
    field(
        "mm_processor_kwargs",
        "an object about videos (`fps`, `do_sample_frames`)",
        samples_videos,
    ),
    field("modalities", "[\"text\"]", is_text_only),
    off("return_token_ids"),
    off("return_tokens_as_token_ids"),
    on("spaces_between_special_tokens"),
    null_only("truncate_prompt_tokens"),
    null_only("vllm_xargs"),
    null_only("web_search_options"),
];

/// Fields of a text completion, beside [`UNSUPPORTED`].
pub const UNSUPPORTED_IN_COMPLETIONS: &[Unsupported] =
    &[null_only("prompt_embeds"), empty("suffix")];

/// Fields of a message.
pub(crate) const MESSAGE_FIELDS: &[Unsupported] = &[null_only("audio")];

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// There are no videos here, so settings of theirs change nothing.
fn is_about_videos(value: &Value) -> bool {
    has_only(value, &["video", "audio"])
}

fn samples_videos(value: &Value) -> bool {
    has_only(value, &["do_sample_frames", "fps", "num_frames"])
}

fn has_only(value: &Value, names: &[&str]) -> bool {
    value
        .as_object()
        .is_some_and(|fields| fields.keys().all(|name| names.contains(&name.as_str())))
}

fn is_text_only(value: &Value) -> bool {
    value
        .as_array()
        .is_some_and(|items| items.iter().all(|item| item == "text"))
}

/// Refuses the first field of `table` that is set to something that matters.
pub(crate) fn check(fields: &Fields, table: &[Unsupported]) -> Result<(), RequestError> {
    for entry in table {
        if let Some(value) = fields.peek(entry.name)
            && !(entry.is_neutral)(value)
        {
            return Err(RequestError::Unsupported {
                field: fields.at(entry.name),
                neutral: entry.neutral,
                value: show(value),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn verdict(name: &str, value: Value) -> Result<(), RequestError> {
        let object = serde_json::Map::from_iter([(name.to_owned(), value)]);
        let fields = Fields::new(Value::Object(object), String::new()).unwrap();
        check(&fields, UNSUPPORTED)
    }

    #[test]
    fn defaults_that_clients_send_pass() {
        for (name, value) in [
            ("logits_processors", json!([])),
            ("media_response_type", json!("none")),
            ("modalities", json!(["text"])),
            ("chat_template", json!(null)),
            ("documents", json!([])),
            ("mm_processor_kwargs", json!({})),
            ("mm_processor_kwargs", json!({"fps": 4})),
            ("media_io_kwargs", json!({"video": {"fps": 4.0}})),
        ] {
            assert_eq!(verdict(name, value), Ok(()), "{name}");
        }
    }

    #[test]
    fn every_field_is_refused_by_name_when_it_matters() {
        for entry in UNSUPPORTED {
            let error = verdict(entry.name, json!({"type": "x"})).unwrap_err();
            assert_eq!(error.param(), Some(entry.name));
            assert_eq!(error.code(), "unsupported_parameter");
        }
    }

    #[test]
    fn the_table_is_sorted_and_without_repeats() {
        assert!(
            UNSUPPORTED
                .windows(2)
                .all(|pair| pair[0].name < pair[1].name)
        );
    }
}
