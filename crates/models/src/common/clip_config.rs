//! A CLIP tower's configuration, by itself or within that of a larger model.

use serde::Deserialize;

use super::activation::Activation;
use super::clip::{Options, Stated};
use super::sizes::{CONFIG_FILE, MAX_LAYERS, MAX_SIZE, check_eps, must, within};
use crate::{LoadError, ModelFiles};

/// Width and heads of a tower whose configuration leaves them out, as in `CLIPVisionConfig`.
const CLIP_HIDDEN: usize = 768;
const CLIP_HEADS: usize = 12;

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
        Ok(match files.json(CONFIG_FILE)? {
            File::Whole { vision_config } | File::Tower(vision_config) => vision_config,
        })
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
            within("vision_config.num_hidden_layers", layers, 1..=MAX_LAYERS)?;
        }
        let mut options = Options::openai(hidden_state);
        let hidden = self.hidden_size.unwrap_or(CLIP_HIDDEN);
        let heads = self.num_attention_heads.unwrap_or(CLIP_HEADS);
        within("vision_config.hidden_size", hidden, 1..=MAX_SIZE)?;
        within("vision_config.num_attention_heads", heads, 1..=hidden)?;
        if !hidden.is_multiple_of(heads) {
            return Err(must(
                "vision_config.hidden_size",
                format!("be a multiple of `vision_config.num_attention_heads` ({heads})"),
                hidden,
            ));
        }
        options.head_dim = hidden / heads;
        if let Some(name) = &self.hidden_act {
            options.activation = Activation::named(name).ok_or_else(|| {
                must(
                    "vision_config.hidden_act",
                    "be `quick_gelu` or `gelu`",
                    name,
                )
            })?;
        }
        if let Some(eps) = self.layer_norm_eps {
            check_eps("vision_config.layer_norm_eps", eps)?;
            options.layer_norm_eps = eps as f32;
        }
        Ok(options)
    }
}
