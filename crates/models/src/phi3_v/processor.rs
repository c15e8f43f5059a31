//! From a conversation to token ids and crops, as `processing_phi3_v.py` does it.

use std::sync::Arc;

use serde_json::{Value, json};
use vlmd_backend::{ImageInput, Prepared};
use vlmd_media::Picture;
use vlmd_text::{Tokenizer, ToolFamily};

use super::TOWER;
use super::config::Config;
use super::hd_transform::HdTransform;
use super::vision::features;
use crate::common::chat::{self, Shown};
use crate::common::clip::Geometry;
use crate::common::language::Language;
use crate::common::{placeholder, text};
use crate::{Chat, ImageError, LoadError, Message, ModelFiles, Part, PrepareError, Processor};

/// What the published checkpoints' template does, for copies of them that lost it.
const CHAT_TEMPLATE: &str = "\
{%- for message in messages -%}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt and messages[-1]['role'] != 'assistant' -%}
{{ '<|assistant|>\\n' }}
{%- endif -%}";

/// Tokens that the conversation is made of.
const REQUIRED_TOKENS: [&str; 3] = ["<|user|>", "<|assistant|>", "<|end|>"];

/// Tokens that end an answer, whatever the configuration says: the `generation_config.json` of
/// Phi-3-vision names only `</s>`, which the model never produces.
const STOP_TOKENS: [&str; 3] = ["<|end|>", "<|endoftext|>", "<|assistant|>"];

/// A picture's place in the prompt is this, a number from 1, and [`TAG_END`].
const TAG_START: &str = "<|image_";
const TAG_END: &str = "|>";

/// Makes prompts for Phi-3-vision and Phi-3.5-vision.
///
/// In a message, each picture is written as `<|image_k|>`, numbered over the whole conversation
/// from 1, and parts stand on lines of their own: a picture and a question become
/// `<|image_1|>\nWhat is this?`, the form that the model was trained on.
#[derive(Debug)]
pub struct Phi3VProcessor {
    language: Language,
    transform: HdTransform,
    /// Tokens per side of a crop.
    cells: usize,
}

impl Phi3VProcessor {
    /// Reads tokenizer, template and settings. The size of crops is the tower's.
    pub(super) fn new(
        files: &ModelFiles,
        config: &Config,
        geometry: Geometry,
    ) -> Result<Self, LoadError> {
        if !geometry.grid.is_multiple_of(2) {
            return Err(LoadError::tensor(
                format!("{TOWER}.embeddings.position_embedding.weight"),
                format!(
                    "must be of an even number of patches per side, to be merged two by two, \
                     but is of {}",
                    geometry.grid
                ),
            ));
        }
        let transform = HdTransform::read(files, geometry.side())?;
        let tokenizer = text::tokenizer(files, &[TAG_START])?;
        text::check_vocabulary(&tokenizer, config.vocab_size())?;
        for token in REQUIRED_TOKENS {
            text::required_token(&tokenizer, token)?;
        }
        let named = STOP_TOKENS.iter().filter_map(|t| tokenizer.token_to_id(t));
        let generation = text::generation(files)?.eos_token_id;
        let configured = generation.0.iter().chain(&config.eos_token_id.0).copied();
        let stop_ids: Vec<u32> = named.chain(configured).collect();
        let template = text::chat_template(files, Some(CHAT_TEMPLATE))?;
        Ok(Self {
            language: Language::new(tokenizer, template, stop_ids, config.vocab_size()),
            transform,
            cells: geometry.grid / 2,
        })
    }

    /// Reads the processor of a checkpoint, without its weights.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(files: &ModelFiles) -> Result<Self, LoadError> {
        let weights = files.weights()?;
        let options = crate::LoadOptions::default();
        let source = crate::load::Source::new(&weights, &options)?;
        let geometry = Geometry::read(&source.root().at(TOWER))?;
        Self::new(files, &Config::read(files)?, geometry)
    }

    /// Tokenises a rendered prompt, with `pictures[k - 1]` wherever it says `<|image_k|>`.
    ///
    /// As in the reference, the text before, between and behind the tags is tokenised piece by
    /// piece, each with the beginning-of-sequence token in front, and a tag may be repeated.
    ///
    /// # Errors
    /// When a tag has a number without a picture, or a picture no tag.
    pub fn prepare_prompt(
        &self,
        prompt: &str,
        pictures: &[&Picture],
    ) -> Result<Prepared, PrepareError> {
        let images = pictures
            .iter()
            .enumerate()
            .map(|(index, picture)| self.image(picture).map_err(|error| error.at(index)))
            .collect::<Result<Vec<_>, _>>()?;
        self.place(prompt, images)
    }

    /// The same with pictures that the model may take already.
    fn place(&self, prompt: &str, images: Vec<ImageInput>) -> Result<Prepared, PrepareError> {
        let pieces = split_at_tags(prompt);
        check_numbers(&pieces, images.len())?;
        let mut prepared = Prepared {
            images,
            ..Prepared::default()
        };
        for piece in &pieces {
            let ids = self.language.encode(piece.text, true)?;
            prepared.tokens.extend(ids);
            if let Some(tag) = &piece.tag {
                placeholder::push(&mut prepared, tag.number - 1);
            }
        }
        Ok(prepared)
    }

    /// The prompt with what users wrote still shielded.
    fn render_shielded(&self, chat: &Chat) -> Result<String, PrepareError> {
        let tokenizer = &self.language.tokenizer;
        let mut numbers = chat::numbers(chat).into_iter();
        let mut part = |part: &Part| match part {
            Part::Text(text) => tokenizer.shield(text).into_owned(),
            Part::Image(_) => {
                let number = 1 + numbers.next().unwrap_or_default();
                format!("{TAG_START}{number}{TAG_END}")
            }
        };
        let mut message = |message: &Message| {
            let content: Vec<String> = message.parts.iter().map(&mut part).collect();
            let value =
                json!({"role": tokenizer.shield(&message.role), "content": content.join("\n")});
            chat::with_tools(value, message, &self.language)
        };
        let messages: Vec<Value> = chat.messages.iter().flat_map(&mut message).collect();
        self.language.render(chat, messages)
    }
}

impl Processor for Phi3VProcessor {
    fn image(&self, picture: &Picture) -> Result<ImageInput, ImageError> {
        let crops = self.transform.apply(picture)?;
        let side = self.transform.crop();
        Ok(ImageInput::new(
            crops.pixels,
            (crops.rows * side, crops.columns * side),
            features(crops.rows, crops.columns, self.cells),
        )?)
    }

    fn compose(&self, chat: &Chat, images: &[ImageInput]) -> Result<Prepared, PrepareError> {
        let shown = Shown::of(chat, images)?;
        self.place(&self.render_shielded(chat)?, shown.images)
    }

    fn render(&self, chat: &Chat) -> Result<String, PrepareError> {
        Ok(self.language.unshielded(&self.render_shielded(chat)?))
    }

    fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.language.tokenizer
    }

    fn stop_ids(&self) -> &[u32] {
        &self.language.stop_ids
    }

    fn tool_family(&self) -> Option<ToolFamily> {
        self.language.tool_family()
    }
}

/// A stretch of text and the image tag that ends it; the last stretch has none.
#[derive(Debug, PartialEq, Eq)]
struct Piece<'a> {
    text: &'a str,
    tag: Option<Tag<'a>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Tag<'a> {
    /// As written.
    text: &'a str,
    /// The number in it; one that is too large to be a number is the largest there is.
    number: usize,
}

/// Splits a prompt at everything of the form `<|image_1|>`.
fn split_at_tags(prompt: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut text_start = 0;
    for (start, _) in prompt.match_indices(TAG_START) {
        let digits = &prompt[start + TAG_START.len()..];
        let length = digits.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = digits.split_at(length);
        if length == 0 || !behind.starts_with(TAG_END) {
            continue;
        }
        let end = start + TAG_START.len() + length + TAG_END.len();
        pieces.push(Piece {
            text: &prompt[text_start..start],
            tag: Some(Tag {
                text: &prompt[start..end],
                number: number.parse().unwrap_or(usize::MAX),
            }),
        });
        text_start = end;
    }
    pieces.push(Piece {
        text: &prompt[text_start..],
        tag: None,
    });
    pieces
}

/// The numbers must be those from 1 to the number of pictures, each at least once.
fn check_numbers(pieces: &[Piece<'_>], pictures: usize) -> Result<(), PrepareError> {
    let mut seen = vec![false; pictures];
    for tag in pieces.iter().filter_map(|piece| piece.tag.as_ref()) {
        let place = tag.number.checked_sub(1).and_then(|k| seen.get_mut(k));
        match place {
            Some(seen) => *seen = true,
            None => {
                return Err(PrepareError::Image {
                    index: tag.number.saturating_sub(1),
                    reason: format!(
                        "the prompt says `{}`, but numbers go from 1 and the request has \
                         {pictures} picture(s)",
                        tag.text
                    ),
                });
            }
        }
    }
    match seen.iter().position(|seen| !seen) {
        None => Ok(()),
        Some(index) => Err(PrepareError::Image {
            index,
            reason: format!(
                "the prompt has no `{TAG_START}{}{TAG_END}` to show it",
                index + 1
            ),
        }),
    }
}
