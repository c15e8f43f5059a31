//! `config.json`, checked.

use serde::Deserialize;

use crate::common::activation::Activation;
use crate::common::clip;
use crate::common::sizes::{CONFIG_FILE, check_eps, must, within};
use crate::common::text_config::{Defaults, LLAMA, MISTRAL, TextConfig};
use crate::{LoadError, ModelFiles};

/// Most sizes that a picture may be laid out in, and pixels of a side of one.
const MAX_PINPOINTS: usize = 256;
const MAX_PINPOINT: usize = 1 << 14;

/// `config.json`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    pub(super) text_config: TextConfig,
    #[serde(default)]
    vision_config: VisionConfig,
    /// `image_token_id` since transformers 4.52.
    #[serde(default = "default_image_token", alias = "image_token_id")]
    pub(super) image_token_index: u32,
    #[serde(default = "default_activation")]
    projector_hidden_act: String,
    #[serde(default = "default_true")]
    pub(super) multimodal_projector_bias: bool,
    #[serde(default = "default_layer")]
    vision_feature_layer: i64,
    #[serde(default = "default_strategy")]
    vision_feature_select_strategy: String,
    #[serde(default)]
    tie_word_embeddings: bool,
    /// `(height, width)` in pixels. LLaVA-NeXT only.
    image_grid_pinpoints: Option<Vec<(usize, usize)>>,
}

/// `vision_config`, as far as the tensors' shapes do not tell it.
#[derive(Debug, Clone, Default, Deserialize)]
struct VisionConfig {
    model_type: Option<String>,
    hidden_size: Option<usize>,
    num_attention_heads: Option<usize>,
    num_hidden_layers: Option<usize>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f64>,
}

fn default_image_token() -> u32 {
    32_000
}
fn default_activation() -> String {
    "gelu".to_owned()
}
fn default_true() -> bool {
    true
}
fn default_layer() -> i64 {
    -2
}
fn default_strategy() -> String {
    "default".to_owned()
}

impl Config {
    /// Reads and checks `config.json`.
    pub(super) fn read(files: &ModelFiles) -> Result<Self, LoadError> {
        let config: Self = files.json(CONFIG_FILE)?;
        config.text_config.sizes(config.text_defaults()?)?;
        config.tower()?;
        config.projector_activation()?;
        let strategy = config.vision_feature_select_strategy.as_str();
        if !matches!(strategy, "default" | "full") {
            return Err(must(
                "vision_feature_select_strategy",
                "be `default` or `full`",
                strategy,
            ));
        }
        Ok(config)
    }

    /// What the text half's missing fields mean.
    pub(super) fn text_defaults(&self) -> Result<&'static Defaults, LoadError> {
        match self.text_config.model_type.as_deref() {
            None | Some("llama") => Ok(&LLAMA),
            Some("mistral") => Ok(&MISTRAL),
            Some(other) => Err(must(
                "text_config.model_type",
                "be `llama` or `mistral`",
                other,
            )),
        }
    }

    pub(super) fn tie_word_embeddings(&self) -> bool {
        self.tie_word_embeddings || self.text_config.tie_word_embeddings
    }

    /// The class token is a feature, too.
    pub(super) fn keeps_class_token(&self) -> bool {
        self.vision_feature_select_strategy == "full"
    }

    /// What tensors do not tell about the tower.
    pub(super) fn tower(&self) -> Result<clip::Options, LoadError> {
        let vision = &self.vision_config;
        if let Some(kind) = &vision.model_type
            && kind != "clip_vision_model"
        {
            return Err(must(
                "vision_config.model_type",
                "be `clip_vision_model`",
                kind,
            ));
        }
        let layer = self.vision_feature_layer;
        let hidden_state = match vision.num_hidden_layers {
            _ if layer < 0 => layer,
            // Counted from the end, of one state more than there are layers.
            Some(layers) if layer as usize <= layers => layer - layers as i64 - 1,
            _ => {
                return Err(must(
                    "vision_feature_layer",
                    "be below 0 or one of the `vision_config.num_hidden_layers`",
                    layer,
                ));
            }
        };
        let mut options = clip::Options::openai(hidden_state);
        if let (Some(hidden), Some(heads)) = (vision.hidden_size, vision.num_attention_heads) {
            within(
                "vision_config.num_attention_heads",
                heads,
                1..=hidden.max(1),
            )?;
            options.head_dim = hidden / heads;
        }
        if let Some(name) = &vision.hidden_act {
            options.activation = Activation::named(name).ok_or_else(|| {
                must(
                    "vision_config.hidden_act",
                    "be `quick_gelu` or `gelu`",
                    name,
                )
            })?;
        }
        if let Some(eps) = vision.layer_norm_eps {
            check_eps("vision_config.layer_norm_eps", eps)?;
            options.layer_norm_eps = eps as f32;
        }
        Ok(options)
    }

    /// Between the projector's two layers.
    pub(super) fn projector_activation(&self) -> Result<Activation, LoadError> {
        let name = &self.projector_hidden_act;
        Activation::named(name)
            .ok_or_else(|| must("projector_hidden_act", "be `gelu` or `quick_gelu`", name))
    }

    /// Sizes that a picture may be laid out in, `(height, width)`, each a multiple of `side`.
    pub(super) fn pinpoints(&self, side: usize) -> Result<Vec<(usize, usize)>, LoadError> {
        let pinpoints = match &self.image_grid_pinpoints {
            Some(pinpoints) => pinpoints.clone(),
            // `LlavaNextConfig`'s.
            None => vec![(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)],
        };
        let fits =
            |length: &usize| (1..=MAX_PINPOINT).contains(length) && length.is_multiple_of(side);
        let all_fit = pinpoints
            .iter()
            .all(|(high, wide)| fits(high) && fits(wide));
        if !all_fit || !(1..=MAX_PINPOINTS).contains(&pinpoints.len()) {
            return Err(must(
                "image_grid_pinpoints",
                format!(
                    "be 1 to {MAX_PINPOINTS} sizes whose sides are multiples of {side}, what \
                     the tower takes, and at most {MAX_PINPOINT}"
                ),
                format!("{pinpoints:?}"),
            ));
        }
        Ok(pinpoints)
    }
}
