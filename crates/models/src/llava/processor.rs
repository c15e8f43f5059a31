//! From a conversation to token ids and views, as `processing_llava.py` and
//! `processing_llava_next.py` do it.

use std::sync::Arc;

use serde::Deserialize;
use vlmd_backend::{ImageInput, Prepared};
use vlmd_media::Picture;
use vlmd_text::{Tokenizer, ToolFamily};

use super::anyres::{self, Plan};
use super::config::Config;
use super::templates;
use crate::common::chat::{self, Shown};
use crate::common::clip::Geometry;
use crate::common::clip_image::ClipImage;
use crate::common::language::Language;
use crate::common::placeholder;
use crate::common::text::{self, TokenIds};
use crate::{Chat, ImageError, LoadError, ModelFiles, PrepareError, Processor};

/// How pictures become views.
#[derive(Debug, Clone)]
pub(super) enum Views {
    /// The middle, scaled to what the tower takes.
    Middle,
    /// The whole, squeezed to what the tower takes, and patches of one of these sizes,
    /// `(height, width)`.
    Anyres(Vec<(usize, usize)>),
}

/// Makes prompts for LLaVA-1.5 and LLaVA-NeXT.
#[derive(Debug)]
pub struct LlavaProcessor {
    language: Language,
    image_token: u32,
    clip_image: ClipImage,
    views: Views,
    /// Patches per side of what the tower takes.
    grid: usize,
    /// Features of a view: its patches, and the class token where it is kept.
    view_features: usize,
}

/// `processor_config.json`, as far as it matters. Old checkpoints have none.
#[derive(Debug, Default, Deserialize)]
struct ProcessorConfig {
    image_token: Option<String>,
}

impl LlavaProcessor {
    /// Reads tokenizer, template and settings. The size of views is the tower's.
    pub(super) fn new(
        files: &ModelFiles,
        config: &Config,
        geometry: Geometry,
        views: Views,
    ) -> Result<Self, LoadError> {
        let names: ProcessorConfig = files.json_or_default("processor_config.json")?;
        let image = names.image_token.as_deref().unwrap_or("<image>");
        let tokenizer = text::tokenizer(files, &[image])?;
        let sizes = config.text_config.sizes(config.text_defaults()?)?;
        text::check_vocabulary(&tokenizer, sizes.vocab_size)?;
        let image_token = text::image_token(&tokenizer, image, config.image_token_index)?;
        // The text half's own, which transformers writes out even where it is not the model's,
        // counts only where the settings of generation say nothing.
        let usual = ["</s>", "<|im_end|>"];
        let usual = usual.iter().filter_map(|t| tokenizer.token_to_id(t));
        let stop_ids = text::generation(files)?.eos_token_id;
        let stop_ids = stop_ids.or(&config.text_config.eos_token_id);
        let stop_ids = stop_ids.or(&TokenIds(usual.collect()));
        let fallback = templates::for_checkpoint(config, &tokenizer, &views);
        let template = text::chat_template(files, Some(fallback))?;
        Ok(Self {
            language: Language::new(tokenizer, template, stop_ids.0, sizes.vocab_size),
            image_token,
            clip_image: ClipImage::read(files, geometry.side())?,
            views,
            grid: geometry.grid,
            view_features: geometry.features(config.keeps_class_token()),
        })
    }

    /// The prompt with what users wrote still shielded.
    fn render_shielded(&self, chat: &Chat) -> Result<String, PrepareError> {
        let messages = chat::messages(chat, &self.language, false);
        self.language.render(chat, messages)
    }
}

impl Processor for LlavaProcessor {
    fn image(&self, picture: &Picture) -> Result<ImageInput, ImageError> {
        let (views, features) = match &self.views {
            Views::Middle => (vec![self.clip_image.middle(picture)?], self.view_features),
            Views::Anyres(pinpoints) => {
                let side = self.clip_image.side();
                let size = (picture.width() as usize, picture.height() as usize);
                let plan = Plan::new(size, pinpoints, side, self.grid);
                let mut views = vec![self.clip_image.squeezed(picture)];
                for patch in anyres::patches(picture, &plan, side, self.clip_image.filter()) {
                    views.push(self.clip_image.middle(&patch)?);
                }
                (views, self.view_features + plan.features())
            }
        };
        self.clip_image.input(picture, views, features)
    }

    fn compose(&self, chat: &Chat, images: &[ImageInput]) -> Result<Prepared, PrepareError> {
        let shown = Shown::of(chat, images)?;
        let tokens = self.language.encode(&self.render_shielded(chat)?, true)?;
        placeholder::expand(&tokens, self.image_token, &shown.places, shown.images)
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
