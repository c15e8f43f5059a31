//! From a conversation to token ids and views, as `processing_llava.py` and
//! `processing_llava_next.py` do it.

use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;
use serde::Deserialize;
use vlmd_backend::{ImageInput, Prepared};
use vlmd_media::Picture;
use vlmd_text::{ChatTemplate, Tokenizer};

use super::anyres::{self, Plan};
use super::config::Config;
use super::templates;
use crate::common::clip::Geometry;
use crate::common::clip_image::ClipImage;
use crate::common::placeholder;
use crate::common::{chat, text};
use crate::{Chat, LoadError, ModelFiles, PrepareError, Processor};

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
pub struct LlavaProcessor {
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    stop_ids: Vec<u32>,
    vocab_size: usize,
    image_token: u32,
    clip_image: ClipImage,
    views: Views,
    /// Patches per side of what the tower takes.
    grid: usize,
    /// Features of a view: its patches, and the class token where it is kept.
    view_features: usize,
}

impl fmt::Debug for LlavaProcessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlavaProcessor")
            .field("stop_ids", &self.stop_ids)
            .field("image_token", &self.image_token)
            .field("views", &self.views)
            .finish_non_exhaustive()
    }
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
        let image_token = text::required_token(&tokenizer, image)?;
        if image_token != config.image_token_index {
            return Err(LoadError::invalid(
                "config.json",
                format!(
                    "`image_token_index` must be {image_token}, the id of `{image}` in the \
                     tokenizer, but is {}",
                    config.image_token_index
                ),
            ));
        }
        // The text half's own, which transformers writes out even where it is not the model's,
        // counts only where the settings of generation say nothing.
        let usual = ["</s>", "<|im_end|>"];
        let usual = usual
            .iter()
            .filter_map(|token| tokenizer.token_to_id(token));
        let configured = [
            text::generation_stops(files)?.0,
            config.text_config.eos_token_id.0.clone(),
        ];
        let configured = configured.into_iter().find(|ids| !ids.is_empty());
        let stop_ids = configured.unwrap_or_else(|| usual.collect());
        let view_features = geometry.grid * geometry.grid + usize::from(config.keeps_class_token());
        let fallback = templates::for_checkpoint(config, &tokenizer, &views);
        Ok(Self {
            template: text::chat_template(files, fallback)?,
            stop_ids: text::stop_ids(stop_ids),
            vocab_size: sizes.vocab_size,
            image_token,
            clip_image: ClipImage::read(files, geometry.side())?,
            views,
            grid: geometry.grid,
            view_features,
            tokenizer: Arc::new(tokenizer),
        })
    }

    fn image(&self, picture: &Picture) -> Result<ImageInput, PrepareError> {
        let size = (picture.height() as usize, picture.width() as usize);
        let (pixels, features) = match &self.views {
            Views::Middle => (self.clip_image.middle(picture)?, self.view_features),
            Views::Anyres(pinpoints) => {
                let side = self.clip_image.side();
                let plan = Plan::new((size.1, size.0), pinpoints, side, self.grid);
                let mut views = vec![self.clip_image.squeezed(picture)?];
                for patch in anyres::patches(picture, &plan, side, self.clip_image.filter()) {
                    views.push(self.clip_image.middle(&patch)?);
                }
                (
                    Tensor::cat(&views, 0)?,
                    self.view_features + plan.features(),
                )
            }
        };
        Ok(ImageInput {
            pixels,
            size,
            features,
        })
    }

    /// The prompt with what users wrote still shielded.
    fn render_shielded(&self, chat: &Chat) -> Result<String, PrepareError> {
        let messages = chat::messages(chat, &self.tokenizer, false);
        let kwargs = self.tokenizer.shield_map(&chat.template_kwargs);
        text::render(&self.template, &messages, &kwargs)
    }
}

impl Processor for LlavaProcessor {
    fn prepare(&self, chat: &Chat, pictures: &[Picture]) -> Result<Prepared, PrepareError> {
        let order = chat::shown(chat);
        let shown = chat::pictures(chat, pictures)?;
        let prompt = self.render_shielded(chat)?;
        let images = shown
            .iter()
            .map(|picture| self.image(picture))
            .collect::<Result<Vec<_>, _>>()?;
        let tokens = text::encode(&self.tokenizer, &prompt, true, self.vocab_size)?;
        let places = chat::numbers(chat, &order);
        placeholder::expand(&tokens, self.image_token, &places, images)
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
