//! A CLIP tower's configuration, by itself or within that of a larger model.

use serde::Deserialize;

use super::activation::Activation;
use super::clip::{Geometry, Options, Stated};
use super::fields::CONFIG;
use super::sizes::{MAX_LAYERS, MAX_SIZE};
use crate::{LoadError, ModelFiles};

/// Sizes of a tower whose configuration leaves them out, as in `CLIPVisionConfig`.
const CLIP_HIDDEN: usize = 768;
const CLIP_HEADS: usize = 12;
const CLIP_IMAGE: usize = 224;
const CLIP_PATCH: usize = 32;

/// `vision_config`. Of what is missing the tensors tell the sizes, and the rest is OpenAI's.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct ClipConfig {
    pub(crate) model_type: Option<String>,
    hidden_size: Option<usize>,
    image_size: Option<usize>,
    patch_size: Option<usize>,
    num_attention_heads: Option<usize>,
    pub(crate) num_hidden_layers: Option<usize>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f64>,
}

impl ClipConfig {
    /// Reads that of a checkpoint of CLIP, whole or of the tower alone.
    pub(crate) fn read(files: &ModelFiles) -> Result<Self, LoadError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum File {
            Whole { vision_config: ClipConfig },
            Tower(ClipConfig),
        }
        Ok(match files.json(CONFIG.0)? {
            File::Whole { vision_config } | File::Tower(vision_config) => vision_config,
        })
    }

    /// OpenAI's ViT-L/14, which is what `Kosmos2VisionConfig` means where it says nothing.
    pub(crate) fn vit_l_14() -> Self {
        Self {
            model_type: None,
            hidden_size: Some(1024),
            image_size: Some(224),
            patch_size: Some(14),
            num_attention_heads: Some(16),
            num_hidden_layers: Some(24),
            hidden_act: None,
            layer_norm_eps: None,
        }
    }

    /// The same for pictures of 336 x 336, which is what Phi-3-vision's code means by its name.
    pub(crate) fn vit_l_14_336() -> Self {
        Self {
            image_size: Some(336),
            ..Self::vit_l_14()
        }
    }

    /// How the tower cuts a picture up, where there are no tensors to tell it.
    pub(crate) fn geometry(&self) -> Result<Geometry, LoadError> {
        let hidden = self.hidden_size.unwrap_or(CLIP_HIDDEN);
        let image = self.image_size.unwrap_or(CLIP_IMAGE);
        let patch = self.patch_size.unwrap_or(CLIP_PATCH);
        CONFIG.within("vision_config.hidden_size", hidden, 1..=MAX_SIZE)?;
        CONFIG.within("vision_config.image_size", image, 1..=MAX_SIZE)?;
        CONFIG.within("vision_config.patch_size", patch, 1..=image)?;
        Ok(Geometry {
            hidden,
            patch,
            grid: image / patch,
        })
    }

    /// Takes what is missing from `other`.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            model_type: self.model_type.or(other.model_type),
            hidden_size: self.hidden_size.or(other.hidden_size),
            image_size: self.image_size.or(other.image_size),
            patch_size: self.patch_size.or(other.patch_size),
            num_attention_heads: self.num_attention_heads.or(other.num_attention_heads),
            num_hidden_layers: self.num_hidden_layers.or(other.num_hidden_layers),
            hidden_act: self.hidden_act.or(other.hidden_act),
            layer_norm_eps: self.layer_norm_eps.or(other.layer_norm_eps),
        }
    }

    /// What the tensors tell, too.
    pub(crate) fn stated(&self) -> Stated {
        Stated {
            hidden_size: self.hidden_size,
            image_size: self.image_size,
            patch_size: self.patch_size,
            num_hidden_layers: self.num_hidden_layers,
        }
    }

    /// What the tensors do not tell, for the features `hidden_state`.
    pub(crate) fn options(&self, hidden_state: i64) -> Result<Options, LoadError> {
        if let Some(layers) = self.num_hidden_layers {
            CONFIG.within("vision_config.num_hidden_layers", layers, 1..=MAX_LAYERS)?;
        }
        let mut options = Options::openai(hidden_state);
        let hidden = self.hidden_size.unwrap_or(CLIP_HIDDEN);
        let heads = self.num_attention_heads.unwrap_or(CLIP_HEADS);
        CONFIG.within("vision_config.hidden_size", hidden, 1..=MAX_SIZE)?;
        CONFIG.within("vision_config.num_attention_heads", heads, 1..=hidden)?;
        CONFIG.multiple(
            "vision_config.hidden_size",
            hidden,
            "vision_config.num_attention_heads",
            heads,
        )?;
        options.head_dim = hidden / heads;
        if let Some(name) = &self.hidden_act {
            options.activation = Activation::read("vision_config.hidden_act", name)?;
        }
        if let Some(eps) = self.layer_norm_eps {
            options.layer_norm_eps = CONFIG.eps("vision_config.layer_norm_eps", eps)?;
        }
        Ok(options)
    }
}
