//! `config.json`, checked.

use serde::Deserialize;

use crate::common::activation::Activation;
use crate::common::clip;
use crate::common::sizes::{CONFIG_FILE, MAX_LAYERS, MAX_SIZE, Sizes, check_eps, must, within};
use crate::common::text::TokenIds;
use crate::{LoadError, ModelFiles};

/// `config.json`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    pub(super) text_config: TextConfig,
    #[serde(default)]
    pub(super) vision_config: VisionConfig,
    /// Features that a picture becomes.
    #[serde(default = "default_latents")]
    pub(super) latent_query_num: usize,
}

/// `text_config`; what is missing is as in `Kosmos2TextConfig`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(super) struct TextConfig {
    vocab_size: usize,
    max_position_embeddings: usize,
    embed_dim: usize,
    layers: usize,
    ffn_dim: usize,
    attention_heads: usize,
    activation_function: String,
    layer_norm_eps: f64,
    scale_embedding: bool,
    pub(super) eos_token_id: TokenIds,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 65_037,
            max_position_embeddings: 2048,
            embed_dim: 2048,
            layers: 24,
            ffn_dim: 8192,
            attention_heads: 32,
            activation_function: "gelu".to_owned(),
            layer_norm_eps: 1e-5,
            scale_embedding: true,
            eos_token_id: TokenIds(vec![2]),
        }
    }
}

/// `vision_config`; what is missing is as in `Kosmos2VisionConfig`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(super) struct VisionConfig {
    hidden_size: usize,
    image_size: usize,
    patch_size: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    hidden_act: String,
    layer_norm_eps: f64,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 1024,
            image_size: 224,
            patch_size: 14,
            num_attention_heads: 16,
            num_hidden_layers: 24,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
        }
    }
}

fn default_latents() -> usize {
    64
}

impl Config {
    /// Reads and checks `config.json`.
    pub(super) fn read(files: &ModelFiles) -> Result<Self, LoadError> {
        let config: Self = files.json(CONFIG_FILE)?;
        let text = config.text_config.sizes()?;
        config.text_config.activation()?;
        config.text_config.layer_norm_eps()?;
        config.tower()?;
        // A picture's features, what frames them and one token of an answer.
        let most = text.max_positions.saturating_sub(4);
        within("latent_query_num", config.latent_query_num, 1..=most)?;
        Ok(config)
    }

    /// What tensors tell about the tower, too.
    pub(super) fn stated(&self) -> clip::Stated {
        let vision = &self.vision_config;
        clip::Stated {
            hidden_size: Some(vision.hidden_size),
            image_size: Some(vision.image_size),
            patch_size: Some(vision.patch_size),
            num_hidden_layers: Some(vision.num_hidden_layers),
        }
    }

    /// What tensors do not tell about the tower.
    pub(super) fn tower(&self) -> Result<clip::Options, LoadError> {
        let vision = &self.vision_config;
        let (hidden, heads) = (vision.hidden_size, vision.num_attention_heads);
        within("vision_config.hidden_size", hidden, 1..=MAX_SIZE)?;
        within("vision_config.num_attention_heads", heads, 1..=hidden)?;
        divides(
            "vision_config.hidden_size",
            hidden,
            "vision_config.num_attention_heads",
            heads,
        )?;
        let layers = vision.num_hidden_layers;
        within("vision_config.num_hidden_layers", layers, 1..=MAX_LAYERS)?;
        check_eps("vision_config.layer_norm_eps", vision.layer_norm_eps)?;
        Ok(clip::Options {
            hidden_state: -1,
            head_dim: hidden / heads,
            activation: activation("vision_config.hidden_act", &vision.hidden_act)?,
            layer_norm_eps: vision.layer_norm_eps as f32,
        })
    }
}

impl TextConfig {
    /// The decoder's sizes, checked.
    pub(super) fn sizes(&self) -> Result<Sizes, LoadError> {
        let (hidden, heads) = (self.embed_dim, self.attention_heads);
        within("text_config.vocab_size", self.vocab_size, 1..=MAX_SIZE)?;
        // Half of them are sines, whose frequencies are a geometric series of at least two.
        within("text_config.embed_dim", hidden, 4..=MAX_SIZE)?;
        within("text_config.layers", self.layers, 1..=MAX_LAYERS)?;
        within("text_config.ffn_dim", self.ffn_dim, 1..=MAX_SIZE)?;
        within("text_config.attention_heads", heads, 1..=hidden)?;
        divides(
            "text_config.embed_dim",
            hidden,
            "text_config.attention_heads",
            heads,
        )?;
        if !hidden.is_multiple_of(2) {
            return Err(must("text_config.embed_dim", "be even", hidden));
        }
        let positions = self.max_position_embeddings;
        within(
            "text_config.max_position_embeddings",
            positions,
            8..=MAX_SIZE,
        )?;
        Ok(Sizes {
            vocab_size: self.vocab_size,
            hidden_size: hidden,
            intermediate_size: self.ffn_dim,
            layers: self.layers,
            heads,
            kv_heads: heads,
            head_dim: hidden / heads,
            max_positions: positions,
        })
    }

    /// Within the MLP.
    pub(super) fn activation(&self) -> Result<Activation, LoadError> {
        activation("text_config.activation_function", &self.activation_function)
    }

    /// Added to a variance before its root is taken.
    pub(super) fn layer_norm_eps(&self) -> Result<f32, LoadError> {
        check_eps("text_config.layer_norm_eps", self.layer_norm_eps)?;
        Ok(self.layer_norm_eps as f32)
    }

    /// Multiplies embeddings, those of pictures too.
    pub(super) fn embedding_scale(&self) -> f64 {
        if self.scale_embedding {
            (self.embed_dim as f64).sqrt()
        } else {
            1.0
        }
    }
}

fn activation(field: &str, name: &str) -> Result<Activation, LoadError> {
    Activation::named(name).ok_or_else(|| must(field, "be `gelu` or `quick_gelu`", name))
}

fn divides(field: &str, whole: usize, by: &str, parts: usize) -> Result<(), LoadError> {
    if whole.is_multiple_of(parts) {
        return Ok(());
    }
    Err(must(
        field,
        format!("be a multiple of `{by}` ({parts})"),
        whole,
    ))
}
