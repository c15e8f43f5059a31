//! How large the engine is, and why it did not start.

use std::cmp::Ordering;

use vlmd_backend::{BLOCK_TOKENS, KvDtype, ModelSpec};
use vlmd_kernels::draw::MOST_TOKENS;

use crate::speculation::Speculation;

/// Sizes of an engine, fixed for its life.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineConfig {
    /// Most requests that are computed side by side, at least 1.
    pub max_num_seqs: usize,
    /// Most new tokens of one step, over all requests. At least `max_num_seqs`, so that every
    /// answer gets its token in every step and a prompt beside them still moves on.
    pub max_num_batched_tokens: usize,
    /// Most tokens of one prompt in one step, at least 1. Smaller chunks shorten the pause that a
    /// long prompt means for the answers beside it, and cost throughput.
    pub max_prefill_chunk: usize,
    /// Most answers that wait for a seat, at least 1. The next one is refused.
    pub max_queue: usize,
    /// Most tokens of the prompts that wait, together, at least 1.
    pub max_queued_tokens: usize,
    /// How many times as long as a step that only decodes another one may take, above 1: what is
    /// beyond goes to prompts and pictures of newcomers. Infinity is no bound. Without meaning
    /// while nobody is answered.
    pub max_step_stretch: f64,
    /// Most tokens of one request, prompt and answer together, at least 2 and at most the
    /// model's positions. Bounded further by what `kv_blocks` can hold.
    pub max_model_len: usize,
    /// Blocks of the KV cache, at least 1. See [`EngineConfig::blocks_for`].
    pub kv_blocks: usize,
    /// Type of the cached keys and values.
    pub kv_dtype: KvDtype,
    /// Bytes beside the KV cache, shared by all requests, for what answers look at by
    /// cross-attention. Without meaning for models that have none.
    pub cross_bytes: usize,
    /// Look up prefixes that earlier requests have left in the cache.
    pub prefix_cache: bool,
    /// Bytes of features that are kept for pictures that come again; 0 keeps none.
    pub encoder_cache_bytes: usize,
    /// Guess at next tokens; `None` does not.
    pub speculation: Option<Speculation>,
}

impl EngineConfig {
    /// Default of `max_num_seqs`.
    pub const DEFAULT_MAX_NUM_SEQS: usize = 64;
    /// Default of `max_num_batched_tokens`: a Phi-3.5-vision prompt with one picture in one step.
    pub const DEFAULT_MAX_NUM_BATCHED_TOKENS: usize = 2048;
    /// Default of `max_prefill_chunk`.
    pub const DEFAULT_MAX_PREFILL_CHUNK: usize = 2048;
    /// Default of `max_queue`.
    pub const DEFAULT_MAX_QUEUE: usize = 256;
    /// Default of `max_queued_tokens`: pixels and tokens of so many wait in memory.
    pub const DEFAULT_MAX_QUEUED_TOKENS: usize = 1 << 20;
    /// Default of `max_step_stretch`.
    pub const DEFAULT_MAX_STEP_STRETCH: f64 = 2.0;
    /// Pixels of one call to the encoder: about forty crops of 336 x 336. The activations of a
    /// vision tower are larger by far. One picture is never divided.
    pub const ENCODER_CALL_PIXELS: usize = 5 << 20;
    /// Default of `encoder_cache_bytes`.
    pub const DEFAULT_ENCODER_CACHE_BYTES: usize = 512 << 20;

    /// The defaults for a cache of `kv_blocks` blocks of `kv_dtype`.
    #[must_use]
    pub fn new(kv_blocks: usize, kv_dtype: KvDtype, max_model_len: usize) -> Self {
        Self {
            max_num_seqs: Self::DEFAULT_MAX_NUM_SEQS,
            max_num_batched_tokens: Self::DEFAULT_MAX_NUM_BATCHED_TOKENS,
            max_prefill_chunk: Self::DEFAULT_MAX_PREFILL_CHUNK,
            max_queue: Self::DEFAULT_MAX_QUEUE,
            max_queued_tokens: Self::DEFAULT_MAX_QUEUED_TOKENS,
            max_step_stretch: Self::DEFAULT_MAX_STEP_STRETCH,
            max_model_len,
            kv_blocks,
            kv_dtype,
            cross_bytes: 0,
            prefix_cache: true,
            encoder_cache_bytes: Self::DEFAULT_ENCODER_CACHE_BYTES,
            speculation: None,
        }
    }

    /// Blocks of the KV cache that fit into `bytes`.
    #[must_use]
    pub fn blocks_for(bytes: usize, spec: &ModelSpec, dtype: KvDtype) -> usize {
        bytes.checked_div(spec.block_bytes(dtype)).unwrap_or(0)
    }

    /// Checks every bound, and gives the most tokens that one request may have: `max_model_len`
    /// or what the whole cache holds.
    pub(crate) fn resolve(&self, spec: &ModelSpec) -> Result<usize, StartError> {
        let at_least = |field, value, bound| {
            if value < bound {
                return Err(StartError::TooSmall {
                    field,
                    value,
                    bound,
                });
            }
            Ok(())
        };
        at_least("max_num_seqs", self.max_num_seqs, 1)?;
        at_least(
            "max_num_batched_tokens",
            self.max_num_batched_tokens,
            self.max_num_seqs,
        )?;
        at_least("max_prefill_chunk", self.max_prefill_chunk, 1)?;
        at_least("max_queue", self.max_queue, 1)?;
        at_least("max_queued_tokens", self.max_queued_tokens, 1)?;
        if let Some(speculation) = self.speculation {
            at_least("speculation.tokens", speculation.tokens, 1)?;
            at_least("speculation.min_ngram", speculation.min_ngram, 1)?;
            let least = speculation.min_ngram;
            at_least("speculation.max_ngram", speculation.max_ngram, least)?;
        }
        // No number is not above 1 either.
        if self.max_step_stretch.partial_cmp(&1.0) != Some(Ordering::Greater) {
            return Err(StartError::Stretch(self.max_step_stretch));
        }
        at_least("max_model_len", self.max_model_len, 2)?;
        at_least("kv_blocks", self.kv_blocks, 1)?;

        let at_most = |field, value, bound| {
            if value > bound {
                return Err(StartError::TooLarge {
                    field,
                    value,
                    bound,
                });
            }
            Ok(())
        };
        // A `Step` counts rows and slots in u32.
        let rows = u32::MAX as usize;
        at_most("max_num_batched_tokens", self.max_num_batched_tokens, rows)?;
        at_most("kv_blocks", self.kv_blocks, rows / BLOCK_TOKENS)?;
        at_most("max_model_len", self.max_model_len, spec.max_positions)?;
        at_most("vocab_size", spec.vocab_size, MOST_TOKENS)?;
        Ok(self.max_model_len.min(self.kv_blocks * BLOCK_TOKENS))
    }
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A size is below its bound.
    #[error("`{field}` must be at least {bound}, not {value}")]
    TooSmall {
        /// Name in [`EngineConfig`].
        field: &'static str,
        /// What it was.
        value: usize,
        /// What it must be at least.
        bound: usize,
    },
    /// A size is above its bound.
    #[error("`{field}` must be at most {bound}, not {value}")]
    TooLarge {
        /// Name in [`EngineConfig`] or [`ModelSpec`].
        field: &'static str,
        /// What it was.
        value: usize,
        /// What it may be at most.
        bound: usize,
    },
    /// A step is to take no longer than one that only decodes: nothing else could ever happen.
    #[error("`max_step_stretch` must be above 1, not {0}")]
    Stretch(f64),
    /// The device has no room for the cache.
    #[error("no room for a KV cache of {blocks} blocks: {source}")]
    Cache {
        /// Blocks that were asked for.
        blocks: usize,
        /// What the device said.
        source: candle_core::Error,
    },
    /// The operating system gave no thread.
    #[error("cannot start the engine's thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The model did not answer the first, tiny forward pass.
    #[error("the model does not answer: {0}")]
    WarmUp(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: ModelSpec = ModelSpec {
        layers: 2,
        kv_heads: 3,
        head_dim: 8,
        hidden_size: 24,
        vocab_size: 100,
        input_vocab_size: 100,
        max_positions: 4096,
        long_beyond: None,
        cross_feature_bytes: 0,
    };

    #[test]
    fn blocks_for_counts_keys_and_values_of_every_layer() {
        let block = 2 * 2 * 32 * 3 * 8 * 4;
        assert_eq!(
            EngineConfig::blocks_for(10 * block, &SPEC, KvDtype::F32),
            10
        );
        assert_eq!(
            EngineConfig::blocks_for(10 * block - 1, &SPEC, KvDtype::F32),
            9
        );
        assert_eq!(
            EngineConfig::blocks_for(10 * block, &SPEC, KvDtype::F16),
            20
        );
        assert_eq!(EngineConfig::blocks_for(0, &SPEC, KvDtype::F32), 0);
    }

    #[test]
    fn the_cache_bounds_the_length_of_a_request() {
        let length = |blocks, len| {
            EngineConfig::new(blocks, KvDtype::F32, len)
                .resolve(&SPEC)
                .unwrap()
        };
        assert_eq!(length(1000, 4096), 4096);
        assert_eq!(length(10, 4096), 320);
        assert_eq!(length(10, 100), 100);
    }

    #[test]
    fn every_size_out_of_bounds_is_named_with_bound_and_value() {
        type Spoil = fn(&mut EngineConfig);
        let cases: [(Spoil, &str); 13] = [
            (
                |c| c.max_num_seqs = 0,
                "`max_num_seqs` must be at least 1, not 0",
            ),
            (
                |c| c.max_num_batched_tokens = 63,
                "`max_num_batched_tokens` must be at least 64, not 63",
            ),
            (
                |c| c.max_num_batched_tokens = 1 << 32,
                "`max_num_batched_tokens` must be at most 4294967295, not 4294967296",
            ),
            (
                |c| c.max_prefill_chunk = 0,
                "`max_prefill_chunk` must be at least 1, not 0",
            ),
            (|c| c.max_queue = 0, "`max_queue` must be at least 1, not 0"),
            (
                |c| c.max_queued_tokens = 0,
                "`max_queued_tokens` must be at least 1, not 0",
            ),
            (
                |c| c.max_step_stretch = 1.0,
                "`max_step_stretch` must be above 1, not 1",
            ),
            (
                |c| c.max_step_stretch = f64::NAN,
                "`max_step_stretch` must be above 1, not NaN",
            ),
            (
                |c| {
                    c.speculation = Some(Speculation {
                        tokens: 2,
                        min_ngram: 3,
                        max_ngram: 2,
                    });
                },
                "`speculation.max_ngram` must be at least 3, not 2",
            ),
            (
                |c| c.max_model_len = 1,
                "`max_model_len` must be at least 2, not 1",
            ),
            (
                |c| c.max_model_len = 4097,
                "`max_model_len` must be at most 4096, not 4097",
            ),
            (|c| c.kv_blocks = 0, "`kv_blocks` must be at least 1, not 0"),
            (
                |c| c.kv_blocks = 1 << 27,
                "`kv_blocks` must be at most 134217727, not 134217728",
            ),
        ];
        for (spoil, message) in cases {
            let mut config = EngineConfig::new(100, KvDtype::F32, 4096);
            spoil(&mut config);
            let error = config.resolve(&SPEC).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let wide = ModelSpec {
            vocab_size: (1 << 20) + 1,
            ..SPEC
        };
        let config = EngineConfig::new(100, KvDtype::F32, 4096);
        let error = config.resolve(&wide).unwrap_err().to_string();
        assert_eq!(error, "`vocab_size` must be at most 1048576, not 1048577");
    }
}
