//! Sizes of a decoder as configurations state them, and the checks that all of them must pass.

use vlmd_backend::ModelSpec;

use super::fields::{CONFIG, ConfigFile};
use crate::LoadError;

/// Bound on every width and count, far above any model, so that products of two cannot overflow.
pub(crate) const MAX_SIZE: usize = 1 << 24;

/// Most layers of a decoder or tower.
pub(crate) const MAX_LAYERS: usize = 4096;

/// How a kind of configuration calls the sizes, and where it is kept.
#[derive(Debug)]
pub(crate) struct Fields {
    pub(crate) file: ConfigFile,
    pub(crate) vocab_size: &'static str,
    pub(crate) hidden_size: &'static str,
    pub(crate) intermediate_size: &'static str,
    pub(crate) layers: &'static str,
    pub(crate) heads: &'static str,
    pub(crate) kv_heads: &'static str,
    pub(crate) head_dim: &'static str,
    pub(crate) max_positions: &'static str,
}

/// Hugging Face's.
pub(crate) const HUGGING_FACE: Fields = Fields {
    file: CONFIG,
    vocab_size: "vocab_size",
    hidden_size: "hidden_size",
    intermediate_size: "intermediate_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    kv_heads: "num_key_value_heads",
    head_dim: "head_dim",
    max_positions: "max_position_embeddings",
};

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
    pub(crate) fn head_dim(
        hidden_size: usize,
        heads: usize,
        fields: &Fields,
    ) -> Result<usize, LoadError> {
        let file = fields.file;
        file.within(fields.hidden_size, hidden_size, 1..=MAX_SIZE)?;
        file.within(fields.heads, heads, 1..=hidden_size)?;
        file.multiple(fields.hidden_size, hidden_size, fields.heads, heads)?;
        Ok(hidden_size / heads)
    }

    /// Checks each size and how they fit; `fields` says how to call them.
    pub(crate) fn check(&self, fields: &Fields) -> Result<(), LoadError> {
        let (heads, file) = (self.heads, fields.file);
        for (field, size, bounds) in [
            (fields.vocab_size, self.vocab_size, 1..=MAX_SIZE),
            (fields.hidden_size, self.hidden_size, 1..=MAX_SIZE),
            (
                fields.intermediate_size,
                self.intermediate_size,
                1..=MAX_SIZE,
            ),
            (fields.layers, self.layers, 1..=MAX_LAYERS),
            (fields.heads, heads, 1..=MAX_SIZE),
            (fields.head_dim, self.head_dim, 1..=MAX_SIZE),
            (fields.max_positions, self.max_positions, 2..=MAX_SIZE),
        ] {
            file.within(field, size, bounds)?;
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(file.must(
                fields.hidden_size,
                format!("give each of the {heads} `{}` an even width", fields.heads),
                self.hidden_size,
            ));
        }
        file.within(fields.kv_heads, self.kv_heads, 1..=heads)?;
        file.multiple(fields.heads, heads, fields.kv_heads, self.kv_heads)
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
            long_beyond: None,
            cross_feature_bytes: 0,
        }
    }
}
