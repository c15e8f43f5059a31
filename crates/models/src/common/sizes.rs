//! Sizes of a decoder as configurations state them, and the checks that all of them must pass.

use std::fmt::Display;
use std::ops::RangeInclusive;

use vlmd_backend::ModelSpec;

use crate::LoadError;

/// Where Hugging Face checkpoints keep their configuration.
pub(crate) const CONFIG_FILE: &str = "config.json";

/// Bound on every width and count, far above any model, so that products of two cannot overflow.
pub(crate) const MAX_SIZE: usize = 1 << 24;

/// Most layers of a decoder or tower.
pub(crate) const MAX_LAYERS: usize = 4096;

/// Sizes of a decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Rows of the head: tokens that may be sampled.
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Most positions of a sequence.
    pub(crate) max_positions: usize,
}

impl Sizes {
    /// The width of a head where the configuration does not state it.
    pub(crate) fn head_dim(hidden_size: usize, heads: usize) -> Result<usize, LoadError> {
        within("hidden_size", hidden_size, 1..=MAX_SIZE)?;
        within("num_attention_heads", heads, 1..=hidden_size)?;
        if !hidden_size.is_multiple_of(heads) {
            return Err(must(
                "hidden_size",
                format!("be a multiple of `num_attention_heads` ({heads})"),
                hidden_size,
            ));
        }
        Ok(hidden_size / heads)
    }

    /// Checks each size and how they fit, under the names of Hugging Face's configurations.
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        let heads = self.heads;
        within("vocab_size", self.vocab_size, 1..=MAX_SIZE)?;
        within("hidden_size", self.hidden_size, 1..=MAX_SIZE)?;
        within("intermediate_size", self.intermediate_size, 1..=MAX_SIZE)?;
        within("num_hidden_layers", self.layers, 1..=MAX_LAYERS)?;
        within("num_attention_heads", heads, 1..=MAX_SIZE)?;
        within("head_dim", self.head_dim, 1..=MAX_SIZE)?;
        within("max_position_embeddings", self.max_positions, 2..=MAX_SIZE)?;
        if !self.head_dim.is_multiple_of(2) {
            return Err(must(
                "hidden_size",
                format!("give each of the {heads} `num_attention_heads` an even width"),
                self.hidden_size,
            ));
        }
        within("num_key_value_heads", self.kv_heads, 1..=heads)?;
        if !heads.is_multiple_of(self.kv_heads) {
            return Err(must(
                "num_attention_heads",
                format!("be a multiple of `num_key_value_heads` ({})", self.kv_heads),
                heads,
            ));
        }
        Ok(())
    }

    /// What the engine must know.
    pub(crate) fn spec(&self) -> ModelSpec {
        ModelSpec {
            layers: self.layers,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            hidden_size: self.hidden_size,
            vocab_size: self.vocab_size,
            input_vocab_size: self.vocab_size,
            max_positions: self.max_positions,
            cross_feature_bytes: 0,
        }
    }
}

/// Checks a norm's epsilon.
pub(crate) fn check_eps(field: &str, eps: f64) -> Result<(), LoadError> {
    if (0.0..1.0).contains(&eps) {
        return Ok(());
    }
    Err(must(field, "be at least 0 and below 1", eps))
}

/// An error about a field of `config.json`: "`field` must `bound`, but is `value`".
pub(crate) fn must(field: &str, bound: impl Display, value: impl Display) -> LoadError {
    LoadError::invalid(
        CONFIG_FILE,
        format!("`{field}` must {bound}, but is {value}"),
    )
}

/// Checks a number in `config.json`.
pub(crate) fn within(
    field: &str,
    value: usize,
    bounds: RangeInclusive<usize>,
) -> Result<(), LoadError> {
    if bounds.contains(&value) {
        return Ok(());
    }
    let (least, most) = bounds.into_inner();
    Err(must(field, format!("be between {least} and {most}"), value))
}
