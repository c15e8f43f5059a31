//! The text of a message, with pictures as markup in it, and lists of parts.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use vlmd_api::{ChatRequest, ContentPart, MessageContent};

#[derive(Debug, Arbitrary)]
enum Part {
    Text(String),
    Url(String),
    Bare(String),
}

#[derive(Debug, Arbitrary)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

fuzz_target!(|content: Content| {
    let written = match &content {
        Content::Text(text) => json!(text),
        Content::Parts(parts) => parts.iter().map(part).collect(),
    };
    let body = json!({"model": "m", "messages": [{"role": "user", "content": written}]});
    let Ok(request) = ChatRequest::from_value(body) else {
        return;
    };
    let MessageContent::Parts(read) = &request.messages[0].content else {
        return;
    };
    if let Content::Text(text) = content {
        markup(&text, read);
    }
});

fn part(part: &Part) -> Value {
    match part {
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Url(url) => json!({"type": "image_url", "image_url": {"url": url}}),
        Part::Bare(url) => json!({"type": "image_url", "image_url": url}),
    }
}

/// Nothing is invented, reordered or fetched: each part stands in the text, after the one before,
/// and pictures in it are data.
fn markup(text: &str, parts: &[ContentPart]) {
    let mut rest = text;
    for part in parts {
        let words = match part {
            ContentPart::Text { text } => text.as_str(),
            ContentPart::ImageUrl(image) => {
                let url = image
                    .image_url
                    .as_ref()
                    .map_or("", |image| image.url.as_str());
                assert!(
                    url.get(..5)
                        .is_some_and(|s| s.eq_ignore_ascii_case("data:"))
                );
                url
            }
        };
        let at = rest.find(words).expect("a part is a piece of the text");
        rest = &rest[at + words.len()..];
    }
}
