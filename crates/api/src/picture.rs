//! A picture in a message: where it is, or the name under which it was sent before.
//!
//! The name is vLLM's `uuid`: it stands beside the data, and once the server knows the picture it
//! may stand alone (`{"type":"image_url","image_url":null,"uuid":"…"}`, or with `{}`, or without
//! the field).

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::assets::{AssetId, asset_in};
use crate::reader::{Fields, out_of_range};
use crate::{RequestError, markup};

/// Longest `uuid` of a picture in bytes; any text will do.
pub const MAX_UUID_BYTES: usize = 256;

/// A picture: data, a name, or both; never neither.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ImagePart {
    /// Where it is. May be null, empty or absent if an earlier request sent the picture with the
    /// same `uuid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_url: Option<ImageUrl>,
    /// A name of the client's for the picture, of 1 to 256 bytes. With data, the server remembers
    /// the picture by it for a while, for requests with the same API key and `cache_salt`; other
    /// data replaces it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub uuid: Option<String>,
    /// Path in the request of what says which picture it is, for error messages: the data's, or
    /// else the name's.
    #[serde(skip)]
    #[schema(ignore)]
    pub field: String,
}

/// Where a picture is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ImageUrl {
    /// A `data:` URI (base64 or percent-encoded), an `http(s):` URL, or the reference to an asset
    /// (`data:image/png;asset_id,<id>`).
    pub url: String,
    /// A hint of OpenAI's; every model here chooses its own resolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<ImageDetail>,
}

/// How closely to look, in OpenAI's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageDetail {
    /// Let the model choose.
    Auto,
    /// Coarse.
    Low,
    /// Fine.
    High,
}

impl ImagePart {
    /// A picture at `url`, which stood at the path `field`. Whether the address is allowed and
    /// leads to a picture is for the media gate to say.
    pub(crate) fn at(url: String, field: String) -> Result<Self, RequestError> {
        let image_url = ImageUrl::new(url, None, &field)?;
        Ok(Self {
            image_url: Some(image_url),
            uuid: None,
            field,
        })
    }

    /// Reads a part of type `image_url`, `image` or `input_image`.
    pub(crate) fn read(kind: &str, mut part: Fields) -> Result<Self, RequestError> {
        let uuid = read_uuid(&mut part)?;
        let (image_url, field) = match kind {
            "image" => read_plain(&mut part, "image", None)?,
            "input_image" => {
                let detail = read_detail(&mut part)?;
                read_plain(&mut part, "image_url", detail)?
            }
            _ => read_object(&mut part)?,
        };
        match (image_url, uuid) {
            (None, None) => Err(RequestError::Missing { field }),
            (None, uuid) => Ok(Self {
                image_url: None,
                uuid,
                field: part.at("uuid"),
            }),
            (image_url, uuid) => Ok(Self {
                image_url,
                uuid,
                field,
            }),
        }
    }
}

impl ImageUrl {
    fn new(url: String, detail: Option<ImageDetail>, field: &str) -> Result<Self, RequestError> {
        if url.is_empty() {
            return Err(RequestError::Value {
                field: field.to_owned(),
                bound: "a `data:` URI or an `http(s):` URL".into(),
                value: "an empty string".into(),
            });
        }
        if asset_in(&url).is_some_and(|id| AssetId::parse(id).is_none()) {
            let bound = "`data:<type>;asset_id,<id>` with the id of an asset, which is a UUID";
            return Err(out_of_range(field, bound, &Value::from(url)));
        }
        Ok(Self { url, detail })
    }
}

/// What a part says of a picture's data, and the path where it says it or should.
type Data = (Option<ImageUrl>, String);

/// Reads the parts whose data is a plain string.
fn read_plain(
    part: &mut Fields,
    name: &str,
    detail: Option<ImageDetail>,
) -> Result<Data, RequestError> {
    let field = part.at(name);
    let image_url = part
        .string(name)?
        .map(|url| ImageUrl::new(url, detail, &field));
    Ok((image_url.transpose()?, field))
}

/// Reads the part `{"type": "image_url", "image_url": …}`.
fn read_object(part: &mut Fields) -> Result<Data, RequestError> {
    let field = part.at("image_url");
    match part.take("image_url") {
        None => Ok((None, field)),
        Some(Value::String(url)) if markup::starts_with(&url, "data:") => {
            Ok((Some(ImageUrl::new(url, None, &field)?), field))
        }
        Some(Value::String(url)) => Err(out_of_range(
            field,
            "an object with a `url` (a bare string is taken only for `data:` URIs)",
            &Value::from(url),
        )),
        Some(object) => {
            let mut fields = Fields::new(object, field)?;
            let detail = read_detail(&mut fields)?;
            read_plain(&mut fields, "url", detail)
        }
    }
}

fn read_uuid(part: &mut Fields) -> Result<Option<String>, RequestError> {
    match part.string("uuid")? {
        Some(uuid) if !(1..=MAX_UUID_BYTES).contains(&uuid.len()) => Err(RequestError::Value {
            field: part.at("uuid"),
            bound: format!("a string of 1 to {MAX_UUID_BYTES} bytes"),
            value: format!("{} bytes", uuid.len()),
        }),
        uuid => Ok(uuid),
    }
}

fn read_detail(fields: &mut Fields) -> Result<Option<ImageDetail>, RequestError> {
    match fields.string("detail")?.as_deref() {
        None => Ok(None),
        Some("auto") => Ok(Some(ImageDetail::Auto)),
        Some("low") => Ok(Some(ImageDetail::Low)),
        Some("high") => Ok(Some(ImageDetail::High)),
        Some(other) => Err(out_of_range(
            fields.at("detail"),
            "one of `auto`, `low` or `high`",
            &Value::from(other),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(part: Value) -> Result<ImagePart, RequestError> {
        let kind = part["type"].as_str().unwrap().to_owned();
        ImagePart::read(&kind, Fields::new(part, "m".into()).unwrap())
    }

    #[test]
    fn a_name_may_stand_beside_the_data_of_every_spelling() {
        for part in [
            json!({"type": "image_url", "image_url": {"url": "data:x"}, "uuid": "u"}),
            json!({"type": "image_url", "image_url": "data:x", "uuid": "u"}),
            json!({"type": "image", "image": "data:x", "uuid": "u"}),
            json!({"type": "input_image", "image_url": "data:x", "uuid": "u"}),
        ] {
            let image = read(part.clone()).unwrap();
            assert_eq!(image.uuid.as_deref(), Some("u"), "{part}");
            assert_eq!(image.image_url.unwrap().url, "data:x");
            assert_ne!(image.field, "m.uuid");
        }
    }

    #[test]
    fn a_name_may_stand_alone() {
        for part in [
            json!({"type": "image_url", "image_url": null, "uuid": "u"}),
            json!({"type": "image_url", "image_url": {}, "uuid": "u"}),
            json!({"type": "image_url", "image_url": {"url": null}, "uuid": "u"}),
            json!({"type": "image_url", "image_url": {"detail": "low"}, "uuid": "u"}),
            json!({"type": "image_url", "uuid": "u"}),
            json!({"type": "image", "uuid": "u"}),
            json!({"type": "input_image", "image_url": null, "uuid": "u"}),
        ] {
            let expected = ImagePart {
                image_url: None,
                uuid: Some("u".into()),
                field: "m.uuid".into(),
            };
            assert_eq!(read(part.clone()), Ok(expected), "{part}");
        }
    }

    #[test]
    fn names_and_data_at_fault_are_named() {
        let long = "ü".repeat(MAX_UUID_BYTES / 2);
        assert!(read(json!({"type": "image", "uuid": long})).is_ok());
        for (part, field) in [
            (json!({"type": "image_url", "uuid": ""}), "m.uuid"),
            (
                json!({"type": "image_url", "uuid": format!("{long}x")}),
                "m.uuid",
            ),
            (json!({"type": "image_url", "uuid": 7}), "m.uuid"),
            (
                json!({"type": "image_url", "image_url": {"url": ""}, "uuid": "u"}),
                "m.image_url.url",
            ),
            (
                json!({"type": "image_url", "image_url": "https://h/x", "uuid": "u"}),
                "m.image_url",
            ),
            (json!({"type": "image_url", "uuid": null}), "m.image_url"),
            (
                json!({"type": "image_url", "image_url": {}}),
                "m.image_url.url",
            ),
            (json!({"type": "image"}), "m.image"),
        ] {
            let error = read(part.clone()).unwrap_err();
            assert_eq!(error.param(), Some(field), "{part}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        for part in [
            json!({"image_url": {"url": "data:x", "detail": "high"}, "uuid": "u"}),
            json!({"uuid": "u"}),
        ] {
            let mut read_part = part.clone();
            read_part["type"] = json!("image_url");
            assert_eq!(
                serde_json::to_value(read(read_part).unwrap()).unwrap(),
                part
            );
        }
    }
}
