//! `config.json`, checked.

use candle_core::DType;
use serde::Deserialize;
use vlmd_backend::ModelSpec;

use crate::common::fields::CONFIG;
use crate::common::sizes::{MAX_LAYERS, MAX_SIZE, Sizes};
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

/// `vision_config`; what is missing is as in `MllamaVisionConfig`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(super) struct Vision {
    pub(super) hidden_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_global_layers: usize,
    /// `num_attention_heads` in some copies.
    #[serde(alias = "num_attention_heads")]
    pub(super) attention_heads: usize,
    pub(super) image_size: usize,
    pub(super) patch_size: usize,
    pub(super) max_num_tiles: usize,
    /// Layers whose inputs are features beside the last output.
    pub(super) intermediate_layers_indices: Vec<usize>,
    norm_eps: f64,
    hidden_act: String,
}

impl Default for Vision {
    fn default() -> Self {
        Self {
            hidden_size: 1280,
            num_hidden_layers: 32,
            num_global_layers: 8,
            attention_heads: 16,
            image_size: 448,
            patch_size: 14,
            max_num_tiles: 4,
            intermediate_layers_indices: vec![3, 7, 15, 23, 30],
            norm_eps: 1e-5,
            hidden_act: "gelu".to_owned(),
        }
    }
}

fn default_image_token() -> u32 {
    128_256
}
fn default_cross_layers() -> Vec<usize> {
    vec![3, 8, 13, 18, 23, 28, 33, 38]
}

impl Config {
    /// Reads and checks `config.json`.
    pub(super) fn read(files: &ModelFiles) -> Result<Self, LoadError> {
        let config: Self = files.json(CONFIG.0)?;
        config.vision_config.check()?;
        config.text_sizes()?;
        Ok(config)
    }

    /// Sizes of the text half; `layers` counts layers of both kinds.
    pub(super) fn text_sizes(&self) -> Result<Sizes, LoadError> {
        let sizes = self.text_config.common.sizes(&MLLAMA)?;
        let cross = self.cross_layers();
        if !ascending_below(cross, sizes.layers) || cross.len() >= sizes.layers {
            return Err(CONFIG.must(
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

    /// The text half, but for what is mllama's own. Its defaults are [`MLLAMA`]'s.
    pub(super) fn text(&self) -> &TextConfig {
        &self.text_config.common
    }
}

impl Vision {
    fn check(&self) -> Result<(), LoadError> {
        let (heads, patch) = (self.attention_heads, self.patch_size);
        for (field, value, bounds) in [
            ("hidden_size", self.hidden_size, 1..=MAX_SIZE),
            ("num_hidden_layers", self.num_hidden_layers, 1..=MAX_LAYERS),
            ("num_global_layers", self.num_global_layers, 0..=MAX_LAYERS),
            ("attention_heads", heads, 1..=self.hidden_size),
            ("patch_size", patch, 1..=MAX_SIZE),
            ("image_size", self.image_size, 1..=16_384),
            ("max_num_tiles", self.max_num_tiles, 1..=64),
        ] {
            CONFIG.within(&format!("vision_config.{field}"), value, bounds)?;
        }
        for (field, whole, by, parts) in [
            ("hidden_size", self.hidden_size, "attention_heads", heads),
            ("image_size", self.image_size, "patch_size", patch),
        ] {
            CONFIG.multiple(&format!("vision_config.{field}"), whole, by, parts)?;
        }
        let (inner, layers) = (&self.intermediate_layers_indices, self.num_hidden_layers);
        if !ascending_below(inner, layers) {
            return Err(CONFIG.must(
                "vision_config.intermediate_layers_indices",
                format!("be in ascending order and below `num_hidden_layers` ({layers})"),
                format!("{inner:?}"),
            ));
        }
        self.norm_eps()?;
        CONFIG.only("vision_config.hidden_act", &self.hidden_act, "gelu")
    }

    /// Added to a variance before its root is taken.
    pub(super) fn norm_eps(&self) -> Result<f32, LoadError> {
        CONFIG.eps("vision_config.norm_eps", self.norm_eps)
    }

    /// Tokens of a tile: its patches and the class token.
    pub(super) fn tile_tokens(&self) -> usize {
        let grid = self.image_size / self.patch_size;
        grid * grid + 1
    }
}

/// Whether these are layers of so many in their order.
fn ascending_below(indices: &[usize], layers: usize) -> bool {
    let ascending = indices.windows(2).all(|pair| pair[0] < pair[1]);
    ascending && indices.last().is_none_or(|&last| last < layers)
}
