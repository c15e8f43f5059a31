//! `config.json`, checked.

use serde::Deserialize;

use crate::common::activation::Activation;
use crate::common::clip;
use crate::common::clip_config::ClipConfig;
use crate::common::fields::CONFIG;
use crate::common::sizes::{MAX_LAYERS, MAX_SIZE, Sizes};
use crate::common::text::TokenIds;
use crate::{LoadError, ModelFiles};

/// `config.json`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    pub(super) text_config: TextConfig,
    /// What is missing is as in `Kosmos2VisionConfig`.
    #[serde(default)]
    vision_config: ClipConfig,
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

fn default_latents() -> usize {
    64
}

impl Config {
    /// Reads and checks `config.json`.
    pub(super) fn read(files: &ModelFiles) -> Result<Self, LoadError> {
        let mut config: Self = files.json(CONFIG.0)?;
        config.vision_config = config.vision_config.or(ClipConfig::vit_l_14());
        let text = config.text_config.sizes()?;
        config.text_config.activation()?;
        config.text_config.layer_norm_eps()?;
        config.tower()?;
        // A picture's features, what frames them and one token of an answer.
        let most = text.max_positions.saturating_sub(4);
        CONFIG.within("latent_query_num", config.latent_query_num, 1..=most)?;
        Ok(config)
    }

    /// What the configuration says of the tower.
    pub(super) fn vision(&self) -> &ClipConfig {
        &self.vision_config
    }

    /// What tensors tell about the tower, too.
    pub(super) fn stated(&self) -> clip::Stated {
        self.vision_config.stated()
    }

    /// What tensors do not tell about the tower.
    pub(super) fn tower(&self) -> Result<clip::Options, LoadError> {
        let mut options = self.vision_config.options(-1)?;
        options.class_token = true;
        Ok(options)
    }
}

impl TextConfig {
    /// The decoder's sizes, checked.
    pub(super) fn sizes(&self) -> Result<Sizes, LoadError> {
        let (hidden, heads) = (self.embed_dim, self.attention_heads);
        CONFIG.within("text_config.vocab_size", self.vocab_size, 1..=MAX_SIZE)?;
        // Half of them are sines, whose frequencies are a geometric series of at least two.
        CONFIG.within("text_config.embed_dim", hidden, 4..=MAX_SIZE)?;
        CONFIG.within("text_config.layers", self.layers, 1..=MAX_LAYERS)?;
        CONFIG.within("text_config.ffn_dim", self.ffn_dim, 1..=MAX_SIZE)?;
        CONFIG.within("text_config.attention_heads", heads, 1..=hidden)?;
        CONFIG.multiple(
            "text_config.embed_dim",
            hidden,
            "text_config.attention_heads",
            heads,
        )?;
        if !hidden.is_multiple_of(2) {
            return Err(CONFIG.must("text_config.embed_dim", "be even", hidden));
        }
        let positions = self.max_position_embeddings;
        CONFIG.within(
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
        Activation::read("text_config.activation_function", &self.activation_function)
    }

    /// Added to a variance before its root is taken.
    pub(super) fn layer_norm_eps(&self) -> Result<f32, LoadError> {
        CONFIG.eps("text_config.layer_norm_eps", self.layer_norm_eps)
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
