//! What the operator asked for, as far as it takes memory.

use vlmd_backend::KvDtype;
use vlmd_kernels::Place;
use vlmd_models::StepBound;

use crate::args::{ByteSize, ServeArgs};

/// Share of the free memory of a CUDA device that the plan may take unless told otherwise, as in
/// NIM and vLLM.
const CUDA_UTILIZATION: f64 = 0.9;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Wishes {
    /// Type of cached keys and values.
    pub(crate) kv_dtype: KvDtype,
    /// Bytes of the KV cache.
    pub(crate) memory: Option<ByteSize>,
    /// Most tokens of one sequence.
    pub(crate) max_model_len: Option<usize>,
    /// Requests side by side.
    pub(crate) max_num_seqs: usize,
    /// Tokens of one step.
    pub(crate) max_num_batched_tokens: usize,
    /// Pictures of one request.
    pub(crate) max_images: usize,
    /// Bytes for pictures that are looked at by cross-attention.
    pub(crate) cross_memory: Option<ByteSize>,
    /// Bytes of encoded pictures that are kept.
    pub(crate) encoder_cache: u64,
    /// Share of the free memory that all parts together may take, above 0 and at most 1. `None` is
    /// no bound, and then the caches take no more than they must.
    pub(crate) utilization: Option<f64>,
}

impl Wishes {
    /// Those of a command line, on `place`.
    pub(crate) fn of(args: &ServeArgs, place: Place) -> Self {
        let usual = match place {
            Place::Cpu => None,
            Place::Cuda => Some(CUDA_UTILIZATION),
        };
        Self {
            kv_dtype: args.kv_cache_dtype.resolve(place, args.dtype),
            memory: args.kv_cache_memory,
            max_model_len: args.max_model_len,
            max_num_seqs: args.max_num_seqs,
            max_num_batched_tokens: args.max_num_batched_tokens,
            max_images: args.media.max_images,
            cross_memory: args.cross_attention_memory,
            encoder_cache: args.engine.encoder_cache_memory.0,
            utilization: args.deployment.gpu_memory_utilization.or(usual),
        }
    }

    /// The largest step that the engine takes, with sequences of up to `longest` tokens.
    pub(crate) fn step(&self, longest: usize) -> StepBound {
        StepBound {
            tokens: self.max_num_batched_tokens,
            // `prompt_logprobs` may ask for those of every token of a prompt.
            logit_rows: self.max_num_batched_tokens,
            longest,
            sequences: self.max_num_seqs,
            pictures: self.max_images,
        }
    }

    /// Bytes of `free` ones that are to stay free. A cache of a stated size goes before it.
    pub(crate) fn kept_free(&self, free: u64) -> u64 {
        match self.utilization {
            // Memory is far from where an f64 counts no bytes.
            Some(share) if self.memory.is_none() => {
                free.saturating_sub((free as f64 * share) as u64)
            }
            _ => 0,
        }
    }
}
