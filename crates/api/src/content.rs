//! What a message says and shows: every spelling of a picture becomes the same part.
//!
//! | spelling | sent by |
//! |---|---|
//! | `{"type":"image_url","image_url":{"url":"…","detail":"auto"}}` | OpenAI clients |
//! | `{"type":"image_url","image_url":"data:…"}` | ChatNVIDIA for `nv-vlm` models |
//! | `{"type":"image","image":"…"}` | chat templates of Hugging Face, Inference Builder |
//! | `{"type":"input_image","image_url":"…"}` | the Responses dialect |
//! | any part with `"uuid":"…"`, its data then optional | vLLM's clients |
//! | `<img src="data:…" />` in string content of a user message | hosted NVIDIA models, Metropolis |
//!
//! A bare string in `image_url` is taken only if it is a `data:` URI: ChatNVIDIA needs that,
//! and software written against vLLM counts on a 400 for anything else.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::markup::{self, Piece};
use crate::message::Role;
use crate::reader::{Fields, out_of_range, show, wrong_type};
use crate::{ImagePart, RequestError};

/// Most parts of a message.
pub const MAX_PARTS: usize = 1024;

/// Part types that other servers know and this one does not.
const FOREIGN_PARTS: [&str; 10] = [
    "video_url",
    "video",
    "video_frames",
    "input_video",
    "rtsp",
    "audio_url",
    "input_audio",
    "file",
    "input_file",
    "image_embeds",
];

/// The content of a message: plain text, or parts in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum MessageContent {
    /// Text. In a user message, `<img src="data:…" />` stands for a picture.
    Text(String),
    /// Text and pictures in the order in which the model sees them.
    Parts(Vec<ContentPart>),
}

/// One piece of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentPart {
    /// Words. Markup and special tokens in them are text.
    Text {
        /// The words.
        text: String,
    },
    /// A picture. Only user messages may carry one.
    ImageUrl(ImagePart),
}

impl MessageContent {
    /// Reads the field `content` of a message at `path`.
    pub(crate) fn read(value: Option<Value>, role: Role, path: &str) -> Result<Self, RequestError> {
        let field = format!("{path}.content");
        match value {
            // An assistant that only called tools has nothing to say.
            None if role == Role::Assistant => Ok(Self::Text(String::new())),
            None => Err(RequestError::Missing { field }),
            Some(Value::String(text)) if role == Role::User => from_text(text, &field),
            Some(Value::String(text)) => Ok(Self::Text(text)),
            Some(Value::Array(parts)) if parts.is_empty() => Err(RequestError::Value {
                field,
                bound: "a string or at least one part".into(),
                value: "an empty array".into(),
            }),
            Some(Value::Array(parts)) if parts.len() > MAX_PARTS => Err(RequestError::Value {
                field,
                bound: format!("at most {MAX_PARTS} parts"),
                value: parts.len().to_string(),
            }),
            Some(Value::Array(parts)) => parts
                .into_iter()
                .enumerate()
                .map(|(index, part)| read_part(part, role, &format!("{field}[{index}]")))
                .collect::<Result<_, _>>()
                .map(Self::Parts),
            Some(other) => Err(wrong_type(field, "a string or an array of parts", &other)),
        }
    }

    /// All that is said, without the pictures.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => {
                let said = parts.iter().filter_map(|part| match part {
                    ContentPart::Text { text } => Some(text.as_str()),
                    ContentPart::ImageUrl(_) => None,
                });
                said.collect()
            }
        }
    }

    /// Whether it ends with words, be they none.
    #[must_use]
    pub fn ends_with_text(&self) -> bool {
        match self {
            Self::Text(_) => true,
            Self::Parts(parts) => matches!(parts.last(), Some(ContentPart::Text { .. })),
        }
    }

    /// The pictures, in order.
    pub fn images(&self) -> impl Iterator<Item = &ImagePart> {
        let parts = match self {
            Self::Text(_) => &[],
            Self::Parts(parts) => parts.as_slice(),
        };
        parts.iter().filter_map(|part| match part {
            ContentPart::Text { .. } => None,
            ContentPart::ImageUrl(image) => Some(image),
        })
    }
}

/// Takes the tags out of the text of a user message.
fn from_text(text: String, field: &str) -> Result<MessageContent, RequestError> {
    let pieces = markup::split(&text);
    if matches!(pieces[..], [] | [Piece::Text(_)]) {
        return Ok(MessageContent::Text(text));
    }
    let part = |piece| match piece {
        Piece::Text(text) => Ok(ContentPart::Text { text: text.into() }),
        Piece::Image(url) if markup::starts_with(url, "data:") => {
            ImagePart::at(url.into(), field.to_owned()).map(ContentPart::ImageUrl)
        }
        Piece::Image(url) => Err(RequestError::Value {
            field: field.to_owned(),
            bound: "free of <img> tags with remote addresses, which are never fetched from text \
                (send the address in a part of type `image_url`, or markup that is meant as \
                text in a part of type `text`)"
                .into(),
            value: show(&Value::from(url)),
        }),
        Piece::Video(url) => Err(RequestError::Unsupported {
            field: field.to_owned(),
            neutral: "text without <video> tags",
            value: show(&Value::from(url)),
        }),
    };
    pieces
        .into_iter()
        .map(part)
        .collect::<Result<_, _>>()
        .map(MessageContent::Parts)
}

fn read_part(value: Value, role: Role, path: &str) -> Result<ContentPart, RequestError> {
    // A list of bare strings is what some template-minded clients send.
    if let Value::String(text) = value {
        return Ok(ContentPart::Text { text });
    }
    let mut fields = Fields::new(value, path.to_owned())?;
    let kind = fields
        .string("type")?
        .ok_or_else(|| fields.missing("type"))?;
    if matches!(kind.as_str(), "text" | "input_text") {
        let text = fields
            .string("text")?
            .ok_or_else(|| fields.missing("text"))?;
        return Ok(ContentPart::Text { text });
    }
    if FOREIGN_PARTS.contains(&kind.as_str()) {
        return Err(RequestError::Unsupported {
            field: fields.at("type"),
            neutral: "`text` or `image_url`",
            value: show(&Value::from(kind)),
        });
    }
    if !matches!(kind.as_str(), "image_url" | "image" | "input_image") {
        return Err(out_of_range(
            fields.at("type"),
            "one of `text`, `image_url`, `image`, `input_text` or `input_image`",
            &Value::from(kind),
        ));
    }
    if role != Role::User {
        return Err(RequestError::Conflict {
            field: fields.at("type"),
            problem: format!("is {kind:?}, but only messages of role `user` may show pictures"),
        });
    }
    ImagePart::read(&kind, fields).map(ContentPart::ImageUrl)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(content: Value) -> Result<MessageContent, RequestError> {
        MessageContent::read(Some(content), Role::User, "messages[2]")
    }

    fn refused(content: Value) -> (String, String) {
        let error = read(content).unwrap_err();
        (error.param().unwrap().to_owned(), error.to_string())
    }

    #[test]
    fn every_spelling_of_a_picture_becomes_the_same_part() {
        let spellings = [
            (
                json!([{"type": "image_url", "image_url": {"url": "data:x"}}]),
                "[0].image_url.url",
            ),
            (
                json!([{"type": "image_url", "image_url": {"url": "data:x", "detail": null,
                    "x": 1}, "uuid": "u"}]),
                "[0].image_url.url",
            ),
            (
                json!([{"type": "image_url", "image_url": "data:x"}]),
                "[0].image_url",
            ),
            (json!([{"type": "image", "image": "data:x"}]), "[0].image"),
            (
                json!([{"type": "input_image", "image_url": "data:x"}]),
                "[0].image_url",
            ),
            (json!("<img src=\"data:x\"/>"), ""),
        ];
        for (spelling, field) in spellings {
            let content = read(spelling.clone()).unwrap();
            let images: Vec<_> = content.images().collect();
            assert_eq!(images.len(), 1, "{spelling}");
            assert_eq!(images[0].image_url.as_ref().unwrap().url, "data:x");
            assert_eq!(images[0].field, format!("messages[2].content{field}"));
        }
    }

    #[test]
    fn order_of_text_and_pictures_is_kept() {
        let content = read(json!([
            {"type": "text", "text": "a"},
            {"type": "image_url", "image_url": {"url": "https://h/1", "detail": "high"}},
            {"type": "input_text", "text": "b"},
            "c",
        ]));
        assert_eq!(
            serde_json::to_value(content.unwrap()).unwrap(),
            json!([
                {"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": "https://h/1", "detail": "high"}},
                {"type": "text", "text": "b"},
                {"type": "text", "text": "c"},
            ])
        );
    }

    #[test]
    fn tags_count_in_string_content_of_users_only() {
        let tag = "<img src=\"data:x\"/>";
        let text =
            |text: &str| MessageContent::Parts(vec![ContentPart::Text { text: text.into() }]);
        assert_eq!(
            read(json!([{"type": "text", "text": tag}])).unwrap(),
            text(tag)
        );
        for role in [Role::System, Role::Assistant, Role::Tool] {
            let content = MessageContent::read(Some(json!(tag)), role, "m").unwrap();
            assert_eq!(content, MessageContent::Text(tag.into()));
        }
    }

    #[test]
    fn text_without_tags_stays_as_it_is() {
        for text in ["", "  two  words ", "1 < 2", "<|image_1|>"] {
            assert_eq!(
                read(json!(text)).unwrap(),
                MessageContent::Text(text.into())
            );
        }
    }

    #[test]
    fn parts_at_fault_are_named() {
        let part = |part: Value| json!([{"type": "text", "text": "a"}, part]);
        let cases = [
            (part(json!({"type": "hologram"})), "[1].type"),
            (
                part(json!({"type": "video_url", "video_url": {"url": "x"}})),
                "[1].type",
            ),
            (part(json!({"text": "x"})), "[1].type"),
            (part(json!({"type": 5})), "[1].type"),
            (part(json!(7)), "[1]"),
            (part(json!({"type": "text"})), "[1].text"),
            (part(json!({"type": "text", "text": ["x"]})), "[1].text"),
            (part(json!({"type": "image_url"})), "[1].image_url"),
            (
                part(json!({"type": "image_url", "image_url": {}})),
                "[1].image_url.url",
            ),
            (
                part(json!({"type": "image_url", "image_url": {"url": ""}})),
                "[1].image_url.url",
            ),
            (
                part(json!({"type": "image_url", "image_url": {"url": 1}})),
                "[1].image_url.url",
            ),
            (
                part(json!({"type": "image_url", "image_url": "https://h/x"})),
                "[1].image_url",
            ),
            (
                part(json!({"type": "image_url", "image_url": {}, "uuid": ""})),
                "[1].uuid",
            ),
            (
                part(json!({"type": "image_url", "image_url": {"url": "data:x", "detail": "max"}})),
                "[1].image_url.detail",
            ),
            (
                part(json!({"type": "image_url",
                    "image_url": {"url": "data:image/png;asset_id,0f0f"}})),
                "[1].image_url.url",
            ),
            (part(json!({"type": "image", "source": {}})), "[1].image"),
            (json!([]), ""),
            (json!({"type": "text"}), ""),
            (json!("<img src='https://h/x'> what?"), ""),
            (json!("<video src='data:x'> what?"), ""),
        ];
        for (content, field) in cases {
            let (param, message) = refused(content);
            assert_eq!(param, format!("messages[2].content{field}"), "{message}");
        }
        let (_, message) = refused(part(json!({"type": "hologram"})));
        assert!(message.contains("\"hologram\""), "{message}");
    }

    /// What a browser might take for the address of a picture, and a server must not.
    #[test]
    fn no_spelling_of_a_remote_address_in_text_becomes_a_picture() {
        for tag in [
            "<img src=\"http://h/x\">",
            "<img src='https://h/x' />",
            "<img src=http://h/x>",
            "<IMG SRC = \"HTTP://h/x\">",
            "<ImG alt=\"data:x\" sRc='hTtPs://h/x'>",
            "<img\n\tsrc=\" http://h/x \">",
            "<img src=\"http://h/x\" src=\"data:image/png;base64,AA\">",
        ] {
            let (param, message) = refused(json!(format!("What? {tag}")));
            assert_eq!(param, "messages[2].content", "{tag}");
            assert!(
                message.contains("never fetched from text"),
                "{tag}: {message}"
            );
        }
        for tag in [
            "<img src=\"&#104;ttp://h/x\">",
            "<img src=\"http&colon;//h/x\">",
            "<img src=\"data&#58;image/png;base64,AA\">",
            "<img src=\"//h/x\">",
            "<img src=\"/x\">",
            "<img src=\"ht\ntp://h/x\">",
            "<img src=\"\u{1}http://h/x\">",
            "<img src=\"%68ttp://h/x\">",
            "<img src=\"ftp://h/x\">",
            "<img src=\"file:///etc/passwd\">",
            "<img srcset=\"http://h/x 2x\">",
            "<img data-src=\"http://h/x\">",
            "<img/src=\"http://h/x\">",
            "< img src=\"http://h/x\">",
            "&lt;img src=\"http://h/x\"&gt;",
            "<picture><source src=\"http://h/x\"></picture>",
            "<svg><image href=\"http://h/x\"/></svg>",
            "<iframe src=\"http://h/x\"></iframe>",
            "![x](http://h/x)",
            "<img src=\"http://h/x",
        ] {
            let text = format!("What? {tag}");
            let content = read(json!(text)).unwrap();
            assert_eq!(content, MessageContent::Text(text), "{tag}");
        }
        // In a part, everything is text.
        for tag in [
            "<img src=\"http://h/x\">",
            "<img src='data:image/png;base64,AA'>",
        ] {
            let content = read(json!([{"type": "text", "text": tag}])).unwrap();
            assert_eq!(content.images().count(), 0, "{tag}");
            assert!(matches!(content, MessageContent::Parts(parts)
                if parts == [ContentPart::Text { text: tag.into() }]));
        }
    }

    #[test]
    fn assets_are_named_in_every_spelling() {
        let url = "data:image/png;asset_id,a6c1a4f4-0a8e-4b0d-9a39-0c4a3ff0a111";
        for content in [
            json!([{"type": "image_url", "image_url": {"url": url}}]),
            json!([{"type": "image_url", "image_url": url}]),
            json!(format!("What? <img src=\"{url}\" />")),
            json!(format!("<img src={url}> What?")),
        ] {
            let content = read(content).unwrap();
            let images: Vec<_> = content.images().collect();
            assert_eq!(images.len(), 1);
            assert_eq!(images[0].image_url.as_ref().unwrap().url, url);
        }
        let (param, message) = refused(json!("<img src='data:image/png;asset_id,../x'/>"));
        assert_eq!(param, "messages[2].content");
        assert!(
            message.contains("UUID") && message.contains("../x"),
            "{message}"
        );
    }

    #[test]
    fn pictures_outside_user_messages_are_refused() {
        let content = json!([{"type": "image_url", "image_url": {"url": "data:x"}}]);
        for role in [Role::System, Role::Assistant, Role::Tool] {
            let error = MessageContent::read(Some(content.clone()), role, "m").unwrap_err();
            assert_eq!(error.param(), Some("m.content[0].type"));
        }
    }
}
