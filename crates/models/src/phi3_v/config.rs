//! `config.json`, checked.

use serde::Deserialize;

use crate::common::rope::{LongRope, Rope};
use crate::common::sizes::{CONFIG_FILE, HUGGING_FACE, MAX_SIZE, Sizes, check_eps, must, within};
use crate::common::text::TokenIds;
use crate::{LoadError, ModelFiles};

/// `config.json`. Defaults are those of `Phi3VConfig`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    #[serde(default = "default_positions")]
    max_position_embeddings: usize,
    #[serde(default = "default_positions")]
    original_max_position_embeddings: usize,
    #[serde(default = "default_rms_norm_eps")]
    pub(super) rms_norm_eps: f64,
    #[serde(default = "default_rope_theta")]
    rope_theta: f64,
    rope_scaling: Option<RopeScaling>,
    sliding_window: Option<usize>,
    #[serde(default = "default_activation")]
    hidden_act: String,
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
    #[serde(default)]
    hd_transform_order: Option<String>,
    #[serde(default)]
    projection_cls: Option<String>,
    #[serde(default)]
    use_hd_transform: bool,
    #[serde(default)]
    with_learnable_separator: bool,
}

#[derive(Debug, Clone, Deserialize)]
struct ImageProcessor {
    name: String,
    #[serde(default = "default_layer")]
    layer_idx: i64,
    #[serde(default = "default_feature")]
    type_feature: String,
}

fn default_positions() -> usize {
    4096
}

fn default_rms_norm_eps() -> f64 {
    1e-5
}

fn default_rope_theta() -> f64 {
    10_000.0
}

fn default_activation() -> String {
    "silu".to_owned()
}

fn default_layer() -> i64 {
    -2
}

fn default_feature() -> String {
    "patch".to_owned()
}

impl Config {
    /// Reads and checks `config.json`.
    pub(super) fn read(files: &ModelFiles) -> Result<Self, LoadError> {
        let config: Self = files.json(CONFIG_FILE)?;
        config.check_sizes()?;
        config.check_rope()?;
        config.check_vision()?;
        Ok(config)
    }

    fn check_sizes(&self) -> Result<(), LoadError> {
        within(
            "original_max_position_embeddings",
            self.original_max_position_embeddings,
            2..=MAX_SIZE,
        )?;
        if let Some(window) = self.sliding_window {
            within("sliding_window", window, 2..=usize::MAX)?;
        }
        self.sizes()?.check(&HUGGING_FACE)?;
        check_eps("rms_norm_eps", self.rms_norm_eps)?;
        if self.hidden_act != "silu" {
            return Err(must("hidden_act", "be `silu`", &self.hidden_act));
        }
        Ok(())
    }

    fn check_rope(&self) -> Result<(), LoadError> {
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return Err(must("rope_theta", "be above 0 and finite", self.rope_theta));
        }
        let Some(scaling) = &self.rope_scaling else {
            return Ok(());
        };
        // Phi-3.5 renamed what Phi-3 called "su".
        if !matches!(scaling.kind.as_str(), "su" | "longrope") {
            return Err(must(
                "rope_scaling.type",
                "be `su` or `longrope`",
                &scaling.kind,
            ));
        }
        let pairs = self.head_dim()? / 2;
        for (name, factors) in [
            ("rope_scaling.short_factor", &scaling.short_factor),
            ("rope_scaling.long_factor", &scaling.long_factor),
        ] {
            if factors.len() != pairs {
                return Err(must(
                    name,
                    format!("have {pairs} entries, one for each pair of a head's dimensions"),
                    format!("{} entries long", factors.len()),
                ));
            }
            if let Some(factor) = factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
                return Err(must(name, "be above 0 and finite in each entry", factor));
            }
        }
        Ok(())
    }

    fn check_vision(&self) -> Result<(), LoadError> {
        let layer = &self.embd_layer;
        let order = layer.hd_transform_order.as_deref().unwrap_or("glb_sub");
        if order != "sub_glb" {
            // The reference knows the other order by name and has no code for it either.
            return Err(must("embd_layer.hd_transform_order", "be `sub_glb`", order));
        }
        let projection = layer.projection_cls.as_deref().unwrap_or("linear");
        if projection != "mlp" {
            return Err(must("embd_layer.projection_cls", "be `mlp`", projection));
        }
        if !layer.use_hd_transform {
            return Err(must("embd_layer.use_hd_transform", "be true", false));
        }
        if !layer.with_learnable_separator {
            return Err(must(
                "embd_layer.with_learnable_separator",
                "be true",
                false,
            ));
        }
        let tower = &self.img_processor;
        if tower.name != "clip_vision_model" {
            return Err(must(
                "img_processor.name",
                "be `clip_vision_model`",
                &tower.name,
            ));
        }
        if tower.type_feature != "patch" {
            return Err(must(
                "img_processor.type_feature",
                "be `patch`",
                &tower.type_feature,
            ));
        }
        if tower.layer_idx >= 0 {
            return Err(must(
                "img_processor.layer_idx",
                "be below 0",
                tower.layer_idx,
            ));
        }
        Ok(())
    }

    fn head_dim(&self) -> Result<usize, LoadError> {
        Sizes::head_dim(self.hidden_size, self.num_attention_heads, &HUGGING_FACE)
    }

    /// Which of the tower's hidden states is used, counted from the end.
    pub(super) fn vision_layer(&self) -> i64 {
        self.img_processor.layer_idx
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
            max_positions: self.max_position_embeddings.min(window),
        })
    }

    /// The decoder's rotations.
    pub(super) fn rope(&self) -> Result<Rope, LoadError> {
        let head_dim = self.head_dim()?;
        Ok(match &self.rope_scaling {
            None => Rope::plain(head_dim, self.rope_theta),
            Some(scaling) => Rope::long(
                head_dim,
                self.rope_theta,
                &LongRope {
                    short_factor: scaling.short_factor.clone(),
                    long_factor: scaling.long_factor.clone(),
                    original_max_positions: self.original_max_position_embeddings,
                    max_positions: self.max_position_embeddings,
                },
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn real() -> Value {
        json!({
            "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
            "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096,
            "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 131_072,
            "rope_scaling": {
                "type": "su", "short_factor": vec![1.05; 48], "long_factor": vec![1.03; 48],
            },
            "eos_token_id": 2,
            "embd_layer": {
                "embedding_cls": "image", "hd_transform_order": "sub_glb",
                "projection_cls": "mlp", "use_hd_transform": true,
                "with_learnable_separator": true,
            },
            "img_processor": {
                "image_dim_out": 1024, "model_name": "openai/clip-vit-large-patch14-336",
                "name": "clip_vision_model", "num_img_tokens": 144,
            },
        })
    }

    fn read(config: &Value) -> Result<Config, String> {
        let bytes: &'static [u8] = Vec::leak(serde_json::to_vec(config).unwrap());
        let files = Box::leak(Box::new([(CONFIG_FILE, bytes)]));
        Config::read(&ModelFiles::Embedded(files)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_published_configuration_is_read() {
        let sizes = read(&real()).unwrap().sizes().unwrap();
        assert_eq!(sizes.head_dim, 96);
        assert_eq!(sizes.max_positions, 131_072);
    }

    #[test]
    fn a_short_window_shortens_the_context() {
        let mut config = real();
        config["sliding_window"] = json!(2048);
        assert_eq!(read(&config).unwrap().sizes().unwrap().max_positions, 2048);
    }

    #[test]
    fn both_names_of_longrope_are_known() {
        let mut config = real();
        config["rope_scaling"]["type"] = json!("longrope");
        assert!(read(&config).is_ok());
        let scaling = config["rope_scaling"].as_object_mut().unwrap();
        let kind = scaling.remove("type").unwrap();
        scaling.insert("rope_type".to_owned(), kind);
        assert!(read(&config).is_ok());
    }

    #[test]
    fn bad_values_are_named_with_their_bound() {
        let cases = [
            (
                "/num_attention_heads",
                json!(0),
                "`num_attention_heads` must be between 1 and 3072, but is 0",
            ),
            (
                "/num_attention_heads",
                json!(31),
                "`hidden_size` must be a multiple of `num_attention_heads` (31), but is 3072",
            ),
            (
                "/num_attention_heads",
                json!(1024),
                "`hidden_size` must give each of the 1024 `num_attention_heads` an even width, but is 3072",
            ),
            (
                "/num_key_value_heads",
                json!(5),
                "`num_attention_heads` must be a multiple of `num_key_value_heads` (5), but is 32",
            ),
            (
                "/num_key_value_heads",
                json!(0),
                "`num_key_value_heads` must be between 1 and 32, but is 0",
            ),
            (
                "/hidden_size",
                json!(0),
                "`hidden_size` must be between 1 and 16777216, but is 0",
            ),
            (
                "/vocab_size",
                json!(1u64 << 40),
                "`vocab_size` must be between 1 and 16777216, but is 1099511627776",
            ),
            (
                "/rms_norm_eps",
                json!(-1.0),
                "`rms_norm_eps` must be at least 0 and below 1, but is -1",
            ),
            (
                "/rope_theta",
                json!(0.0),
                "`rope_theta` must be above 0 and finite, but is 0",
            ),
            (
                "/hidden_act",
                json!("gelu"),
                "`hidden_act` must be `silu`, but is gelu",
            ),
            (
                "/rope_scaling/type",
                json!("yarn"),
                "`rope_scaling.type` must be `su` or `longrope`, but is yarn",
            ),
            (
                "/rope_scaling/short_factor",
                json!([1.0]),
                "`rope_scaling.short_factor` must have 48 entries, one for each pair of a head's dimensions, but is 1 entries long",
            ),
            (
                "/rope_scaling/long_factor/3",
                json!(0.0),
                "`rope_scaling.long_factor` must be above 0 and finite in each entry, but is 0",
            ),
            (
                "/embd_layer/hd_transform_order",
                json!("glb_sub"),
                "`embd_layer.hd_transform_order` must be `sub_glb`, but is glb_sub",
            ),
            (
                "/embd_layer/projection_cls",
                json!("linear"),
                "`embd_layer.projection_cls` must be `mlp`, but is linear",
            ),
            (
                "/img_processor/name",
                json!("siglip"),
                "`img_processor.name` must be `clip_vision_model`, but is siglip",
            ),
        ];
        for (field, value, message) in cases {
            let mut config = real();
            *config.pointer_mut(field).unwrap() = value;
            assert_eq!(
                read(&config).unwrap_err(),
                format!("`config.json`: {message}")
            );
        }
    }

    #[test]
    fn wrong_types_and_missing_fields_are_told_with_the_file() {
        let mut config = real();
        config["hidden_size"] = json!(-3072);
        assert!(
            read(&config)
                .unwrap_err()
                .starts_with("`config.json` is not valid: ")
        );
        let mut config = real();
        config.as_object_mut().unwrap().remove("vocab_size");
        assert!(
            read(&config)
                .unwrap_err()
                .contains("missing field `vocab_size`")
        );
    }
}
