//! What the endpoints are asked: prompts and pictures, the same for the same seed.

mod file;
mod picture;
mod text;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::args::{ImageFormat, WorkloadArgs};
use crate::error::BenchError;
pub(crate) use file::Prompt;
pub(crate) use picture::Size;
use text::Words;

/// Fields that a benchmark sets itself.
const OWN_FIELDS: [&str; 3] = ["messages", "model", "stream"];

/// Makes requests, each told by its number.
#[derive(Debug)]
pub(crate) struct Workload {
    texts: Texts,
    /// Shared among the requests; data URIs or URLs.
    pictures: Vec<Arc<str>>,
    pictures_per_request: usize,
    stream: bool,
    description: Description,
}

#[derive(Debug)]
enum Texts {
    Drawn { words: Words, seed: u64 },
    Given(Vec<Prompt>),
}

/// The workload in reports.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Description {
    /// Where prompts come from, with their length.
    pub(crate) prompts: String,
    /// What is in the pictures' place; `None` without any but those of a prompts file.
    pub(crate) pictures: Option<String>,
    /// What `--output-tokens` asks for.
    pub(crate) output_tokens: Option<usize>,
    /// Whether answers are streamed.
    pub(crate) stream: bool,
    /// What decides everything drawn.
    pub(crate) seed: u64,
}

impl Workload {
    /// Reads files and draws pictures.
    ///
    /// # Errors
    /// [`BenchError::Flag`] and [`BenchError::File`].
    pub(crate) fn new(args: &WorkloadArgs) -> Result<Self, BenchError> {
        let seed = args.seed.unwrap_or_else(fresh_seed);
        let (texts, prompts) = texts(args, seed)?;
        let (pictures, pictures_per_request, described) = pictures(args, seed)?;
        Ok(Self {
            texts,
            pictures,
            pictures_per_request,
            stream: !args.no_stream,
            description: Description {
                prompts,
                pictures: described,
                output_tokens: args.output_tokens,
                stream: !args.no_stream,
                seed,
            },
        })
    }

    /// The workload in reports.
    pub(crate) fn description(&self) -> &Description {
        &self.description
    }

    /// The base64 characters of the largest inline picture.
    pub(crate) fn largest_picture(&self) -> usize {
        let given = match &self.texts {
            Texts::Given(prompts) => prompts.as_slice(),
            Texts::Drawn { .. } => &[],
        };
        let given = given.iter().flat_map(|prompt| &prompt.pictures);
        let base64 = |url: &Arc<str>| {
            url.strip_prefix("data:")?
                .split_once(',')
                .map(|x| x.1.len())
        };
        let lengths = self.pictures.iter().chain(given).filter_map(base64);
        lengths.max().unwrap_or_default()
    }

    /// The body of request `number`.
    ///
    /// # Errors
    /// [`BenchError::System`] if it cannot be written as JSON.
    pub(crate) fn body(
        &self,
        number: u64,
        model: &str,
        fields: &Map<String, Value>,
    ) -> Result<Vec<u8>, BenchError> {
        let drawn;
        let (text, given) = match &self.texts {
            Texts::Drawn { words, seed } => {
                drawn = words.prompt(*seed, number);
                (drawn.as_str(), [].as_slice())
            }
            Texts::Given(prompts) => {
                let prompt = nth(prompts, number);
                let text = prompt.map_or("", |prompt| prompt.text.as_str());
                (
                    text,
                    prompt.map_or([].as_slice(), |prompt| &prompt.pictures),
                )
            }
        };
        let first = number.wrapping_mul(self.pictures_per_request as u64);
        let own = (0..self.pictures_per_request as u64)
            .filter_map(|n| nth(&self.pictures, first.wrapping_add(n)));
        let mut parts: Vec<Part<'_>> = given
            .iter()
            .chain(own)
            .map(|url| Part::ImageUrl {
                image_url: ImageUrl { url },
            })
            .collect();
        let content = if parts.is_empty() {
            Content::Text(text)
        } else {
            parts.push(Part::Text { text });
            Content::Parts(parts)
        };
        let body = Body {
            model,
            messages: [Message {
                role: "user",
                content,
            }],
            stream: self.stream,
            fields,
        };
        serde_json::to_vec(&body).map_err(|error| BenchError::system("writing a request", &error))
    }
}

fn nth<T>(list: &[T], number: u64) -> Option<&T> {
    let index = number.checked_rem(list.len() as u64)?;
    list.get(usize::try_from(index).ok()?)
}

fn texts(args: &WorkloadArgs, seed: u64) -> Result<(Texts, String), BenchError> {
    if let Some(path) = &args.prompts {
        let prompts = file::read(path)?;
        let described = format!("{} of {}", prompts.len(), path.display());
        return Ok((Texts::Given(prompts), described));
    }
    let (words, described) = match (args.input_tokens, &args.tokenizer) {
        (Some(tokens), Some(path)) => (
            Words::of_tokens(tokens, path)?,
            format!("drawn, {tokens} tokens without the template"),
        ),
        _ => (
            Words::of_words(args.input_words),
            format!("drawn, {} words", args.input_words),
        ),
    };
    Ok((Texts::Drawn { words, seed }, described))
}

type Pictures = (Vec<Arc<str>>, usize, Option<String>);

fn pictures(args: &WorkloadArgs, seed: u64) -> Result<Pictures, BenchError> {
    let given = !args.image_file.is_empty() || args.image_size.is_some();
    let count = args.image_count.unwrap_or(usize::from(given));
    if count == 0 {
        return Ok((Vec::new(), 0, None));
    }
    if !args.image_file.is_empty() {
        let pictures = args
            .image_file
            .iter()
            .map(|path| file::picture("--image-file", path));
        let pictures = pictures.collect::<Result<Vec<_>, _>>()?;
        let described = format!("{count} a request, of {} files", pictures.len());
        return Ok((pictures, count, Some(described)));
    }
    let Some(size) = args.image_size else {
        let reason = "needs --image-size or --image-file";
        return Err(BenchError::flag("--image-count", reason));
    };
    let pictures = picture::draw_all(size, args.image_format, seed, args.image_pool)?;
    let format = match args.image_format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
    };
    let described = format!(
        "{count} a request, {size} {format} of {} drawn",
        pictures.len()
    );
    Ok((pictures, count, Some(described)))
}

/// The fields of a request beside prompt, model and `stream`.
///
/// `--output-tokens N` sets `max_tokens` and `min_tokens` to N and `ignore_eos`, as the commands of
/// the NIM documentation do by genai-perf's `--extra-inputs`. `extra` comes later and wins; `null`
/// takes a field away, for endpoints that refuse one. A stream is asked for its usage.
///
/// # Errors
/// [`BenchError::Flag`] for one that is not `name:value`, or is not the caller's to set.
pub(crate) fn fields(
    flag: &'static str,
    args: &WorkloadArgs,
    extra: &[String],
) -> Result<Map<String, Value>, BenchError> {
    let mut fields = Map::new();
    if !args.no_stream {
        fields.insert(
            "stream_options".into(),
            serde_json::json!({"include_usage": true}),
        );
    }
    if let Some(tokens) = args.output_tokens {
        fields.insert("max_tokens".into(), tokens.into());
        fields.insert("min_tokens".into(), tokens.into());
        fields.insert("ignore_eos".into(), true.into());
    }
    for input in extra {
        let Some((name, value)) = input.split_once(':') else {
            let reason = format!("expected name:value, not `{input}`");
            return Err(BenchError::flag(flag, reason));
        };
        if OWN_FIELDS.contains(&name) {
            let reason = format!("`{name}` is set by other flags");
            return Err(BenchError::flag(flag, reason));
        }
        match serde_json::from_str(value) {
            Ok(Value::Null) => drop(fields.shift_remove(name)),
            Ok(value) => drop(fields.insert(name.to_owned(), value)),
            Err(_) => drop(fields.insert(name.to_owned(), value.into())),
        }
    }
    Ok(fields)
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: [Message<'a>; 1],
    stream: bool,
    #[serde(flatten)]
    fields: &'a Map<String, Value>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Parts(Vec<Part<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text { text: &'a str },
    ImageUrl { image_url: ImageUrl<'a> },
}

#[derive(Serialize)]
struct ImageUrl<'a> {
    url: &'a str,
}

/// A seed that hardly any earlier run had, out of the clock. It has 32 bits, which every reader of
/// JSON keeps exact and people can type.
fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanoseconds = now.map_or(0, |now| now.as_nanos() as u64);
    mix(nanoseconds, 0, 0) >> 32
}

/// A seed of its own for each stream of drawn things and each number in it (SplitMix64's mixer).
fn mix(seed: u64, stream: u64, number: u64) -> u64 {
    let mut x = seed
        .wrapping_add(stream.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_add(number.wrapping_mul(0xd134_2543_de82_ef95));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        bench: crate::BenchArgs,
    }

    fn args(arguments: &[&str]) -> WorkloadArgs {
        let all = ["bench"].iter().chain(arguments);
        Cli::try_parse_from(all).unwrap().bench.workload
    }

    fn body(arguments: &[&str], number: u64) -> Value {
        let args = args(arguments);
        let fields = fields("--extra-inputs", &args, &args.extra_inputs).unwrap();
        let workload = Workload::new(&args).unwrap();
        serde_json::from_slice(&workload.body(number, "m", &fields).unwrap()).unwrap()
    }

    #[test]
    fn output_tokens_are_asked_for_as_nvidia_does() {
        let body = body(&["--output-tokens", "7", "--input-words", "3"], 0);
        for (field, value) in [
            ("max_tokens", Value::from(7)),
            ("min_tokens", 7.into()),
            ("ignore_eos", true.into()),
            ("stream", true.into()),
            ("model", "m".into()),
        ] {
            assert_eq!(body[field], value, "{field}");
        }
        assert_eq!(body["stream_options"]["include_usage"], true);
        let content = body["messages"][0]["content"].as_str().unwrap();
        assert_eq!(content.split(' ').count(), 3);
    }

    #[test]
    fn extra_inputs_are_json_or_strings_and_win() {
        let body = body(
            &[
                "--output-tokens",
                "7",
                "--extra-inputs",
                "min_tokens:null",
                "--extra-inputs",
                "max_tokens:9",
                "--extra-inputs",
                "nvext:{\"ignore_eos\":true}",
                "--extra-inputs",
                "user:a:b",
                "--no-stream",
            ],
            0,
        );
        assert_eq!(body["max_tokens"], 9);
        assert!(body.get("min_tokens").is_none() && body.get("stream_options").is_none());
        assert_eq!(body["nvext"]["ignore_eos"], true);
        assert_eq!(body["user"], "a:b");
        assert_eq!(body["stream"], false);
        for bad in ["temperature", "model:x", "messages:[]"] {
            let args = args(&[]);
            let failed = fields("--extra-inputs", &args, &[bad.to_owned()]);
            assert!(failed.is_err(), "{bad}");
        }
    }

    #[test]
    fn pictures_stand_before_the_text_and_take_turns() {
        let flags = [
            "--seed",
            "0",
            "--image-size",
            "4x3",
            "--image-count",
            "2",
            "--image-pool",
            "3",
        ];
        let (first, second) = (body(&flags, 0), body(&flags, 1));
        let url = |body: &Value, part: usize| {
            let url = &body["messages"][0]["content"][part]["image_url"]["url"];
            url.as_str().unwrap_or_default().to_owned()
        };
        assert!(url(&first, 0).starts_with("data:image/png;base64,"));
        assert_eq!(first["messages"][0]["content"][2]["type"], "text");
        // Pictures 0 and 1, then 2 and 0 again.
        assert_eq!(url(&second, 1), url(&first, 0));
        assert_ne!(url(&second, 0), url(&first, 1));
    }

    #[test]
    fn a_seed_decides_what_is_asked() {
        let of = |seed: &'static str, number| {
            body(&["--seed", seed, "--image-size", "4x4"], number)["messages"].to_string()
        };
        assert_eq!(of("1", 5), of("1", 5));
        assert_ne!(of("1", 5), of("1", 6));
        assert_ne!(of("1", 5), of("2", 5));
    }

    #[test]
    fn the_largest_picture_is_known() {
        let workload = Workload::new(&args(&["--image-size", "30x20"])).unwrap();
        // At least the pixels: noise does not get smaller.
        assert!(workload.largest_picture() >= 30 * 20 * 3 / 3 * 4);
        assert_eq!(Workload::new(&args(&[])).unwrap().largest_picture(), 0);
    }
}
