//! Pictures written as HTML tags into the text of a message.
//!
//! The dialect of NVIDIA's hosted NeVA, Kosmos-2, Phi-3-vision and others, which Metropolis
//! workflows send to local servers as well: `What is this? <img src="data:image/png;base64,…" />`.
//!
//! Only `data:` URIs are taken from text. A server that downloads what it finds in plain text
//! lets anyone who can place words in a conversation choose its requests (CVE-2026-0599).

/// A piece of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Words between tags, without the white space next to a tag.
    Text(&'a str),
    /// The `src` of an `<img>`.
    Image(&'a str),
    /// The `src` of a `<video>`.
    Video(&'a str),
}

/// Splits a text at its media tags, in order.
///
/// A tag counts if its `src` is a `data:` or `http(s):` URI; any other markup is text. A text
/// without such a tag comes back as it is, as one piece.
///
/// Linear in the length of `text`: no attribute may contain `<`, so an attempt to read a tag
/// never looks beyond the start of the next one.
pub(crate) fn split(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut from = 0;
    while let Some(at) = rest[from..].find('<').map(|offset| from + offset) {
        let Some((piece, length)) = media_tag(&rest[at..]) else {
            from = at + 1;
            continue;
        };
        push_text(&mut pieces, rest[..at].trim_end());
        pieces.push(piece);
        rest = closing_tag(&rest[at + length..], piece).trim_start();
        from = 0;
    }
    if pieces.is_empty() {
        return vec![Piece::Text(text)];
    }
    push_text(&mut pieces, rest);
    pieces
}

fn push_text<'a>(pieces: &mut Vec<Piece<'a>>, text: &'a str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
}

/// Drops the `</video>` that follows a `<video …>`.
fn closing_tag<'a>(rest: &'a str, piece: Piece<'_>) -> &'a str {
    match piece {
        Piece::Video(_) => rest.strip_prefix("</video>").unwrap_or(rest),
        _ => rest,
    }
}

/// Reads one tag at the start of `text`; gives the piece and the tag's length in bytes.
fn media_tag<'a>(text: &'a str) -> Option<(Piece<'a>, usize)> {
    let (make, name): (fn(&'a str) -> Piece<'a>, _) = if starts_with(text, "<img") {
        (Piece::Image, "<img")
    } else if starts_with(text, "<video") {
        (Piece::Video, "<video")
    } else {
        return None;
    };
    let mut source: Option<&str> = None;
    let mut rest = &text[name.len()..];
    // The name ends here, or it is another one (`<imgx`).
    if !rest.starts_with(|c: char| c.is_ascii_whitespace()) {
        return None;
    }
    loop {
        rest = rest.trim_ascii_start();
        let tail = rest.strip_prefix('/').unwrap_or(rest).trim_ascii_start();
        if let Some(after) = tail.strip_prefix('>') {
            let source = source.filter(|source| is_uri(source))?;
            return Some((make(source), text.len() - after.len()));
        }
        let (attribute, value, after) = attribute(rest)?;
        if attribute.eq_ignore_ascii_case("src") && source.is_none() {
            source = Some(value.trim_ascii());
        }
        rest = after;
    }
}

/// Reads `name`, `name=value`, `name="value"` or `name='value'`; gives name, value and the rest.
fn attribute(text: &str) -> Option<(&str, &str, &str)> {
    let end = text.find(|c: char| c.is_ascii_whitespace() || matches!(c, '=' | '>' | '/' | '<'))?;
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        return None;
    }
    let Some(value) = rest.trim_ascii_start().strip_prefix('=') else {
        return Some((name, "", rest));
    };
    let value = value.trim_ascii_start();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let (value, rest) = if let Some(quote) = quote {
        let value = &value[1..];
        let end = value.find([quote, '<'])?;
        (&value[..end], value[end..].strip_prefix(quote)?)
    } else {
        value.split_at(value.find(|c: char| c.is_ascii_whitespace() || matches!(c, '>' | '<'))?)
    };
    Some((name, value, rest))
}

fn is_uri(source: &str) -> bool {
    ["data:", "http:", "https:"]
        .iter()
        .any(|scheme| starts_with(source, scheme))
}

/// `str::starts_with` without regard to ASCII case.
pub(crate) fn starts_with(text: &str, prefix: &str) -> bool {
    text.as_bytes()
        .get(..prefix.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::Piece::{Image, Text, Video};
    use super::*;

    #[test]
    fn tags_are_cut_out_in_order() {
        assert_eq!(
            split("Compare <img src=\"data:a\" /> with\n<IMG alt='x y' SRC='data:b'> please."),
            [
                Text("Compare"),
                Image("data:a"),
                Text("with"),
                Image("data:b"),
                Text("please."),
            ]
        );
    }

    #[test]
    fn every_way_to_write_an_attribute_is_read() {
        for tag in [
            "<img src=\"data:x\"/>",
            "<img src='data:x'>",
            "<img src=data:x >",
            "<img\nwidth=5 src = \"data:x\" hidden>",
            "<img src=\" data:x \" src=\"data:y\" />",
        ] {
            assert_eq!(split(tag), [Image("data:x")], "{tag}");
        }
    }

    #[test]
    fn unquoted_sources_keep_their_slashes() {
        assert_eq!(
            split("<img src=data:image/png;base64,AA/BB== />"),
            [Image("data:image/png;base64,AA/BB==")]
        );
    }

    #[test]
    fn videos_are_told_apart() {
        assert_eq!(
            split("<video src=\"data:v\"></video> what?"),
            [Video("data:v"), Text("what?")]
        );
    }

    #[test]
    fn other_markup_is_text() {
        for text in [
            "  a < b and b > c  ",
            "<img>",
            "<img src>",
            "<img src=\"cat.png\">",
            "<imgsrc=\"data:x\">",
            "<images src=\"data:x\">",
            "<img src=\"data:x\"",
            "<img src=\"data:x",
            "<img src=\"data:<x\">",
            "<a href=\"data:x\">",
            "<|image_1|>",
            "<",
            "",
        ] {
            assert_eq!(split(text), [Text(text)], "{text}");
        }
    }

    #[test]
    fn unclosed_tags_cost_linear_work() {
        // Quadratic work on these would take minutes.
        for unit in ["<img src=\"", "<img ", "<img a='\" ", "<", "<img a=\"b\" "] {
            let text = unit.repeat(300_000);
            assert_eq!(split(&text).len(), 1);
        }
        assert_eq!(split(&"<img src='data:x'>".repeat(100_000)).len(), 100_000);
    }
}
