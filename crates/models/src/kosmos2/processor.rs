//! From a conversation to token ids and pixels, as `processing_kosmos2.py` does it.

use std::sync::Arc;

use serde::Deserialize;
use vlmd_backend::{ImageInput, ImageSpan, Prepared};
use vlmd_media::Picture;
use vlmd_text::Tokenizer;

use super::config::Config;
use super::{grounding, prompt};
use crate::common::chat::{self, Shown};
use crate::common::clip::Geometry;
use crate::common::clip_image::ClipImage;
use crate::common::fields::CONFIG;
use crate::common::language::Language;
use crate::common::text;
use crate::load::Source;
use crate::{
    Chat, Grounded, ImageError, LoadError, LoadOptions, ModelFiles, PrepareError, Processor,
};

const BEGIN: &str = "<s>";
const UNKNOWN: &str = "<unk>";
const IMAGE: &str = "<image>";
pub(super) const IMAGE_END: &str = "</image>";

/// Pictures that a prompt can show.
const MAX_PICTURES: usize = 1;

/// Most cells of the grid, which four digits number.
const MAX_PATCHES: usize = 10_000;

/// Makes prompts for Kosmos-2: `<s><image>`, the picture's features, `</image>`, then a blank and
/// the text.
#[derive(Debug)]
pub struct Kosmos2Processor {
    language: Language,
    no_repeat_ngram_size: usize,
    /// What stands where the picture's features will: not the image token, but the first ids of
    /// the vocabulary behind `<unk>`, one after the other. Features hide them, and n-grams
    /// that must not be repeated are counted over them.
    fillers: Vec<u32>,
    clip_image: ClipImage,
}

/// `processor_config.json`, as far as it matters.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct ProcessorConfig {
    num_patch_index_tokens: usize,
}

impl Default for ProcessorConfig {
    fn default() -> Self {
        Self {
            num_patch_index_tokens: 1024,
        }
    }
}

impl Kosmos2Processor {
    /// Reads tokenizer and settings. The size of pictures is the tower's.
    pub(super) fn new(
        files: &ModelFiles,
        config: &Config,
        source: &Source<'_>,
    ) -> Result<Self, LoadError> {
        let tower = super::tower(&source.root());
        config.stated().check(&tower)?;
        let geometry = Geometry::read(&tower)?;
        let vocab_size = config.text_config.sizes()?.vocab_size;
        let tokenizer = tokenizer(files)?;
        text::check_vocabulary(&tokenizer, vocab_size)?;
        for token in [BEGIN, IMAGE, IMAGE_END] {
            text::required_token(&tokenizer, token)?;
        }
        let first = text::required_token(&tokenizer, UNKNOWN)? + 1;
        let latents = config.latent_query_num;
        if first as usize + latents > vocab_size {
            return Err(CONFIG.must(
                "text_config.vocab_size",
                format!(
                    "be at least {first}, behind `{UNKNOWN}`, and the {latents} of `latent_query_num`"
                ),
                vocab_size,
            ));
        }
        let generation = text::generation(files)?;
        let stop_ids = generation.eos_token_id.or(&config.text_config.eos_token_id);
        Ok(Self {
            language: Language::new(tokenizer, None, stop_ids.0, vocab_size),
            no_repeat_ngram_size: generation.no_repeat_ngram_size,
            fillers: (first..).take(latents).collect(),
            clip_image: ClipImage::read(files, geometry.side())?,
        })
    }

    /// Reads the processor of a checkpoint, without its weights.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(files: &ModelFiles, options: &LoadOptions) -> Result<Self, LoadError> {
        let weights = files.weights()?;
        let source = Source::new(&weights, options)?;
        Self::new(files, &Config::read(files)?, &source)
    }

    /// Takes a text in the model's own language as it is, with or without a picture in front.
    ///
    /// # Errors
    /// For more than one picture, and as [`Processor::prepare`].
    pub fn prepare_prompt(
        &self,
        text: &str,
        pictures: &[Picture],
    ) -> Result<Prepared, PrepareError> {
        let shown: Vec<usize> = (0..pictures.len()).collect();
        check_number(&shown)?;
        let image = pictures.first().map(|picture| self.image(picture));
        self.place(text, image.transpose().map_err(|error| error.at(0))?)
    }

    /// The same with a picture that the model may take already.
    fn place(&self, text: &str, image: Option<ImageInput>) -> Result<Prepared, PrepareError> {
        let prompt = self.prompt(text, image.is_some());
        let mut tokens = self.language.encode(&prompt, false)?;
        let Some(image) = image else {
            return Ok(Prepared {
                tokens,
                ..Prepared::default()
            });
        };
        // Behind `<s><image>`.
        let place = 2..2 + self.fillers.len();
        tokens.splice(place.start..place.start, self.fillers.iter().copied());
        Ok(Prepared {
            tokens,
            images: vec![image],
            spans: vec![ImageSpan {
                image: 0,
                tokens: place,
            }],
            cross: Vec::new(),
        })
    }

    /// The whole prompt with what users wrote still shielded.
    fn prompt(&self, text: &str, picture: bool) -> String {
        let text = self
            .language
            .tokenizer
            .shield(text.trim_matches(grounding::is_blank));
        if picture {
            format!("{BEGIN}{IMAGE}{IMAGE_END} {text}")
        } else {
            format!("{BEGIN}{text}")
        }
    }
}

/// Reads the tokenizer, in which users may write the model's markup, but no picture.
fn tokenizer(files: &ModelFiles) -> Result<Tokenizer, LoadError> {
    let settings: ProcessorConfig = files.json_or_default("processor_config.json")?;
    let patches = settings.num_patch_index_tokens;
    if patches > MAX_PATCHES {
        return Err(LoadError::invalid(
            "processor_config.json",
            format!("`num_patch_index_tokens` must be at most {MAX_PATCHES}, but is {patches}"),
        ));
    }
    let patches: Vec<String> = (0..patches)
        .map(|patch| format!("{}{patch:04}>", prompt::PATCH))
        .collect();
    let markup: Vec<&str> = prompt::MARKUP
        .into_iter()
        .chain(patches.iter().map(String::as_str))
        .collect();
    let tokenizer = text::tokenizer(files, &[])?
        .with_recognised(&markup)
        .map_err(text::invalid_tokenizer)?;
    for token in markup {
        text::required_token(&tokenizer, token)?;
    }
    Ok(tokenizer)
}

/// `shown` are the places where pictures are shown.
fn check_number(shown: &[usize]) -> Result<(), PrepareError> {
    match shown.get(MAX_PICTURES) {
        None => Ok(()),
        Some(&index) => Err(PrepareError::Image {
            index,
            reason: format!(
                "Kosmos-2 takes {MAX_PICTURES} image per prompt, but the conversation shows {}; \
                 leave the others out",
                shown.len()
            ),
        }),
    }
}

impl Processor for Kosmos2Processor {
    fn image(&self, picture: &Picture) -> Result<ImageInput, ImageError> {
        let view = self.clip_image.middle(picture)?;
        self.clip_image.input(picture, [view], self.fillers.len())
    }

    fn compose(&self, chat: &Chat, images: &[ImageInput]) -> Result<Prepared, PrepareError> {
        check_number(&chat::places(chat))?;
        let shown = Shown::of(chat, images)?;
        self.place(&prompt::text(chat)?, shown.images.into_iter().next())
    }

    fn render(&self, chat: &Chat) -> Result<String, PrepareError> {
        let prompt = self.prompt(&prompt::text(chat)?, !chat::places(chat).is_empty());
        Ok(self.language.unshielded(&prompt))
    }

    fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.language.tokenizer
    }

    fn stop_ids(&self) -> &[u32] {
        &self.language.stop_ids
    }

    fn no_repeat_ngram_size(&self) -> usize {
        self.no_repeat_ngram_size
    }

    fn grounding(&self) -> Option<fn(&str) -> Grounded> {
        Some(grounding::ground)
    }
}
