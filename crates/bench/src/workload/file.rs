//! Prompts and pictures out of files.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::picture::data_uri;
use crate::error::BenchError;
use crate::files;

/// Bytes of a file with prompts.
const MAX_PROMPTS_BYTES: usize = 1 << 30;

/// Bytes of a picture's file.
const MAX_PICTURE_BYTES: usize = 64 << 20;

/// One prompt with the pictures that go with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prompt {
    /// What the user says.
    pub(crate) text: String,
    /// URLs or data URIs.
    pub(crate) pictures: Vec<Arc<str>>,
}

/// A line of AIPerf's `single_turn` form, as far as a picture and a text go.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(alias = "text_input")]
    text: String,
    image: Option<String>,
    #[serde(default)]
    images: Vec<String>,
    /// Says what the line is; only this one is known.
    #[serde(rename = "type")]
    _kind: Option<Kind>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    SingleTurn,
}

/// Reads prompts, one a line; a file that begins with `{` holds JSON lines. Empty lines are none.
///
/// # Errors
/// [`BenchError::File`] with the number of the line.
pub(crate) fn read(path: &Path) -> Result<Vec<Prompt>, BenchError> {
    let failed = |reason: String| BenchError::File {
        flag: "--prompts",
        path: path.to_owned(),
        reason,
    };
    let content = files::read("--prompts", path, MAX_PROMPTS_BYTES)?;
    let content = String::from_utf8(content).map_err(|_| failed("is not UTF-8".to_owned()))?;
    let json = content.trim_start().starts_with('{');
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut prompts = Vec::new();
    for (number, line) in (1..).zip(content.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        if !json {
            prompts.push(Prompt {
                text: line.to_owned(),
                pictures: Vec::new(),
            });
            continue;
        }
        let line: Line = serde_json::from_str(line)
            .map_err(|error| failed(format!("line {number}: {error}")))?;
        let pictures = line.image.iter().chain(&line.images);
        let pictures = pictures.map(|name| reference(name, folder));
        prompts.push(Prompt {
            pictures: pictures.collect::<Result<_, _>>()?,
            text: line.text,
        });
    }
    if prompts.is_empty() {
        return Err(failed("holds no prompt".to_owned()));
    }
    Ok(prompts)
}

/// A URL as it is; anything else is a file's name.
fn reference(name: &str, folder: &Path) -> Result<Arc<str>, BenchError> {
    if ["http://", "https://", "data:"]
        .iter()
        .any(|scheme| name.starts_with(scheme))
    {
        return Ok(name.into());
    }
    picture("--prompts", &folder.join(name))
}

/// A picture's file as a data URI; its content tells what it is.
///
/// # Errors
/// [`BenchError::File`] if it is no PNG, JPEG, WebP, GIF or BMP.
pub(crate) fn picture(flag: &'static str, path: &Path) -> Result<Arc<str>, BenchError> {
    use image::ImageFormat as Format;
    let content = files::read(flag, path, MAX_PICTURE_BYTES)?;
    let kind = match image::guess_format(&content) {
        Ok(Format::Png) => "png",
        Ok(Format::Jpeg) => "jpeg",
        Ok(Format::WebP) => "webp",
        Ok(Format::Gif) => "gif",
        Ok(Format::Bmp) => "bmp",
        _ => {
            return Err(BenchError::File {
                flag,
                path: path.to_owned(),
                reason: "is no PNG, JPEG, WebP, GIF or BMP".to_owned(),
            });
        }
    };
    Ok(data_uri(kind, &content).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<Prompt>, BenchError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("dot.gif"), b"GIF89a and so on").unwrap();
        std::fs::write(folder.path().join("note.txt"), b"no picture").unwrap();
        let path = folder.path().join("prompts");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn lines_are_prompts() {
        let prompts = read_text("one\n\n two \r\n").unwrap();
        let texts: Vec<_> = prompts.iter().map(|prompt| prompt.text.as_str()).collect();
        assert_eq!(texts, ["one", " two "]);
    }

    #[test]
    fn json_lines_have_pictures() {
        let prompts = read_text(
            "{\"text\": \"a\", \"images\": [\"dot.gif\", \"https://x/y.png\"]}\n\
             {\"type\": \"single_turn\", \"text\": \"b\", \"image\": \"data:image/png;base64,AA\"}\n",
        )
        .unwrap();
        let pictures: Vec<_> = prompts.iter().flat_map(|prompt| &prompt.pictures).collect();
        assert!(pictures[0].starts_with("data:image/gif;base64,R0lG"));
        assert_eq!(&**pictures[1], "https://x/y.png");
        assert_eq!(&**pictures[2], "data:image/png;base64,AA");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, reason) in [
            ("\n", "holds no prompt"),
            ("{\"text\": \"a\"}\n{\"txt\": 1}", "line 2: "),
            ("{\"text\": \"a\", \"image\": \"none.png\"}", "none.png"),
            ("{\"text\": \"a\", \"image\": \"note.txt\"}", "is no PNG"),
        ] {
            let error = read_text(text).unwrap_err().to_string();
            assert!(
                error.starts_with("--prompts: ") && error.contains(reason),
                "{error}"
            );
        }
        let error = read(Path::new("/no/such/file")).unwrap_err().to_string();
        assert!(
            error.contains("/no/such/file") && error.contains("No such file"),
            "{error}"
        );
    }
}
