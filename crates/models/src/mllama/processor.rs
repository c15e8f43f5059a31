//! From a conversation to token ids and tiles, as `processing_mllama.py` does it.

use std::borrow::Cow;
use std::sync::Arc;

use vlmd_backend::{CrossImage, CrossSpan, ImageInput, Prepared};
use vlmd_media::Picture;
use vlmd_text::{Tokenizer, ToolFamily};

use super::canvas::Tiling;
use super::config::{Config, UNSAID_TOKENS};
use crate::common::chat::{self, Shown};
use crate::common::fields::CONFIG;
use crate::common::language::Language;
use crate::common::{placeholder, text};
use crate::load::Source;
use crate::{Chat, ImageError, LoadError, LoadOptions, ModelFiles, PrepareError, Processor};

/// Stands for a picture in a prompt.
const IMAGE: &str = "<|image|>";

const BEGIN: &str = "<|begin_of_text|>";

/// Makes prompts for Llama-3.2-Vision.
///
/// A picture is one token, `<|image|>`. The text from it on, up to the next picture, looks at it
/// by cross-attention; pictures without text between them are looked at together.
#[derive(Debug)]
pub struct MllamaProcessor {
    /// Tokens that may stand in a prompt are the vocabulary and the image's.
    language: Language,
    image_token: u32,
    tiling: Tiling,
    max_tiles: usize,
    /// Tokens of a tile.
    tile_tokens: usize,
    /// Text before the first picture sees all tiles of all pictures, as in transformers.
    unseen_rows_look: bool,
}

impl MllamaProcessor {
    /// Reads tokenizer, template and settings.
    pub(super) fn new(
        files: &ModelFiles,
        config: &Config,
        source: &Source<'_>,
    ) -> Result<Self, LoadError> {
        let tokenizer = text::tokenizer(files, &[])?;
        let image_token = text::image_token(&tokenizer, IMAGE, config.image_token_index)?;
        let vision = &config.vision_config;
        let tiling = Tiling::read(files, vision)?;
        let generation = text::generation(files)?.eos_token_id;
        let stop_ids = generation
            .0
            .iter()
            .chain(&config.text().eos_token_id.0)
            .copied();
        let vocab_size = config.text_sizes()?.vocab_size;
        let rows = vocab_size + UNSAID_TOKENS;
        text::check_vocabulary(&tokenizer, rows)?;
        if image_token as usize >= rows {
            return Err(CONFIG.must(
                "image_token_index",
                format!("be below {rows}, the rows of the embedding"),
                image_token,
            ));
        }
        let template = text::chat_template(files, None)?;
        let input_vocab_size = vocab_size.max(image_token as usize + 1);
        Ok(Self {
            language: Language::new(tokenizer, template, stop_ids, input_vocab_size),
            image_token,
            tiling,
            max_tiles: vision.max_num_tiles,
            tile_tokens: vision.tile_tokens(),
            unseen_rows_look: source.transformers_quirks(),
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

    /// Tokenises a prompt as it is, with `pictures` at its `<|image|>` tokens in their order.
    ///
    /// # Errors
    /// When there are more or fewer tokens than pictures.
    pub fn prepare_prompt(
        &self,
        prompt: &str,
        pictures: &[Picture],
    ) -> Result<Prepared, PrepareError> {
        let images = pictures
            .iter()
            .enumerate()
            .map(|(index, picture)| self.image(picture).map_err(|error| error.at(index)))
            .collect::<Result<Vec<_>, _>>()?;
        let places: Vec<usize> = (0..images.len()).collect();
        self.place(prompt, &places, images)
    }

    /// Tokenises a rendered prompt, with `images` at its `<|image|>` tokens in their order.
    ///
    /// `places[k]` is the index into `images` of the picture that the `k`-th token stands for.
    fn place(
        &self,
        prompt: &str,
        places: &[usize],
        images: Vec<ImageInput>,
    ) -> Result<Prepared, PrepareError> {
        // Templates write the beginning of the text themselves; a second one would be wrong.
        // Where there is none, it stands behind pictures that begin the prompt.
        let prompt = if prompt.contains(BEGIN) {
            Cow::Borrowed(prompt)
        } else {
            let text = prompt.trim_start_matches(IMAGE);
            let pictures = &prompt[..prompt.len() - text.len()];
            Cow::Owned(format!("{pictures}{BEGIN}{text}"))
        };
        let tokens = self.language.encode(&prompt, false)?;
        let at = placeholder::find(&tokens, self.image_token, places.len())?;
        Ok(Prepared {
            cross: self.cross(&at, places, &images),
            tokens,
            images,
            spans: Vec::new(),
        })
    }

    /// Which tokens look at which pictures, given where the pictures' tokens stand.
    fn cross(&self, at: &[usize], places: &[usize], images: &[ImageInput]) -> Vec<CrossSpan> {
        let Some(&first) = at.first() else {
            return Vec::new();
        };
        let seen = |place: usize| {
            let image = places[place];
            let (rows, columns) = images[image].size;
            CrossImage {
                image,
                visible: rows * columns * self.tile_tokens,
            }
        };
        let mut spans = Vec::new();
        if self.unseen_rows_look && first > 0 {
            let all = |&image: &usize| CrossImage {
                image,
                visible: images[image].features,
            };
            spans.push(CrossSpan {
                images: places.iter().map(all).collect(),
                tokens: 0..first,
                unseen: true,
            });
        }
        let ends = ends(at);
        for (nth, &start) in at.iter().enumerate() {
            let next = at.get(nth + 1).copied().unwrap_or(usize::MAX);
            let visible = (0..=nth).filter(|&earlier| ends[earlier] > start);
            spans.push(CrossSpan {
                images: visible.map(seen).collect(),
                tokens: start..next,
                unseen: false,
            });
        }
        spans
    }

    /// The prompt with what users wrote still shielded.
    fn render_shielded(&self, chat: &Chat) -> Result<String, PrepareError> {
        let messages = chat::messages(chat, &self.language, true);
        let rendered = self.language.render(chat, messages);
        rendered.map_err(|error| with_advice(chat, error))
    }
}

/// An error of the template with what to do about it. Meta's template has no place for pictures
/// beside a system message, nor in a first message that is to carry the tools.
fn with_advice(chat: &Chat, error: PrepareError) -> PrepareError {
    let PrepareError::Template(reason) = error else {
        return error;
    };
    let has_system = chat.messages.iter().any(|message| message.role == "system");
    let advice = if chat::places(chat).is_empty() {
        None
    } else if !chat.tools.is_empty() {
        Some("leave out `tools`, or show the picture in a later message than the first")
    } else {
        has_system.then_some("put the system message's text into the first user message")
    };
    PrepareError::Template(match advice {
        Some(advice) => format!("{reason}; {advice}"),
        None => reason,
    })
}

/// Where each picture is looked at for the last time, exclusively, given where the tokens stand:
/// until the next picture comes; those that stand side by side until the last of them is over.
fn ends(at: &[usize]) -> Vec<usize> {
    let next = at.iter().skip(1).copied().chain([usize::MAX]);
    let mut ends: Vec<usize> = next.take(at.len()).collect();
    for index in (0..at.len().saturating_sub(1)).rev() {
        if at[index] + 1 == at[index + 1] {
            ends[index] = ends[index + 1];
        }
    }
    ends
}

impl Processor for MllamaProcessor {
    fn image(&self, picture: &Picture) -> Result<ImageInput, ImageError> {
        let tiles = self.tiling.apply(picture)?;
        let (rows, columns) = (tiles.canvas.rows, tiles.canvas.columns);
        // Tiles that the picture does not have are seen by nobody, but for that quirk.
        let kept = if self.unseen_rows_look {
            self.max_tiles
        } else {
            rows * columns
        };
        Ok(ImageInput::new(
            vec![tiles.pixels],
            (rows, columns),
            kept * self.tile_tokens,
        )?)
    }

    fn compose(&self, chat: &Chat, images: &[ImageInput]) -> Result<Prepared, PrepareError> {
        let shown = Shown::of(chat, images)?;
        self.place(&self.render_shielded(chat)?, &shown.places, shown.images)
            .map_err(|error| with_advice(chat, error))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_looked_at_until_the_next_and_neighbours_together() {
        // As `get_cross_attention_token_mask` of transformers.
        const END: usize = usize::MAX;
        assert_eq!(ends(&[3]), [END]);
        assert_eq!(ends(&[3, 9]), [9, END]);
        assert_eq!(ends(&[3, 4, 9]), [9, 9, END]);
        assert_eq!(ends(&[3, 8, 9, 10]), [8, END, END, END]);
        assert!(ends(&[]).is_empty());
    }
}
