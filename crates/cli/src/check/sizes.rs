//! How large the tensors are that kernels are checked with.

use vlmd_kernels::Place;

/// Sizes of a layer and of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Rows of a prompt's chunk, and of what works row by row.
    pub(super) rows: usize,
    /// Sequences that decode side by side, a row each.
    pub(super) sequences: usize,
    /// Tokens of the longest sequence.
    pub(super) keys: usize,
    /// Tokens of a picture.
    pub(super) picture: usize,
    /// Features that a decoding sequence looks at.
    pub(super) features: usize,
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// Bytes that are copied to see how fast memory is.
    pub(super) copied: usize,
    /// Rows and columns of the matrices that are multiplied to see how fast arithmetic is.
    pub(super) matrix: usize,
    /// Runs that are timed at most; the middle one counts.
    pub(super) runs: usize,
}

/// A layer of Llama-3.2-11B and a full step.
const CUDA: Sizes = Sizes {
    rows: 1024,
    sequences: 64,
    keys: 4096,
    picture: 1600,
    features: 6404,
    hidden: 4096,
    inner: 14_336,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    copied: 1 << 28,
    matrix: 4096,
    runs: 15,
};

/// A smaller layer, which takes a CPU some seconds in all.
const CPU: Sizes = Sizes {
    rows: 128,
    sequences: 16,
    keys: 1024,
    picture: 577,
    features: 1601,
    hidden: 2048,
    inner: 5632,
    heads: 16,
    kv_heads: 4,
    head_dim: 128,
    copied: 1 << 26,
    matrix: 1024,
    runs: 5,
};

/// Odd numbers, so that the ends of rows and blocks are met, and so few that a simulated card is
/// done in seconds.
const QUICK: Sizes = Sizes {
    rows: 5,
    sequences: 3,
    keys: 70,
    picture: 33,
    features: 301,
    hidden: 96,
    inner: 136,
    heads: 4,
    kv_heads: 2,
    head_dim: 24,
    copied: 1 << 16,
    matrix: 48,
    runs: 1,
};

impl Sizes {
    pub(super) fn of(place: Place, quick: bool) -> Self {
        match (quick, place) {
            (true, _) => QUICK,
            (false, Place::Cuda) => CUDA,
            (false, Place::Cpu) => CPU,
        }
    }
}
