//! `config.json`, checked.

use candle_core::DType;
use serde::Deserialize;
use vlmd_backend::ModelSpec;

use crate::common::rope::Rope;
use crate::common::sizes::{CONFIG_FILE, MAX_LAYERS, MAX_SIZE, Sizes, check_eps, must, within};
use crate::common::text_config::{MLLAMA, TextConfig};
use crate::{LoadError, ModelFiles};

/// Rows that the embedding has beyond the vocabulary, one of them the image token's.
pub(super) const UNSAID_TOKENS: usize = 8;

/// `config.json`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    text_config: Text,
    pub(super) vision_config: Vision,
    /// Stands for a picture in the text.
    #[serde(default = "default_image_token")]
    pub(super) image_token_index: u32,
}

#[derive(Debug, Clone, Deserialize)]
struct Text {
    #[serde(flatten)]
    common: TextConfig,
    #[serde(default = "default_cross_layers")]
    cross_attention_layers: Vec<usize>,
}

/// `vision_config`. Defaults are those of `MllamaVisionConfig`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Vision {
    #[serde(default = "default_hidden")]
    pub(super) hidden_size: usize,
    #[serde(default = "default_layers")]
    pub(super) num_hidden_layers: usize,
    #[serde(default = "default_global_layers")]
    pub(super) num_global_layers: usize,
    /// `num_attention_heads` in some copies.
    #[serde(default = "default_heads", alias = "num_attention_heads")]
    pub(super) attention_heads: usize,
    #[serde(default = "default_image_size")]
    pub(super) image_size: usize,
    #[serde(default = "default_patch_size")]
    pub(super) patch_size: usize,
    #[serde(default = "default_tiles")]
    pub(super) max_num_tiles: usize,
    /// Layers whose inputs are features beside the last output.
    #[serde(default = "default_intermediate")]
    pub(super) intermediate_layers_indices: Vec<usize>,
    #[serde(default = "default_eps")]
    pub(super) norm_eps: f64,
    #[serde(default = "default_activation")]
    hidden_act: String,
}

fn default_image_token() -> u32 {
    128_256
}
fn default_cross_layers() -> Vec<usize> {
    vec![3, 8, 13, 18, 23, 28, 33, 38]
}
fn default_hidden() -> usize {
    1280
}
fn default_layers() -> usize {
    32
}
fn default_global_layers() -> usize {
    8
}
fn default_heads() -> usize {
    16
}
fn default_image_size() -> usize {
    448
}
fn default_patch_size() -> usize {
    14
}
fn default_tiles() -> usize {
    4
}
fn default_intermediate() -> Vec<usize> {
    vec![3, 7, 15, 23, 30]
}
fn default_eps() -> f64 {
    1e-5
}
fn default_activation() -> String {
    "gelu".to_owned()
}

impl Config {
    /// Reads and checks `config.json`.
    pub(super) fn read(files: &ModelFiles) -> Result<Self, LoadError> {
        let config: Self = files.json(CONFIG_FILE)?;
        config.vision_config.check()?;
        config.text_sizes()?;
        Ok(config)
    }

    /// Sizes of the text half; `layers` counts layers of both kinds.
    pub(super) fn text_sizes(&self) -> Result<Sizes, LoadError> {
        let sizes = self.text_config.common.sizes(&MLLAMA)?;
        let cross = self.cross_layers();
        let ascending = cross.windows(2).all(|pair| pair[0] < pair[1]);
        let within = cross.last().is_none_or(|&last| last < sizes.layers);
        if !ascending || !within || cross.len() >= sizes.layers {
            return Err(must(
                "cross_attention_layers",
                format!(
                    "be in ascending order, below `num_hidden_layers` ({}) and not all of them",
                    sizes.layers
                ),
                format!("{cross:?}"),
            ));
        }
        Ok(sizes)
    }

    /// What the engine must know, with activations of `dtype`.
    pub(super) fn spec(&self, dtype: DType) -> Result<ModelSpec, LoadError> {
        let sizes = self.text_sizes()?;
        let looking = self.cross_layers().len();
        let kept = 2 * looking * sizes.kv_heads * sizes.head_dim;
        Ok(ModelSpec {
            layers: sizes.layers - looking,
            input_vocab_size: sizes.vocab_size + UNSAID_TOKENS,
            cross_feature_bytes: kept * dtype.size_in_bytes(),
            ..sizes.spec()
        })
    }

    /// Indices of the layers that look at pictures, ascending.
    pub(super) fn cross_layers(&self) -> &[usize] {
        &self.text_config.cross_attention_layers
    }

    pub(super) fn rope(&self, sizes: &Sizes) -> Result<Rope, LoadError> {
        self.text_config.common.rope(sizes, &MLLAMA)
    }

    pub(super) fn rms_norm_eps(&self) -> Result<f32, LoadError> {
        self.text_config.common.rms_norm_eps(&MLLAMA)
    }

    pub(super) fn tie_word_embeddings(&self) -> bool {
        self.text_config.common.tie_word_embeddings
    }

    pub(super) fn eos_token_ids(&self) -> &[u32] {
        &self.text_config.common.eos_token_id.0
    }
}

impl Vision {
    fn check(&self) -> Result<(), LoadError> {
        within("vision_config.hidden_size", self.hidden_size, 1..=MAX_SIZE)?;
        within(
            "vision_config.num_hidden_layers",
            self.num_hidden_layers,
            1..=MAX_LAYERS,
        )?;
        within(
            "vision_config.num_global_layers",
            self.num_global_layers,
            0..=MAX_LAYERS,
        )?;
        let heads = self.attention_heads;
        within("vision_config.attention_heads", heads, 1..=self.hidden_size)?;
        if !self.hidden_size.is_multiple_of(heads) {
            return Err(must(
                "vision_config.hidden_size",
                format!("be a multiple of `attention_heads` ({heads})"),
                self.hidden_size,
            ));
        }
        within("vision_config.patch_size", self.patch_size, 1..=MAX_SIZE)?;
        within("vision_config.image_size", self.image_size, 1..=16_384)?;
        if !self.image_size.is_multiple_of(self.patch_size) {
            return Err(must(
                "vision_config.image_size",
                format!("be a multiple of `patch_size` ({})", self.patch_size),
                self.image_size,
            ));
        }
        within("vision_config.max_num_tiles", self.max_num_tiles, 1..=64)?;
        let inner = &self.intermediate_layers_indices;
        let ascending = inner.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending
            || inner
                .last()
                .is_some_and(|&last| last >= self.num_hidden_layers)
        {
            return Err(must(
                "vision_config.intermediate_layers_indices",
                format!(
                    "be in ascending order and below `num_hidden_layers` ({})",
                    self.num_hidden_layers
                ),
                format!("{inner:?}"),
            ));
        }
        check_eps("vision_config.norm_eps", self.norm_eps)?;
        if self.hidden_act != "gelu" {
            return Err(must(
                "vision_config.hidden_act",
                "be `gelu`",
                &self.hidden_act,
            ));
        }
        Ok(())
    }

    /// Tokens of a tile: its patches and the class token.
    pub(super) fn tile_tokens(&self) -> usize {
        let grid = self.image_size / self.patch_size;
        grid * grid + 1
    }
}
