//! From a conversation to token ids and crops, as `processing_phi3_v.py` does it.

use std::fmt;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde_json::{Map, Value, json};
use vlmd_backend::{ImageInput, ImageSpan, Prepared};
use vlmd_media::Picture;
use vlmd_text::{ChatTemplate, Tokenizer};

use super::TOWER;
use super::config::Config;
use super::hd_transform::HdTransform;
use super::preprocessor::Preprocessor;
use super::vision::features;
use crate::common::clip::Geometry;
use crate::common::levels::Levels;
use crate::common::{chat, text};
use crate::{Chat, LoadError, Message, ModelFiles, Part, PrepareError, Processor};

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

/// Stands in the prompt where a picture's features will. Never looked at.
const FILLER: u32 = 0;

/// Makes prompts for Phi-3-vision and Phi-3.5-vision.
///
/// In a message, each picture is written as `<|image_k|>`, numbered over the whole conversation
/// from 1, and parts stand on lines of their own: a picture and a question become
/// `<|image_1|>\nWhat is this?`, the form that the model was trained on.
pub struct Phi3VProcessor {
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    stop_ids: Vec<u32>,
    vocab_size: usize,
    transform: HdTransform,
    /// Tokens per side of a crop.
    cells: usize,
}

impl fmt::Debug for Phi3VProcessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Phi3VProcessor")
            .field("stop_ids", &self.stop_ids)
            .field("vocab_size", &self.vocab_size)
            .field("crop", &self.transform.crop())
            .field("cells", &self.cells)
            .finish_non_exhaustive()
    }
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
        let settings = Preprocessor::read(files)?;
        let tokenizer = text::tokenizer(files, &[TAG_START])?;
        text::check_vocabulary(&tokenizer, config.vocab_size())?;
        for token in REQUIRED_TOKENS {
            text::required_token(&tokenizer, token)?;
        }
        let named = STOP_TOKENS.iter().filter_map(|t| tokenizer.token_to_id(t));
        let generation = text::generation_stops(files)?;
        let configured = generation.0.iter().chain(&config.eos_token_id.0).copied();
        Ok(Self {
            template: text::chat_template(files, CHAT_TEMPLATE)?,
            stop_ids: text::stop_ids(named.chain(configured)),
            vocab_size: config.vocab_size(),
            transform: HdTransform::new(
                geometry.side(),
                settings.num_crops,
                Levels::to_tensor(&settings.normalisation),
            ),
            cells: geometry.grid / 2,
            tokenizer: Arc::new(tokenizer),
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
        let pieces = split_at_tags(prompt);
        check_numbers(&pieces, pictures.len())?;
        let images = pictures
            .iter()
            .map(|picture| self.image(picture))
            .collect::<Result<Vec<_>, _>>()?;

        let mut tokens = Vec::new();
        let mut spans = Vec::new();
        for piece in &pieces {
            let ids = text::encode(&self.tokenizer, piece.text, true, self.vocab_size)?;
            tokens.extend(ids);
            if let Some(tag) = &piece.tag {
                let image = tag.number - 1;
                let start = tokens.len();
                tokens.resize(start + images[image].features, FILLER);
                spans.push(ImageSpan {
                    image,
                    tokens: start..tokens.len(),
                });
            }
        }
        Ok(Prepared {
            tokens,
            images,
            spans,
            cross: Vec::new(),
        })
    }

    fn image(&self, picture: &Picture) -> Result<ImageInput, PrepareError> {
        let crops = self.transform.apply(picture);
        let side = self.transform.crop();
        let count = 1 + crops.rows * crops.columns;
        Ok(ImageInput {
            pixels: Tensor::from_vec(crops.pixels, (count, 3, side, side), &Device::Cpu)?,
            size: (crops.rows * side, crops.columns * side),
            features: features(crops.rows, crops.columns, self.cells),
        })
    }

    /// The prompt with what users wrote still shielded.
    fn render_shielded(&self, chat: &Chat) -> Result<String, PrepareError> {
        let shown = chat::shown(chat);
        let content = |message: &Message| {
            let parts = message.parts.iter().map(|part| match part {
                Part::Text(text) => self.tokenizer.shield(text).into_owned(),
                Part::Image(picture) => {
                    let number = 1 + shown.iter().take_while(|&other| other != picture).count();
                    format!("{TAG_START}{number}{TAG_END}")
                }
            });
            parts.collect::<Vec<_>>().join("\n")
        };
        let messages: Vec<Value> = chat
            .messages
            .iter()
            .map(|message| {
                let role = self.tokenizer.shield(&message.role);
                json!({"role": role, "content": content(message)})
            })
            .collect();
        let kwargs: Map<String, Value> = self.tokenizer.shield_map(&chat.template_kwargs);
        text::render(&self.template, &messages, &kwargs)
    }
}

impl Processor for Phi3VProcessor {
    fn prepare(&self, chat: &Chat, pictures: &[Picture]) -> Result<Prepared, PrepareError> {
        let shown = chat::pictures(chat, pictures)?;
        let prompt = self.render_shielded(chat)?;
        self.prepare_prompt(&prompt, &shown)
    }

    fn render(&self, chat: &Chat) -> Result<String, PrepareError> {
        let prompt = self.render_shielded(chat)?;
        Ok(self.tokenizer.unshield(&prompt).into_owned())
    }

    fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(prompt: &str) -> Vec<(&str, Option<usize>)> {
        split_at_tags(prompt)
            .into_iter()
            .map(|piece| (piece.text, piece.tag.map(|tag| tag.number)))
            .collect()
    }

    #[test]
    fn prompts_are_split_at_tags_and_nothing_else() {
        assert_eq!(pieces("plain"), [("plain", None)]);
        assert_eq!(
            pieces("a<|image_1|>b<|image_22|>"),
            [("a", Some(1)), ("b", Some(22)), ("", None)]
        );
        assert_eq!(
            pieces("<|image_1|><|image_1|>"),
            [("", Some(1)), ("", Some(1)), ("", None)]
        );
        for text in [
            "<|image_|>",
            "<|image_x|>",
            "<|image_1|",
            "<|image|>",
            "<|image_-1|>",
        ] {
            assert_eq!(pieces(text), [(text, None)]);
        }
        assert_eq!(
            pieces("<|image_<|image_1|>"),
            [("<|image_", Some(1)), ("", None)]
        );
    }

    #[test]
    fn a_number_beyond_all_bounds_is_still_a_tag() {
        let prompt = format!("<|image_{}|>", "9".repeat(40));
        assert_eq!(pieces(&prompt), [("", Some(usize::MAX)), ("", None)]);
    }

    #[test]
    fn numbers_must_match_the_pictures() {
        let check = |prompt, pictures| {
            check_numbers(&split_at_tags(prompt), pictures).map_err(|error| error.to_string())
        };
        assert_eq!(check("text", 0), Ok(()));
        assert_eq!(check("<|image_2|><|image_1|><|image_2|>", 2), Ok(()));
        assert_eq!(
            check("<|image_1|><|image_3|>", 2).unwrap_err(),
            "image 2: the prompt says `<|image_3|>`, but numbers go from 1 and the request has \
             2 picture(s)"
        );
        assert!(
            check("<|image_0|>", 1)
                .unwrap_err()
                .contains("`<|image_0|>`")
        );
        assert_eq!(
            check("<|image_1|>", 2).unwrap_err(),
            "image 1: the prompt has no `<|image_2|>` to show it"
        );
    }

    #[test]
    fn pictures_are_numbered_as_they_are_first_shown() {
        let message = |parts: &[usize]| Message {
            role: "user".to_owned(),
            parts: parts.iter().map(|&picture| Part::Image(picture)).collect(),
            ..Message::default()
        };
        let chat = Chat {
            messages: vec![message(&[2, 0]), message(&[2, 1])],
            ..Chat::default()
        };
        assert_eq!(chat::shown(&chat), [2, 0, 1]);
    }
}
