//! Reading the items of `input`.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{item_id, message_id};
use crate::RequestError;
use crate::dialect::{Called, Conversation, Shown, object};
use crate::reader::{Fields, out_of_range, show, wrong_type};

const ITEM_TYPES: &str = "one of `message`, `function_call`, `function_call_output`, `item_reference` \
     or `reasoning`";

/// Stands for an item of a kept response.
const REFERENCE: &str = "item_reference";

/// Adds an item, which stood at `path`, to the conversation.
pub(super) fn read(item: Value, path: &str, talk: &mut Conversation) -> Result<(), RequestError> {
    let mut fields = Fields::new(item, path.to_owned())?;
    let kind = fields.string("type")?;
    match kind.as_deref() {
        None | Some("message") => message(fields, talk),
        Some("function_call") => {
            talk.begin("assistant", path);
            talk.call(call(fields)?);
            Ok(())
        }
        Some("function_call_output") => output(fields, talk),
        // Of a model that thinks: nothing that one here would read.
        Some("reasoning") => Ok(()),
        // Those that are known have been replaced by what they stand for.
        Some(REFERENCE) => match fields.string("id")? {
            None => Err(fields.missing("id")),
            Some(id) => Err(out_of_range(
                fields.at("id"),
                "the id of an item of a response that is kept for this API key",
                &id.into(),
            )),
        },
        Some(_) => Err(out_of_range(fields.at("type"), ITEM_TYPES, &kind.into())),
    }
}

fn message(mut fields: Fields, talk: &mut Conversation) -> Result<(), RequestError> {
    let role = fields
        .string("role")?
        .ok_or_else(|| fields.missing("role"))?;
    let role = match role.as_str() {
        "user" => "user",
        "assistant" => "assistant",
        "system" | "developer" => "system",
        _ => {
            return Err(out_of_range(
                fields.at("role"),
                "one of `user`, `assistant`, `system` or `developer`",
                &role.into(),
            ));
        }
    };
    talk.begin(role, fields.path());
    let path = fields.at("content");
    let content = fields
        .take("content")
        .ok_or_else(|| fields.missing("content"))?;
    for part in parts(content, &path)? {
        match part {
            Part::Text(text) => talk.say(text),
            Part::Picture(shown) => talk.show(shown),
        }
    }
    Ok(())
}

fn call(mut fields: Fields) -> Result<Called, RequestError> {
    let id = fields
        .string("call_id")?
        .ok_or_else(|| fields.missing("call_id"))?;
    let name = fields
        .string("name")?
        .ok_or_else(|| fields.missing("name"))?;
    let arguments = fields
        .take("arguments")
        .ok_or_else(|| fields.missing("arguments"))?;
    Ok(Called {
        id: Some(id),
        name,
        arguments,
        field: fields.path().to_owned(),
        arguments_name: "arguments",
    })
}

fn output(mut fields: Fields, talk: &mut Conversation) -> Result<(), RequestError> {
    let id = fields
        .string("call_id")?
        .ok_or_else(|| fields.missing("call_id"))?;
    let path = fields.at("output");
    let output = fields
        .take("output")
        .ok_or_else(|| fields.missing("output"))?;
    let (mut texts, mut shown) = (Vec::new(), Vec::new());
    for part in parts(output, &path)? {
        match part {
            Part::Text(text) => texts.push(text),
            Part::Picture(picture) => shown.push(picture),
        }
    }
    talk.result(id, texts, shown, fields.path());
    Ok(())
}

enum Part {
    Text(String),
    Picture(Shown),
}

/// Takes a content apart: a string is one part.
fn parts(content: Value, path: &str) -> Result<Vec<Part>, RequestError> {
    match content {
        Value::String(text) => Ok(vec![Part::Text(text)]),
        Value::Array(parts) => parts
            .into_iter()
            .enumerate()
            .map(|(index, part)| read_part(part, format!("{path}[{index}]")))
            .collect(),
        other => Err(wrong_type(
            path.to_owned(),
            "a string or an array of parts",
            &other,
        )),
    }
}

fn read_part(part: Value, path: String) -> Result<Part, RequestError> {
    let mut fields = Fields::new(part, path)?;
    let kind = fields
        .string("type")?
        .ok_or_else(|| fields.missing("type"))?;
    let name = match kind.as_str() {
        "input_text" | "output_text" | "text" => "text",
        "refusal" => "refusal",
        "input_image" => return picture(fields).map(Part::Picture),
        _ => {
            return Err(out_of_range(
                fields.at("type"),
                "one of `input_text`, `input_image`, `output_text` or `refusal`",
                &kind.into(),
            ));
        }
    };
    let text = fields.string(name)?.ok_or_else(|| fields.missing(name))?;
    Ok(Part::Text(text))
}

fn picture(mut fields: Fields) -> Result<Shown, RequestError> {
    if let Some(file) = fields.string("file_id")? {
        return Err(RequestError::Unsupported {
            field: fields.at("file_id"),
            neutral: "null, with the picture's URL or `data:` URI in `image_url`",
            value: show(&file.into()),
        });
    }
    let detail = match fields.string("detail")?.as_deref() {
        None => None,
        // As it is.
        Some("original") => Some("high".to_owned()),
        Some(detail @ ("auto" | "low" | "high")) => Some(detail.to_owned()),
        Some(other) => {
            let bound = "one of `auto`, `low`, `high` or `original`";
            return Err(out_of_range(fields.at("detail"), bound, &other.into()));
        }
    };
    let field = fields.at("image_url");
    let url = fields
        .string("image_url")?
        .ok_or_else(|| fields.missing("image_url"))?;
    Ok(Shown {
        url,
        detail,
        field,
        part: fields.path().to_owned(),
    })
}

/// The id of the item that `item` stands for, if it is a reference: its type may be left out.
pub(super) fn reference(item: &Value) -> Option<&str> {
    let names_one = match &item["type"] {
        Value::Null => item["role"].is_null(),
        kind => kind == REFERENCE,
    };
    item["id"].as_str().filter(|_| names_one)
}

/// Whether a conversation may begin with `item`: whether it is a message of the user's.
pub(super) fn is_users(item: &Value) -> bool {
    let is_message = item["type"].is_null() || item["type"] == "message";
    is_message && item["role"] == "user"
}

/// Whether `item` is said by who runs the conversation.
pub(super) fn is_systems(item: &Value) -> bool {
    item["role"] == "system" || item["role"] == "developer"
}

/// An item as it is kept and listed: with its type, an id and a status, and messages with parts.
pub(super) fn kept(mut item: Value) -> Value {
    if reference(&item).is_some() {
        return item;
    }
    let Some(fields) = item.as_object_mut() else {
        return item;
    };
    let kind = fields.entry("type").or_insert(Value::Null);
    if kind.is_null() {
        *kind = "message".into();
    }
    let fresh = |kind: &str| format!("{kind}_{}", Uuid::new_v4().simple());
    let fresh = match kind.as_str() {
        Some("message") => message_id(),
        Some("function_call") => item_id(),
        Some("function_call_output") => fresh("fco"),
        _ => fresh("rs"),
    };
    let id = fields.entry("id").or_insert(Value::Null);
    if id.is_null() {
        *id = fresh.into();
    }
    let status = fields.entry("status").or_insert(Value::Null);
    if status.is_null() {
        *status = "completed".into();
    }
    let is_said = fields["type"] == "message";
    let is_answer = fields.get("role").is_some_and(|role| role == "assistant");
    if let Some(content) = fields.get_mut("content").filter(|_| is_said)
        && let Value::String(text) = content
    {
        let text = std::mem::take(text);
        *content = if is_answer {
            json!([{"type": "output_text", "text": text, "annotations": []}])
        } else {
            json!([{"type": "input_text", "text": text}])
        };
    }
    item
}

/// `input` as items: a string is what the user says.
pub(super) fn of_input(input: Value) -> Result<Vec<Value>, RequestError> {
    match input {
        Value::String(text) => {
            let message = [
                ("type", "message".into()),
                ("role", "user".into()),
                ("content", text.into()),
            ];
            Ok(vec![object(message)])
        }
        Value::Array(items) if items.is_empty() => Err(RequestError::Value {
            field: "input".into(),
            bound: "a string or at least one item".into(),
            value: "an empty array".into(),
        }),
        Value::Array(items) => Ok(items),
        other => Err(wrong_type(
            "input".into(),
            "a string or an array of items",
            &other,
        )),
    }
}
