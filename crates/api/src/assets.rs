//! Pictures that are uploaded before they are asked about: NVIDIA's asset API.
//!
//! A client makes an asset (`POST /v2/nvcf/assets`), puts its bytes where the answer says, and
//! then names it in place of a picture's data: `data:image/png;asset_id,<id>`, in an `image_url`
//! or in an `<img>` tag.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::RequestError;
use crate::markup::starts_with;
use crate::reader::Fields;

/// Longest `description` of an asset in bytes.
pub const MAX_ASSET_DESCRIPTION: usize = 1024;

/// Longest `contentType` of an asset in bytes; RFC 6838 has 127 for each half.
const MAX_CONTENT_TYPE: usize = 255;

/// Names an asset. A UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AssetId(Uuid);

impl AssetId {
    /// A fresh one.
    #[must_use]
    pub fn fresh() -> Self {
        Self(Uuid::new_v4())
    }

    /// Reads an id; upper case and missing hyphens are as good.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }
}

impl std::fmt::Display for AssetId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// The id in a reference to an asset, whatever it looks like; `None` for all other URLs.
///
/// NVIDIA's clients write `data:image/png;asset_id,<id>`; `data:image/png;asset_id=<id>` is met
/// too.
#[must_use]
pub fn asset_in(url: &str) -> Option<&str> {
    if !starts_with(url, "data:") {
        return None;
    }
    let (head, tail) = url.split_once(',').unwrap_or((url, ""));
    head.split(';').skip(1).find_map(|parameter| {
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) => (name, value),
            None => (parameter, tail),
        };
        let named = name.trim().eq_ignore_ascii_case("asset_id");
        named.then(|| value.trim())
    })
}

/// Asks for a place to upload a picture to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateAsset {
    /// Of the bytes to come: `image/png`, `image/jpeg`, `image/webp`, `image/gif` or `image/bmp`.
    pub content_type: String,
    /// For the client's own records. Default empty.
    #[schema(required = false, max_length = 1024)]
    pub description: String,
}

impl CreateAsset {
    /// Reads and checks a request body.
    ///
    /// # Errors
    /// The first thing that is wrong with it. Whether the type is one that is taken is for the
    /// server to say, for that has another status.
    pub fn from_slice(body: &[u8]) -> Result<Self, RequestError> {
        let value = serde_json::from_slice(body)
            .map_err(|error| RequestError::Syntax(error.to_string()))?;
        let mut fields = Fields::new(value, String::new())?;
        let content_type = text(&mut fields, "contentType", MAX_CONTENT_TYPE)?
            .ok_or_else(|| fields.missing("contentType"))?;
        let description = text(&mut fields, "description", MAX_ASSET_DESCRIPTION)?;
        Ok(Self {
            content_type,
            description: description.unwrap_or_default(),
        })
    }
}

/// Reads a string of at most `most` bytes.
fn text(
    fields: &mut Fields,
    name: &'static str,
    most: usize,
) -> Result<Option<String>, RequestError> {
    match fields.string(name)? {
        Some(text) if text.len() > most => Err(RequestError::Value {
            field: fields.at(name),
            bound: format!("a string of at most {most} bytes"),
            value: format!("{} bytes", text.len()),
        }),
        text => Ok(text),
    }
}

/// An asset that waits for its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AssetCreated {
    /// Its id.
    pub asset_id: String,
    /// Takes a `PUT` of the bytes with `Content-Type` as below, without an API key: whoever has
    /// the address may upload.
    pub upload_url: String,
    /// As the request gave it.
    pub content_type: String,
    /// As the request gave it.
    pub description: String,
}

/// What is known of an asset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AssetInfo {
    /// Its id.
    pub asset_id: String,
    /// As the client gave it.
    pub description: String,
    /// As the client gave it.
    pub content_type: String,
    /// When it was made (RFC 3339, UTC).
    pub created_at: String,
}

/// One asset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AssetBody {
    /// The asset.
    pub asset: AssetInfo,
}

/// The assets of an API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AssetList {
    /// Oldest first.
    pub assets: Vec<AssetInfo>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_are_told_from_data() {
        for (url, id) in [
            ("data:image/png;asset_id,0b5e", Some("0b5e")),
            ("DATA:image/jpeg;ASSET_ID, 0b5e ", Some("0b5e")),
            ("data:image/png;asset_id=0b5e,", Some("0b5e")),
            ("data:image/png;asset_id=0b5e", Some("0b5e")),
            ("data:image/png;x=1; asset_id ,0b5e", Some("0b5e")),
            ("data:image/png;asset_id", Some("")),
            ("data:;asset_id,a,b", Some("a,b")),
            ("data:image/png;base64,asset_id", None),
            ("data:image/png;base64,AA;asset_id,0b5e", None),
            ("data:image/png;asset_ids,0b5e", None),
            ("data:asset_id,0b5e", None),
            ("https://h/x;asset_id,0b5e", None),
            ("", None),
        ] {
            assert_eq!(asset_in(url), id, "{url}");
        }
    }

    #[test]
    fn ids_have_one_spelling_and_are_read_in_several() {
        let id = AssetId::fresh();
        let shown = id.to_string();
        assert_eq!(shown.len(), 36);
        for text in [&shown, &shown.to_uppercase(), &shown.replace('-', "")] {
            assert_eq!(AssetId::parse(text), Some(id), "{text}");
        }
        for text in ["", "0b5e", "a,b", "../../etc/passwd"] {
            assert_eq!(AssetId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn bodies_are_checked() {
        let read = |body: serde_json::Value| CreateAsset::from_slice(body.to_string().as_bytes());
        let asset = read(json!({"contentType": "image/png", "description": "d", "x": 1})).unwrap();
        assert_eq!(
            (&*asset.content_type, &*asset.description),
            ("image/png", "d")
        );
        assert_eq!(
            read(json!({"contentType": "image/png"}))
                .unwrap()
                .description,
            ""
        );
        for (body, field) in [
            (json!({}), "contentType"),
            (json!({"contentType": 1}), "contentType"),
            (json!({"contentType": "x".repeat(300)}), "contentType"),
            (
                json!({"contentType": "x", "description": []}),
                "description",
            ),
            (
                json!({"contentType": "x", "description": "ü".repeat(600)}),
                "description",
            ),
        ] {
            assert_eq!(
                read(body.clone()).unwrap_err().param(),
                Some(field),
                "{body}"
            );
        }
        assert!(CreateAsset::from_slice(b"{").is_err());
        assert!(CreateAsset::from_slice(b"[]").is_err());
    }

    #[test]
    fn names_are_nvidias() {
        let created = AssetCreated {
            asset_id: "a".into(),
            upload_url: "u".into(),
            content_type: "c".into(),
            description: "d".into(),
        };
        assert_eq!(
            serde_json::to_value(created).unwrap(),
            json!({"assetId": "a", "uploadUrl": "u", "contentType": "c", "description": "d"})
        );
        let asset = AssetInfo {
            asset_id: "a".into(),
            description: "d".into(),
            content_type: "c".into(),
            created_at: "t".into(),
        };
        assert_eq!(
            serde_json::to_value(AssetBody { asset }).unwrap(),
            json!({"asset": {"assetId": "a", "description": "d", "contentType": "c",
                "createdAt": "t"}})
        );
    }
}
