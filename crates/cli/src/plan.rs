//! How much memory the KV cache gets, and what fits in it.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use vlmd_backend::{BLOCK_TOKENS, ModelSpec};

use crate::args::ByteSize;

/// Share of the free memory that the KV cache takes unless told otherwise.
const DEFAULT_SHARE: u64 = 4;

/// What the operator asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wishes {
    pub(crate) memory: Option<ByteSize>,
    pub(crate) max_model_len: Option<usize>,
    pub(crate) max_num_seqs: usize,
    pub(crate) cross_memory: Option<ByteSize>,
}

/// What they get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryPlan {
    /// Blocks of the KV cache.
    pub(crate) kv_blocks: usize,
    /// Bytes that these take.
    pub(crate) kv_bytes: u64,
    /// Bytes beside the cache for pictures that answers look at by cross-attention; 0 for models
    /// that have none.
    pub(crate) cross_bytes: u64,
    /// Most tokens of one sequence.
    pub(crate) max_model_len: usize,
}

impl MemoryPlan {
    /// Plans the cache for a model of `spec` whose keys and values are kept as `kv_dtype`, with
    /// `free` bytes of memory not yet in use.
    ///
    /// # Errors
    /// When the memory does not hold one block, or not the sequence that was asked for.
    pub(crate) fn new(
        spec: &ModelSpec,
        kv_dtype: DType,
        free: u64,
        wishes: Wishes,
    ) -> Result<Self> {
        let block_bytes = spec.block_bytes(kv_dtype) as u64;
        let wanted_len = match wishes.max_model_len {
            Some(len) if len > spec.max_positions => bail!(
                "`--max-model-len` {len} exceeds the {} positions that the model has",
                spec.max_positions
            ),
            Some(len) => len,
            None => spec.max_positions,
        };
        let useful =
            (wanted_len.div_ceil(BLOCK_TOKENS) as u64).saturating_mul(wishes.max_num_seqs as u64);
        let bytes = wishes.memory.map_or(free / DEFAULT_SHARE, |size| size.0);
        let kv_blocks = (bytes / block_bytes).min(useful);
        let capacity = usize::try_from(kv_blocks)?.saturating_mul(BLOCK_TOKENS);
        if kv_blocks == 0 {
            bail!(
                "a KV cache of {} cannot hold one block of {}; raise `--kv-cache-memory`",
                mebibytes(bytes),
                mebibytes(block_bytes)
            );
        }
        if let Some(len) = wishes.max_model_len
            && len > capacity
        {
            bail!(
                "`--max-model-len` {len} needs {} of KV cache, there are {}; lower it or raise `--kv-cache-memory`",
                mebibytes(len.div_ceil(BLOCK_TOKENS) as u64 * block_bytes),
                mebibytes(bytes)
            );
        }
        Ok(Self {
            kv_blocks: usize::try_from(kv_blocks)?,
            kv_bytes: kv_blocks * block_bytes,
            cross_bytes: if spec.cross_feature_bytes == 0 {
                0
            } else {
                wishes
                    .cross_memory
                    .map_or(free / DEFAULT_SHARE, |size| size.0)
            },
            max_model_len: wanted_len.min(capacity),
        })
    }
}

/// Bytes as a person reads them.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Memory that is free on `device`: of the machine or of the container, whichever is less.
pub(crate) fn free_memory(device: &Device) -> Result<u64> {
    if let Some(free) = vlmd_kernels::free_cuda_memory(device)? {
        return Ok(free);
    }
    let mut system = sysinfo::System::new().context("cannot tell how much memory is free")?;
    system.refresh_memory();
    let machine = system.available_memory();
    Ok(system
        .cgroup_limits()
        .map_or(machine, |group| group.free_memory.min(machine)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: ModelSpec = ModelSpec {
        layers: 2,
        kv_heads: 2,
        head_dim: 16,
        hidden_size: 64,
        vocab_size: 100,
        input_vocab_size: 100,
        max_positions: 1000,
        cross_feature_bytes: 0,
    };
    const WISHES: Wishes = Wishes {
        memory: None,
        max_model_len: None,
        max_num_seqs: 4,
        cross_memory: None,
    };
    /// 2 (k, v) x 2 layers x 32 tokens x 2 heads x 16 x 4 bytes.
    const BLOCK: u64 = 16_384;

    fn plan(free: u64, wishes: Wishes) -> Result<MemoryPlan> {
        MemoryPlan::new(&SPEC, DType::F32, free, wishes)
    }

    #[test]
    fn takes_no_more_than_the_longest_sequences_could_use() {
        let plan = plan(1 << 40, WISHES).unwrap();
        assert_eq!(
            plan,
            MemoryPlan {
                kv_blocks: 128,
                kv_bytes: 128 * BLOCK,
                cross_bytes: 0,
                max_model_len: 1000
            }
        );
    }

    #[test]
    fn a_small_cache_shortens_the_context() {
        let plan = plan(4 * 3 * BLOCK, WISHES).unwrap();
        assert_eq!((plan.kv_blocks, plan.max_model_len), (3, 96));
    }

    #[test]
    fn only_models_with_cross_attention_get_memory_for_it() {
        let spec = ModelSpec {
            cross_feature_bytes: 64,
            ..SPEC
        };
        let bytes = |wishes| {
            let plan = MemoryPlan::new(&spec, DType::F32, 1000 * BLOCK, wishes);
            plan.unwrap().cross_bytes
        };
        assert_eq!(bytes(WISHES), 250 * BLOCK);
        let wishes = Wishes {
            cross_memory: Some(ByteSize(7)),
            ..WISHES
        };
        assert_eq!(bytes(wishes), 7);
        assert_eq!(plan(1000 * BLOCK, wishes).unwrap().cross_bytes, 0);
    }

    #[test]
    fn a_context_that_cannot_fit_is_refused_with_numbers() {
        let wishes = Wishes {
            max_model_len: Some(97),
            memory: Some(ByteSize(3 * BLOCK)),
            ..WISHES
        };
        let message = plan(0, wishes).unwrap_err().to_string();
        assert!(
            message.contains("--max-model-len") && message.contains("97"),
            "{message}"
        );
        let wishes = Wishes {
            max_model_len: Some(1001),
            ..WISHES
        };
        assert!(
            plan(1 << 40, wishes)
                .unwrap_err()
                .to_string()
                .contains("1000 positions")
        );
        assert!(
            plan(BLOCK, WISHES)
                .unwrap_err()
                .to_string()
                .contains("one block")
        );
    }
}
