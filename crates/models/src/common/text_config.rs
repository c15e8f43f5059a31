//! The text half of a configuration, in the fields that Llama-like decoders share.

use serde::Deserialize;

use super::fields::CONFIG;
use super::rope::{Llama3Rope, Rope};
use super::sizes::{HUGGING_FACE, MAX_SIZE, Sizes};
use super::text::TokenIds;
use crate::LoadError;

/// What a field means where a checkpoint leaves it out, as many do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Defaults {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: Option<usize>,
    pub(crate) max_positions: usize,
    pub(crate) sliding_window: Option<usize>,
    pub(crate) rms_norm_eps: f64,
    pub(crate) rope_theta: f64,
}

/// `LlamaConfig` of transformers.
pub(crate) const LLAMA: Defaults = Defaults {
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    layers: 32,
    heads: 32,
    kv_heads: None,
    max_positions: 2048,
    sliding_window: None,
    rms_norm_eps: 1e-6,
    rope_theta: 10_000.0,
};

/// `MistralConfig` of transformers.
pub(crate) const MISTRAL: Defaults = Defaults {
    intermediate_size: 14_336,
    kv_heads: Some(8),
    max_positions: 4096 * 32,
    sliding_window: Some(4096),
    ..LLAMA
};

/// `MllamaTextConfig` of transformers.
pub(crate) const MLLAMA: Defaults = Defaults {
    vocab_size: 128_256,
    hidden_size: 4096,
    intermediate_size: 14_336,
    layers: 40,
    heads: 32,
    kv_heads: Some(8),
    max_positions: 131_072,
    sliding_window: None,
    rms_norm_eps: 1e-5,
    rope_theta: 500_000.0,
};

/// `text_config`, as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct TextConfig {
    #[serde(default)]
    pub(crate) model_type: Option<String>,
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    /// Present and null is not the same as absent.
    #[serde(default, deserialize_with = "present")]
    sliding_window: Option<Option<usize>>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    /// `rope_parameters` since transformers 5, where it holds `rope_theta`, too.
    #[serde(alias = "rope_parameters")]
    rope_scaling: Option<RopeScaling>,
    hidden_act: Option<String>,
    #[serde(default)]
    pub(crate) tie_word_embeddings: bool,
    #[serde(default)]
    pub(crate) eos_token_id: TokenIds,
}

#[derive(Debug, Clone, Deserialize)]
struct RopeScaling {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

fn present<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<usize>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl TextConfig {
    /// The decoder's sizes, checked.
    pub(crate) fn sizes(&self, defaults: &Defaults) -> Result<Sizes, LoadError> {
        let hidden_size = self.hidden_size.unwrap_or(defaults.hidden_size);
        let heads = self.num_attention_heads.unwrap_or(defaults.heads);
        let positions = self.max_position_embeddings;
        // Where a window is shorter than the context, sequences are kept so short that it hides
        // nothing.
        let window = self.sliding_window.unwrap_or(defaults.sliding_window);
        let sizes = Sizes {
            vocab_size: self.vocab_size.unwrap_or(defaults.vocab_size),
            hidden_size,
            intermediate_size: self.intermediate_size.unwrap_or(defaults.intermediate_size),
            layers: self.num_hidden_layers.unwrap_or(defaults.layers),
            heads,
            kv_heads: self
                .num_key_value_heads
                .or(defaults.kv_heads)
                .unwrap_or(heads),
            head_dim: match self.head_dim {
                Some(width) => width,
                None => Sizes::head_dim(hidden_size, heads, &HUGGING_FACE)?,
            },
            max_positions: positions
                .unwrap_or(defaults.max_positions)
                .min(window.unwrap_or(usize::MAX)),
        };
        sizes.check(&HUGGING_FACE)?;
        let activation = self.hidden_act.as_deref().unwrap_or("silu");
        CONFIG.only("hidden_act", activation, "silu")?;
        Ok(sizes)
    }

    /// What is added to a mean square before its root is taken.
    pub(crate) fn rms_norm_eps(&self, defaults: &Defaults) -> Result<f32, LoadError> {
        let eps = self.rms_norm_eps.unwrap_or(defaults.rms_norm_eps);
        CONFIG.eps("rms_norm_eps", eps)
    }

    /// The decoder's rotations.
    pub(crate) fn rope(&self, sizes: &Sizes, defaults: &Defaults) -> Result<Rope, LoadError> {
        let scaling = self.rope_scaling.as_ref();
        let theta = self
            .rope_theta
            .or(scaling.and_then(|scaling| scaling.rope_theta))
            .unwrap_or(defaults.rope_theta);
        CONFIG.positive("rope_theta", theta)?;
        let kind = scaling.and_then(|scaling| scaling.rope_type.as_deref());
        match (kind, scaling) {
            (None | Some("default"), _) | (_, None) => Ok(Rope::plain(sizes.head_dim, theta)),
            (Some("linear"), Some(scaling)) => {
                Ok(Rope::linear(sizes.head_dim, theta, scaling.factor()?))
            }
            (Some("llama3"), Some(scaling)) => {
                Ok(Rope::llama3(sizes.head_dim, theta, &scaling.llama3()?))
            }
            (Some(other), _) => Err(CONFIG.must(
                "rope_scaling.rope_type",
                "be `default`, `linear` or `llama3`",
                other,
            )),
        }
    }
}

impl RopeScaling {
    fn factor(&self) -> Result<f64, LoadError> {
        positive("rope_scaling.factor", self.factor)
    }

    fn llama3(&self) -> Result<Llama3Rope, LoadError> {
        let low = positive("rope_scaling.low_freq_factor", self.low_freq_factor)?;
        let high = positive("rope_scaling.high_freq_factor", self.high_freq_factor)?;
        if high <= low {
            return Err(CONFIG.must(
                "rope_scaling.high_freq_factor",
                format!("be above `rope_scaling.low_freq_factor` ({low})"),
                high,
            ));
        }
        let field = "rope_scaling.original_max_position_embeddings";
        let original = self.original_max_position_embeddings.unwrap_or(0);
        CONFIG.within(field, original, 1..=MAX_SIZE)?;
        Ok(Llama3Rope {
            factor: self.factor()?,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_positions: original,
        })
    }
}

fn positive(field: &str, value: Option<f64>) -> Result<f64, LoadError> {
    let value = value.ok_or_else(|| CONFIG.must(field, "be above 0 and finite", "missing"))?;
    CONFIG.positive(field, value)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: serde_json::Value) -> TextConfig {
        serde_json::from_value(config).unwrap()
    }

    #[test]
    fn what_is_left_out_has_the_families_defaults() {
        let sizes = read(json!({"rms_norm_eps": 1e-5, "vocab_size": 32064}))
            .sizes(&LLAMA)
            .unwrap();
        assert_eq!((sizes.hidden_size, sizes.layers), (4096, 32));
        assert_eq!((sizes.kv_heads, sizes.head_dim), (32, 128));
        assert_eq!(sizes.max_positions, 2048);
        let mistral = |config| read(config).sizes(&MISTRAL).unwrap().max_positions;
        assert_eq!(mistral(json!({})), 4096, "the window's default");
        assert_eq!(
            mistral(json!({"sliding_window": null, "max_position_embeddings": 32768})),
            32_768
        );
    }

    #[test]
    fn rotations_are_told_in_old_and_new_spelling() {
        let scaling = json!({
            "type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        });
        for config in [
            json!({"rope_theta": 5e5, "rope_scaling": scaling}),
            json!({"rope_parameters": scaling}),
            json!({"rope_scaling": null}),
        ] {
            let config = read(config);
            let sizes = config.sizes(&MLLAMA).unwrap();
            assert!(config.rope(&sizes, &MLLAMA).is_ok());
        }
    }

    #[test]
    fn bad_values_are_named_with_their_bound() {
        let error = |config| {
            let config = read(config);
            let sizes = config.sizes(&LLAMA).map_err(|e| e.to_string())?;
            config.rope(&sizes, &LLAMA).map_err(|e| e.to_string())?;
            config.rms_norm_eps(&LLAMA).map_err(|e| e.to_string())?;
            Ok::<_, String>(())
        };
        for (config, message) in [
            (
                json!({"hidden_act": "gelu"}),
                "`hidden_act` must be `silu`, but is gelu",
            ),
            (
                json!({"rope_theta": 0.0}),
                "`rope_theta` must be above 0 and finite, but is 0",
            ),
            (
                json!({"rms_norm_eps": 2.0}),
                "`rms_norm_eps` must be at least 0 and below 1, but is 2",
            ),
            (
                json!({"rope_scaling": {"rope_type": "yarn"}}),
                "`rope_scaling.rope_type` must be `default`, `linear` or `llama3`, but is yarn",
            ),
            (
                json!({"rope_scaling": {"rope_type": "linear"}}),
                "`rope_scaling.factor` must be above 0 and finite, but is missing",
            ),
            (
                json!({"head_dim": 0}),
                "`head_dim` must be between 1 and 16777216, but is 0",
            ),
        ] {
            assert_eq!(
                error(config).unwrap_err(),
                format!("`config.json`: {message}")
            );
        }
    }
}
