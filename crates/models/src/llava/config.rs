//! `config.json`, checked.

use serde::Deserialize;

use crate::common::activation::Activation;
use crate::common::clip;
use crate::common::clip_config::ClipConfig;
use crate::common::fields::{CONFIG, PREPROCESSOR};
use crate::common::text_config::{Defaults, LLAMA, MISTRAL, TextConfig};
use crate::{LoadError, ModelFiles};

/// Most sizes that a picture may be laid out in, and pixels of a side of one.
const MAX_PINPOINTS: usize = 256;
const MAX_PINPOINT: usize = 1 << 14;

/// The one kind of tower that there is.
const CLIP: &str = "clip_vision_model";

/// `config.json`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    pub(super) text_config: TextConfig,
    #[serde(default)]
    vision_config: ClipConfig,
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
    /// `(height, width)` in pixels. LLaVA-NeXT only.
    image_grid_pinpoints: Option<Vec<(usize, usize)>>,
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
        let config: Self = files.json(CONFIG.0)?;
        config.text_config.sizes(config.text_defaults()?)?;
        config.tower()?;
        config.projector_activation()?;
        CONFIG.choice(
            "vision_feature_select_strategy",
            &config.vision_feature_select_strategy,
            &[("default", ()), ("full", ())],
        )?;
        Ok(config)
    }

    /// What the text half's missing fields mean.
    pub(super) fn text_defaults(&self) -> Result<&'static Defaults, LoadError> {
        let family = self.text_config.model_type.as_deref().unwrap_or("llama");
        let known = [("llama", &LLAMA), ("mistral", &MISTRAL)];
        CONFIG.choice("text_config.model_type", family, &known)
    }

    /// Whether the embedding is the head, too. The field of the same name around the two halves,
    /// which `LlavaConfig` writes out as true, says nothing: the decoder goes by its own.
    pub(super) fn tie_word_embeddings(&self) -> bool {
        self.text_config.tie_word_embeddings
    }

    /// The class token is a feature, too.
    pub(super) fn keeps_class_token(&self) -> bool {
        self.vision_feature_select_strategy == "full"
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
        let vision = &self.vision_config;
        let kind = vision.model_type.as_deref().unwrap_or(CLIP);
        CONFIG.only("vision_config.model_type", kind, CLIP)?;
        let layer = self.vision_feature_layer;
        let mut options = vision.options(layer)?;
        options.class_token = self.keeps_class_token();
        options.hidden_state = match vision.num_hidden_layers {
            _ if layer < 0 => layer,
            // Counted from the end, of one state more than there are layers.
            Some(layers) if layer as usize <= layers => layer - layers as i64 - 1,
            _ => {
                return Err(CONFIG.must(
                    "vision_feature_layer",
                    "be below 0 or one of the `vision_config.num_hidden_layers`",
                    layer,
                ));
            }
        };
        Ok(options)
    }

    /// Between the projector's two layers.
    pub(super) fn projector_activation(&self) -> Result<Activation, LoadError> {
        Activation::read("projector_hidden_act", &self.projector_hidden_act)
    }

    /// Sizes that a picture may be laid out in, `(height, width)`, each a multiple of `side`.
    pub(super) fn pinpoints(
        &self,
        files: &ModelFiles,
        side: usize,
    ) -> Result<Vec<(usize, usize)>, LoadError> {
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
            return Err(CONFIG.must(
                "image_grid_pinpoints",
                format!(
                    "be 1 to {MAX_PINPOINTS} sizes whose sides are multiples of {side}, what \
                     the tower takes, and at most {MAX_PINPOINT}"
                ),
                format!("{pinpoints:?}"),
            ));
        }
        // The reference lays pictures out by its processor's, and counts features by its model's.
        let stated: Pinpoints = files.json_or_default(PREPROCESSOR.0)?;
        match stated.image_grid_pinpoints {
            Some(stated) if stated != pinpoints => Err(LoadError::invalid(
                PREPROCESSOR.0,
                format!(
                    "`image_grid_pinpoints` must be that of `config.json`, {pinpoints:?}, but is \
                     another"
                ),
            )),
            _ => Ok(pinpoints),
        }
    }
}

/// `preprocessor_config.json`, as far as it repeats what the model's configuration says.
#[derive(Debug, Default, Deserialize)]
struct Pinpoints {
    image_grid_pinpoints: Option<Vec<(usize, usize)>>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::common::rope::Rope;

    fn read(config: &Value) -> Result<Config, LoadError> {
        let bytes: &'static [u8] = Vec::leak(serde_json::to_vec(config).unwrap());
        let files = Box::leak(Box::new([(CONFIG.0, bytes)]));
        Config::read(&ModelFiles::Embedded(files))
    }

    /// `hub_config` of the goldens: a configuration as the hub has it, with most fields left out,
    /// and what the reference reads in it.
    #[test]
    fn configurations_of_the_hub_mean_what_the_reference_reads() {
        for golden in ["llava", "llava_next"] {
            let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
            let bytes = std::fs::read(format!("{goldens}/{golden}/golden.json")).unwrap();
            let golden: Value = serde_json::from_slice(&bytes).unwrap();
            let config = read(&golden["hub_config"]["config"]).unwrap();
            let resolved = &golden["hub_config"]["resolved"];
            check_text(&config, &resolved["text_config"]);
            let vision = &resolved["vision_config"];
            let heads = vision["num_attention_heads"].as_u64().unwrap() as usize;
            let expected = clip::Options {
                hidden_state: resolved["vision_feature_layer"].as_i64().unwrap(),
                class_token: resolved["vision_feature_select_strategy"] == "full",
                head_dim: vision["hidden_size"].as_u64().unwrap() as usize / heads,
                activation: activation(&vision["hidden_act"]),
                layer_norm_eps: vision["layer_norm_eps"].as_f64().unwrap() as f32,
            };
            assert_eq!(config.tower().unwrap(), expected);
            assert_eq!(
                json!(config.image_token_index),
                resolved["image_token_index"]
            );
            assert_eq!(
                json!(config.multimodal_projector_bias),
                resolved["multimodal_projector_bias"]
            );
            assert_eq!(
                config.projector_activation().unwrap(),
                activation(&resolved["projector_hidden_act"])
            );
            assert_eq!(
                json!(config.vision_feature_select_strategy),
                resolved["vision_feature_select_strategy"]
            );
            if let Some(pinpoints) = resolved.get("image_grid_pinpoints") {
                let side = vision["image_size"].as_u64().unwrap() as usize;
                let files = ModelFiles::Embedded(&[]);
                assert_eq!(json!(config.pinpoints(&files, side).unwrap()), *pinpoints);
            }
        }
    }

    fn activation(name: &Value) -> Activation {
        Activation::read("hidden_act", name.as_str().unwrap()).unwrap()
    }

    fn check_text(config: &Config, resolved: &Value) {
        let text = &config.text_config;
        let defaults = config.text_defaults().unwrap();
        let sizes = text.sizes(defaults).unwrap();
        for (field, found) in [
            ("vocab_size", sizes.vocab_size),
            ("hidden_size", sizes.hidden_size),
            ("intermediate_size", sizes.intermediate_size),
            ("num_hidden_layers", sizes.layers),
            ("num_attention_heads", sizes.heads),
            ("num_key_value_heads", sizes.kv_heads),
            ("head_dim", sizes.head_dim),
            ("max_position_embeddings", sizes.max_positions),
        ] {
            assert_eq!(json!(found), resolved[field], "{field}");
        }
        assert_eq!(
            text.rms_norm_eps(defaults).unwrap(),
            resolved["rms_norm_eps"].as_f64().unwrap() as f32
        );
        let theta = resolved["rope_theta"].as_f64().unwrap();
        assert!(resolved["rope_scaling"].is_null());
        assert_eq!(
            text.rope(&sizes, defaults).unwrap(),
            Rope::plain(sizes.head_dim, theta)
        );
        assert_eq!(
            json!(config.tie_word_embeddings()),
            resolved["tie_word_embeddings"]
        );
    }
}
