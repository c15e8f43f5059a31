//! What launches of paged and of dense attention share; see `cuda/attention.cuh`.

#![expect(unsafe_code, reason = "a kernel fills what is allocated here")]

use candle_core::{DType, Device, Result, Tensor};

/// Warps of a block.
pub(super) const WARPS: usize = 4;

/// Query rows that a warp holds at most, on plain cores.
pub(super) const MAX_ROWS: usize = 8;

/// Query rows of a block on tensor cores.
pub(super) const TENSOR_CORE_ROWS: usize = 64;

/// The heads that kernels on tensor cores are made for; smaller ones are filled up with zeros.
const TENSOR_CORE_HEADS: [usize; 3] = [64, 96, 128];

/// Bytes of the widest loads.
const ALIGNMENT: usize = 16;

/// The heads of the kernel on tensor cores that takes queries of `dtype` and heads of `head_dim`;
/// `None` where plain cores are to be taken.
pub(super) fn on_tensor_cores(dtype: DType, head_dim: usize) -> Option<usize> {
    TENSOR_CORE_HEADS
        .into_iter()
        .find(|made_for| dtype != DType::F32 && head_dim <= *made_for)
}

/// Rows of a tile of kernels that share out the keys of so many rows among warps: those beyond
/// the last would be computed for nothing.
pub(super) fn tile_of(rows: usize) -> usize {
    match rows {
        1 => 1,
        2..=4 => 4,
        _ => MAX_ROWS,
    }
}

/// Whether a tensor begins where the widest loads may.
pub(super) fn aligned(tensor: &Tensor) -> bool {
    let start = tensor.layout().start_offset() * tensor.dtype().size_in_bytes();
    start.is_multiple_of(ALIGNMENT)
}

/// What splits of keys come to.
pub(super) struct Parts {
    /// `[partials, heads, head_dim]`, f32: sums of values.
    pub(super) sums: Tensor,
    /// `[partials, heads, 2]`, f32: the largest score, and the sum of weights relative to it.
    pub(super) softmax: Tensor,
}

impl Parts {
    /// # Safety
    /// As that of [`unwritten`](super::launch::unwritten).
    pub(super) unsafe fn unwritten(
        partials: usize,
        heads: usize,
        head_dim: usize,
        device: &Device,
    ) -> Result<Self> {
        // SAFETY: the same contract.
        let numbers =
            |width| unsafe { Tensor::empty((partials, heads, width), DType::F32, device) };
        Ok(Self {
            sums: numbers(head_dim)?,
            softmax: numbers(2)?,
        })
    }
}
