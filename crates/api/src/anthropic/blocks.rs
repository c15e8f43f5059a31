//! Reading messages and their blocks.

use serde_json::Value;

use crate::RequestError;
use crate::dialect::{Called, Conversation, Shown};
use crate::reader::{Fields, out_of_range, wrong_type};

/// Reads the field `system`.
pub(super) fn system(fields: &mut Fields, talk: &mut Conversation) -> Result<(), RequestError> {
    let path = fields.at("system");
    let Some(system) = fields.take("system") else {
        return Ok(());
    };
    talk.begin("system", &path);
    for (block, mut fields) in blocks(system, &path)? {
        match block {
            Block::Text(text) => talk.say(text),
            Block::Other(kind) => return Err(unknown(&mut fields, kind, "`text`")),
        }
    }
    Ok(())
}

/// Reads the field `messages`.
pub(super) fn messages(fields: &mut Fields, talk: &mut Conversation) -> Result<(), RequestError> {
    let messages = fields
        .array("messages")?
        .ok_or_else(|| fields.missing("messages"))?;
    if messages.is_empty() {
        return Err(RequestError::Value {
            field: "messages".into(),
            bound: "an array of at least one message".into(),
            value: "an empty array".into(),
        });
    }
    for (index, message) in messages.into_iter().enumerate() {
        read_message(message, &format!("messages[{index}]"), talk)?;
    }
    if talk.ends_with_calls() {
        return Err(RequestError::Conflict {
            field: "messages".into(),
            problem: "must end with a message of role `user` where the assistant's last one calls \
                tools: it has their results"
                .into(),
        });
    }
    Ok(())
}

fn read_message(message: Value, path: &str, talk: &mut Conversation) -> Result<(), RequestError> {
    let mut fields = Fields::new(message, path.to_owned())?;
    let role = fields
        .string("role")?
        .ok_or_else(|| fields.missing("role"))?;
    let content = fields
        .take("content")
        .ok_or_else(|| fields.missing("content"))?;
    let content = blocks(content, &fields.at("content"))?;
    match role.as_str() {
        "user" => of_user(content, path, talk),
        "assistant" => of_assistant(content, path, talk),
        "system" => {
            talk.begin("system", path);
            for (block, mut fields) in content {
                match block {
                    Block::Text(text) => talk.say(text),
                    Block::Other(kind) => return Err(unknown(&mut fields, kind, "`text`")),
                }
            }
            Ok(())
        }
        _ => Err(out_of_range(
            fields.at("role"),
            "one of `user`, `assistant` or `system`",
            &role.into(),
        )),
    }
}

/// Results of tools come first, wherever they stand: they answer the message before.
fn of_user(
    content: Vec<(Block, Fields)>,
    path: &str,
    talk: &mut Conversation,
) -> Result<(), RequestError> {
    let is_result = |block: &Block| matches!(block, Block::Other(kind) if kind == "tool_result");
    let (results, said): (Vec<_>, Vec<_>) =
        content.into_iter().partition(|(block, _)| is_result(block));
    let has_results = !results.is_empty();
    for (_, fields) in results {
        result(fields, talk)?;
    }
    if said.is_empty() && has_results {
        return Ok(());
    }
    talk.begin("user", path);
    for (block, mut fields) in said {
        match block {
            Block::Text(text) => talk.say(text),
            Block::Other(kind) if kind == "image" => talk.show(picture(&mut fields)?),
            Block::Other(kind) => {
                let bound = "one of `text`, `image` or `tool_result`";
                return Err(unknown(&mut fields, kind, bound));
            }
        }
    }
    Ok(())
}

fn of_assistant(
    content: Vec<(Block, Fields)>,
    path: &str,
    talk: &mut Conversation,
) -> Result<(), RequestError> {
    talk.begin("assistant", path);
    for (block, mut fields) in content {
        match block {
            Block::Text(text) => talk.say(text),
            Block::Other(kind) => match kind.as_str() {
                "tool_use" => talk.call(call(fields)?),
                "thinking" | "redacted_thinking" => {}
                _ => {
                    let bound = "one of `text`, `tool_use`, `thinking` or `redacted_thinking`";
                    return Err(unknown(&mut fields, kind, bound));
                }
            },
        }
    }
    Ok(())
}

fn call(mut fields: Fields) -> Result<Called, RequestError> {
    let id = fields.string("id")?.ok_or_else(|| fields.missing("id"))?;
    let name = fields
        .string("name")?
        .ok_or_else(|| fields.missing("name"))?;
    let input = fields
        .object("input")?
        .ok_or_else(|| fields.missing("input"))?;
    Ok(Called {
        id: Some(id),
        name,
        arguments: input.into(),
        field: fields.path().to_owned(),
        arguments_name: "input",
    })
}

fn result(mut fields: Fields, talk: &mut Conversation) -> Result<(), RequestError> {
    let id = fields
        .string("tool_use_id")?
        .ok_or_else(|| fields.missing("tool_use_id"))?;
    fields.boolean("is_error")?;
    let (mut texts, mut shown) = (Vec::new(), Vec::new());
    let has_content = fields.take("content").filter(|content| {
        let blocks = content.as_array();
        blocks.is_none_or(|blocks| !blocks.is_empty())
    });
    if let Some(content) = has_content {
        for (block, mut fields) in blocks(content, &fields.at("content"))? {
            match block {
                Block::Text(text) => texts.push(text),
                Block::Other(kind) if kind == "image" => shown.push(picture(&mut fields)?),
                Block::Other(kind) => {
                    return Err(unknown(&mut fields, kind, "`text` or `image`"));
                }
            }
        }
    }
    talk.result(id, texts, shown, fields.path());
    Ok(())
}

/// Reads the `source` of a picture.
fn picture(fields: &mut Fields) -> Result<Shown, RequestError> {
    let path = fields.at("source");
    let source = fields
        .take("source")
        .ok_or_else(|| fields.missing("source"))?;
    let mut source = Fields::new(source, path)?;
    let kind = source
        .string("type")?
        .ok_or_else(|| source.missing("type"))?;
    let (url, name) = match kind.as_str() {
        "base64" => {
            let media_type = source
                .string("media_type")?
                .ok_or_else(|| source.missing("media_type"))?;
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"/+-.".contains(&byte);
            if !media_type.starts_with("image/") || !media_type.bytes().all(is_name) {
                return Err(out_of_range(
                    source.at("media_type"),
                    "the type of a picture, such as `image/png` or `image/jpeg`",
                    &media_type.into(),
                ));
            }
            let data = source
                .string("data")?
                .ok_or_else(|| source.missing("data"))?;
            (format!("data:{media_type};base64,{data}"), "data")
        }
        "url" => {
            let url = source.string("url")?.ok_or_else(|| source.missing("url"))?;
            (url, "url")
        }
        _ => {
            let bound = "`base64` or `url`";
            return Err(out_of_range(source.at("type"), bound, &kind.into()));
        }
    };
    Ok(Shown {
        url,
        detail: None,
        field: source.at(name),
        part: fields.path().to_owned(),
    })
}

/// A block: what it says, or its type.
enum Block {
    Text(String),
    Other(String),
}

/// Takes a content apart: a string is one block.
fn blocks(content: Value, path: &str) -> Result<Vec<(Block, Fields)>, RequestError> {
    match content {
        Value::String(text) => {
            let fields = Fields::new(Value::Object(Default::default()), path.to_owned())?;
            Ok(vec![(Block::Text(text), fields)])
        }
        Value::Array(blocks) if blocks.is_empty() => Err(RequestError::Value {
            field: path.to_owned(),
            bound: "a string or at least one block".into(),
            value: "an empty array".into(),
        }),
        Value::Array(blocks) => {
            let blocks = blocks.into_iter().enumerate();
            blocks
                .map(|(index, block)| {
                    let mut fields = Fields::new(block, format!("{path}[{index}]"))?;
                    fields.object("cache_control")?;
                    let kind = fields
                        .string("type")?
                        .ok_or_else(|| fields.missing("type"))?;
                    if kind != "text" {
                        return Ok((Block::Other(kind), fields));
                    }
                    let text = fields
                        .string("text")?
                        .ok_or_else(|| fields.missing("text"))?;
                    Ok((Block::Text(text), fields))
                })
                .collect()
        }
        other => Err(wrong_type(
            path.to_owned(),
            "a string or an array of blocks",
            &other,
        )),
    }
}

fn unknown(fields: &mut Fields, kind: String, bound: &str) -> RequestError {
    out_of_range(fields.at("type"), bound, &kind.into())
}
