//! `config.json`, checked.

use serde::Deserialize;

use crate::common::fields::CONFIG;
use crate::common::rope::{LongRope, Rope};
use crate::common::sizes::{HUGGING_FACE, MAX_SIZE, Sizes};
use crate::common::text::TokenIds;
use crate::{LoadError, ModelFiles};

/// `config.json`. What is missing is as in `Phi3VConfig`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    max_position_embeddings: Option<usize>,
    original_max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeScaling>,
    sliding_window: Option<usize>,
    hidden_act: Option<String>,
    #[serde(default)]
    pub(super) tie_word_embeddings: bool,
    #[serde(default)]
    pub(super) eos_token_id: TokenIds,
    embd_layer: EmbeddingLayer,
    img_processor: ImageProcessor,
}

#[derive(Debug, Clone, Deserialize)]
struct RopeScaling {
    #[serde(rename = "type", alias = "rope_type")]
    kind: String,
    #[serde(default)]
    short_factor: Vec<f32>,
    #[serde(default)]
    long_factor: Vec<f32>,
}

/// How features become tokens. There is one way that any released checkpoint uses.
#[derive(Debug, Clone, Deserialize)]
struct EmbeddingLayer {
    hd_transform_order: Option<String>,
    projection_cls: Option<String>,
    #[serde(default)]
    use_hd_transform: bool,
    #[serde(default)]
    with_learnable_separator: bool,
}

#[derive(Debug, Clone, Deserialize)]
struct ImageProcessor {
    name: String,
    layer_idx: Option<i64>,
    type_feature: Option<String>,
}

impl Config {
    /// Reads and checks `config.json`.
    pub(super) fn read(files: &ModelFiles) -> Result<Self, LoadError> {
        let config: Self = files.json(CONFIG.0)?;
        config.check_sizes()?;
        config.check_rope()?;
        config.check_vision()?;
        Ok(config)
    }

    fn check_sizes(&self) -> Result<(), LoadError> {
        CONFIG.within(
            "original_max_position_embeddings",
            self.original_max_positions(),
            2..=MAX_SIZE,
        )?;
        if let Some(window) = self.sliding_window {
            CONFIG.within("sliding_window", window, 2..=usize::MAX)?;
        }
        self.sizes()?.check(&HUGGING_FACE)?;
        self.rms_norm_eps()?;
        let activation = self.hidden_act.as_deref().unwrap_or("silu");
        CONFIG.only("hidden_act", activation, "silu")
    }

    fn check_rope(&self) -> Result<(), LoadError> {
        CONFIG.positive("rope_theta", self.rope_theta())?;
        let Some(scaling) = &self.rope_scaling else {
            return Ok(());
        };
        // Phi-3.5 renamed what Phi-3 called "su".
        let known = [("su", ()), ("longrope", ())];
        CONFIG.choice("rope_scaling.type", &scaling.kind, &known)?;
        let pairs = self.head_dim()? / 2;
        for (name, factors) in [
            ("rope_scaling.short_factor", &scaling.short_factor),
            ("rope_scaling.long_factor", &scaling.long_factor),
        ] {
            if factors.len() != pairs {
                return Err(CONFIG.must(
                    name,
                    format!("have {pairs} entries, one for each pair of a head's dimensions"),
                    format!("{} entries long", factors.len()),
                ));
            }
            if let Some(factor) = factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
                return Err(CONFIG.must(name, "be above 0 and finite in each entry", factor));
            }
        }
        Ok(())
    }

    fn check_vision(&self) -> Result<(), LoadError> {
        let layer = &self.embd_layer;
        let order = layer.hd_transform_order.as_deref().unwrap_or("glb_sub");
        // The reference knows the other order by name and has no code for it either.
        CONFIG.only("embd_layer.hd_transform_order", order, "sub_glb")?;
        let projection = layer.projection_cls.as_deref().unwrap_or("linear");
        CONFIG.only("embd_layer.projection_cls", projection, "mlp")?;
        CONFIG.all_true(&[
            ("embd_layer.use_hd_transform", Some(layer.use_hd_transform)),
            (
                "embd_layer.with_learnable_separator",
                Some(layer.with_learnable_separator),
            ),
        ])?;
        let tower = &self.img_processor;
        CONFIG.only("img_processor.name", &tower.name, "clip_vision_model")?;
        let features = tower.type_feature.as_deref().unwrap_or("patch");
        CONFIG.only("img_processor.type_feature", features, "patch")?;
        match self.vision_layer() {
            layer @ 0.. => Err(CONFIG.must("img_processor.layer_idx", "be below 0", layer)),
            _ => Ok(()),
        }
    }

    fn head_dim(&self) -> Result<usize, LoadError> {
        Sizes::head_dim(self.hidden_size, self.num_attention_heads, &HUGGING_FACE)
    }

    /// Which of the tower's hidden states is used, counted from the end.
    pub(super) fn vision_layer(&self) -> i64 {
        self.img_processor.layer_idx.unwrap_or(-2)
    }

    pub(super) fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The decoder's sizes.
    pub(super) fn sizes(&self) -> Result<Sizes, LoadError> {
        // A window as long as the context, which every released checkpoint has, hides nothing.
        // Where it is shorter, sequences are kept so short that it still hides nothing.
        let window = self.sliding_window.unwrap_or(usize::MAX);
        Ok(Sizes {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim: self.head_dim()?,
            max_positions: self.max_positions().min(window),
        })
    }

    /// What is added to a mean square before its root is taken.
    pub(super) fn rms_norm_eps(&self) -> Result<f32, LoadError> {
        CONFIG.eps("rms_norm_eps", self.rms_norm_eps.unwrap_or(1e-5))
    }

    fn max_positions(&self) -> usize {
        self.max_position_embeddings.unwrap_or(4096)
    }

    fn original_max_positions(&self) -> usize {
        self.original_max_position_embeddings.unwrap_or(4096)
    }

    fn rope_theta(&self) -> f64 {
        self.rope_theta.unwrap_or(10_000.0)
    }

    /// The decoder's rotations.
    pub(super) fn rope(&self) -> Result<Rope, LoadError> {
        let head_dim = self.head_dim()?;
        Ok(match &self.rope_scaling {
            None => Rope::plain(head_dim, self.rope_theta()),
            Some(scaling) => Rope::long(
                head_dim,
                self.rope_theta(),
                &LongRope {
                    short_factor: scaling.short_factor.clone(),
                    long_factor: scaling.long_factor.clone(),
                    original_max_positions: self.original_max_positions(),
                    max_positions: self.max_positions(),
                },
            ),
        })
    }
}
