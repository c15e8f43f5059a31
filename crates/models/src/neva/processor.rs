//! From a conversation to token ids and pixels.

use std::sync::Arc;

use serde_json::Value;
use vlmd_backend::{ImageInput, ImageSpan, Prepared};
use vlmd_media::Picture;
use vlmd_text::Tokenizer;

use super::config::{AspectRatio, Config, FILE};
use super::template::{SEPARATOR, Template};
use crate::common::chat::Shown;
use crate::common::clip::Geometry;
use crate::common::clip_image::ClipImage;
use crate::common::language::Language;
use crate::common::text;
use crate::{Chat, ImageError, LoadError, NemoFiles, PrepareError, Processor};

/// Marks the features of a picture, what is before them, and what is behind them.
const PATCH: &str = "<extra_id_3>";
const START: &str = "<extra_id_4>";
const END: &str = "<extra_id_5>";

/// Marks that stand for Llama's unknown, beginning and end of sequence, which its tokenizer does
/// not find in text.
const LLAMA_MARKS: [(&str, u32); 3] = [
    ("<extra_id_3>", 0),
    ("<extra_id_6>", 1),
    ("<extra_id_7>", 2),
];

/// The template argument that names a template other than the archive's.
const TEMPLATE: &str = "conv_template";

/// Ends an answer, beside the tokenizer's own end.
const STOPS: [&str; 2] = ["</s>", "<|endoftext|>"];

/// Makes prompts for NeVA.
#[derive(Debug)]
pub struct NevaProcessor {
    language: Language,
    template: Template,
    start: u32,
    end: u32,
    /// Tokens and what stands in their place in Llama's templates.
    replaced: Vec<(u32, u32)>,
    clip_image: ClipImage,
    aspect_ratio: AspectRatio,
    /// Features of a picture.
    features: usize,
    use_im_start_end: bool,
}

impl NevaProcessor {
    /// Reads tokenizer and settings; `geometry` is the tower's, and `rows` the number of tokens
    /// that have an embedding.
    pub(super) fn new(
        files: &NemoFiles,
        config: &Config,
        geometry: Geometry,
        rows: usize,
    ) -> Result<Self, LoadError> {
        let name = config.tokenizer()?;
        let tokenizer = text::sentencepiece(files, name)?;
        let tokens = tokenizer.vocab_size();
        if tokens > rows {
            return Err(LoadError::invalid(
                name,
                format!("has {tokens} tokens, more than the {rows} that have an embedding"),
            ));
        }
        let required = |token| text::required_in(name, &tokenizer, token);
        let template = config.template()?;
        let replaced = LLAMA_MARKS.iter().filter_map(|&(mark, other)| {
            let mark = tokenizer.token_to_id(mark)?;
            Some((mark, other))
        });
        let replaced = replaced.collect();
        let stops = STOPS.iter().filter_map(|t| tokenizer.token_to_id(t));
        let mut stop_ids: Vec<u32> = stops.collect();
        if !template.is_llamas() {
            stop_ids.push(required(SEPARATOR)?);
        }
        required(PATCH)?;
        let clip_image = match files.tower() {
            Some(tower) => ClipImage::read(tower, geometry.side())?,
            None => ClipImage::openai(geometry.side()),
        };
        let features = geometry.features(config.keeps_class_token()?);
        let use_im_start_end = config.use_im_start_end();
        if !use_im_start_end && features < 2 {
            return Err(LoadError::invalid(
                FILE.0,
                "`mm_cfg.use_im_start_end` must be true where a picture has a single feature",
            ));
        }
        Ok(Self {
            template,
            start: required(START)?,
            end: required(END)?,
            replaced,
            clip_image,
            aspect_ratio: config.aspect_ratio()?,
            features,
            use_im_start_end,
            language: Language::new(tokenizer, None, stop_ids, tokens),
        })
    }

    /// Tokens that may be sampled.
    pub(super) fn vocab_size(&self) -> usize {
        self.language.vocab_size
    }

    /// The text that stands for a picture. Where the marks around it are replaced by features as
    /// well, they count.
    fn image_text(&self) -> String {
        let patches = if self.use_im_start_end {
            self.features
        } else {
            self.features.saturating_sub(2)
        };
        format!("{START}{}{END}", PATCH.repeat(patches))
    }

    /// The prompt with what users wrote still shielded.
    fn render_shielded(&self, chat: &Chat) -> Result<String, PrepareError> {
        let shield = |text: &str| self.language.tokenizer.shield(text).into_owned();
        let template = self.template(chat)?;
        template.render(chat, &self.image_text(), shield)
    }

    /// The template that the request asks for, or else the archive's.
    fn template(&self, chat: &Chat) -> Result<Template, PrepareError> {
        let wanted = match chat.template_kwargs.get(TEMPLATE) {
            None | Some(Value::Null) => return Ok(self.template),
            Some(wanted) => wanted,
        };
        let mut known = Template::NAMED.iter();
        let found = known.find(|(name, _)| wanted.as_str() == Some(name));
        found.map(|&(_, template)| template).ok_or_else(|| {
            let names = Template::NAMED.map(|(name, _)| name).join(", ");
            PrepareError::Template(format!(
                "`{TEMPLATE}` must be one of {names}, but is {wanted}"
            ))
        })
    }

    /// Where the pictures' features go: `places` are the indices of the pictures, in order.
    fn spans(&self, tokens: &[u32], places: &[usize]) -> Result<Vec<ImageSpan>, PrepareError> {
        let outside = usize::from(self.use_im_start_end);
        let ends = tokens
            .iter()
            .enumerate()
            .filter(|&(_, &token)| token == self.end);
        let spans = ends.zip(places).map(|((end, _), &image)| {
            let start = (end + 1).checked_sub(outside + self.features)?;
            let first = start.checked_sub(outside)?;
            (tokens.get(first) == Some(&self.start)).then_some(ImageSpan {
                image,
                tokens: start..start + self.features,
            })
        });
        let spans: Option<Vec<_>> = spans.collect();
        match spans {
            Some(spans) if spans.len() == places.len() => Ok(spans),
            _ => Err(PrepareError::Template(format!(
                "its marks do not fit {} picture(s)",
                places.len()
            ))),
        }
    }
}

impl Processor for NevaProcessor {
    fn image(&self, picture: &Picture) -> Result<ImageInput, ImageError> {
        let view = match self.aspect_ratio {
            AspectRatio::Square => self.clip_image.middle(picture)?,
            AspectRatio::Pad => self.clip_image.padded(picture),
        };
        self.clip_image.input(picture, [view], self.features)
    }

    fn compose(&self, chat: &Chat, images: &[ImageInput]) -> Result<Prepared, PrepareError> {
        let shown = Shown::of(chat, images)?;
        let prompt = self.render_shielded(chat)?;
        let mut tokens = self.language.encode(&prompt, false)?;
        let replaced: &[_] = if self.template(chat)?.is_llamas() {
            &self.replaced
        } else {
            &[]
        };
        for token in &mut tokens {
            if let Some(&(_, other)) = replaced.iter().find(|(mark, _)| mark == token) {
                *token = other;
            }
        }
        Ok(Prepared {
            spans: self.spans(&tokens, &shown.places)?,
            images: shown.images,
            tokens,
            ..Prepared::default()
        })
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

    fn takes_labels(&self) -> bool {
        self.template == Template::SteerLm
    }
}
