//! The seam between the engine, which schedules, and the models, which compute.
//!
//! Data only, and two traits. The engine never learns an architecture, a model never learns
//! about requests: they meet in a [`Step`], a flat description of one ragged forward pass in
//! which prefill chunks and single-token decodes stand side by side without padding. Pictures are
//! encoded before, in an [`Encoding`], which can be interrupted for steps.

mod encoding;
mod image;
mod kv;
mod pixels;

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

pub use encoding::Encoding;
pub use image::{ImageInput, ImageKey};
pub use kv::{KvCache, KvDtype, KvPages, LayerCache, UnknownKvDtype};
pub use pixels::{LevelTable, Pixels};

/// Tokens in one page of the KV cache.
///
/// 32 because candle-flash-attn's paged kernel takes pages in multiples of it.
pub const BLOCK_TOKENS: usize = 32;

/// What the engine must know of a model to plan memory and to bound requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// Decoder layers that keep keys and values.
    pub layers: usize,
    /// Key/value heads per layer.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of one token's hidden state, which is also that of an image feature.
    pub hidden_size: usize,
    /// Length of a row of logits.
    pub vocab_size: usize,
    /// Token ids that a prompt may hold are below this: at least `vocab_size`, and more where an
    /// architecture has tokens that are read and never said.
    pub input_vocab_size: usize,
    /// Most positions that one sequence may take, prompt and answer together.
    pub max_positions: usize,
    /// Sequences that may grow beyond so many tokens are computed otherwise from their first
    /// token on (LongRoPE), so that their keys are of no use to shorter ones. `None` where length
    /// makes no difference.
    pub long_beyond: Option<usize>,
    /// Bytes that the encoder keeps for each feature of a picture which tokens reach by
    /// cross-attention, for as long as the request lives. 0 where none do.
    pub cross_feature_bytes: usize,
}

impl ModelSpec {
    /// Bytes that one block of the KV cache takes over all layers. Sizes of a checkpoint that
    /// nobody could load saturate.
    #[must_use]
    pub fn block_bytes(&self, dtype: KvDtype) -> usize {
        let rows = [2, self.layers, BLOCK_TOKENS, self.kv_heads];
        let row = dtype.row_bytes(self.head_dim);
        rows.into_iter().fold(row, usize::saturating_mul)
    }
}

/// Where a picture's features take the place of token embeddings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpan {
    /// Index into [`Prepared::images`].
    pub image: usize,
    /// Token positions of the prompt, exactly as many as the picture has features.
    pub tokens: Range<usize>,
}

/// A picture that tokens look at by cross-attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrossImage {
    /// Index into [`Prepared::images`].
    pub image: usize,
    /// How many of its features are seen, from the first on; at least 1.
    pub visible: usize,
}

/// Tokens that look at pictures by cross-attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrossSpan {
    /// What they look at, in this order; at least one.
    pub images: Vec<CrossImage>,
    /// Token positions. A span that ends at `usize::MAX` goes on through the answer.
    pub tokens: Range<usize>,
    /// No picture has been shown before these tokens, and still they look.
    pub unseen: bool,
}

/// A prompt that is ready for the engine.
#[derive(Debug, Clone, Default)]
pub struct Prepared {
    /// Token ids. Those within an image's span are fillers that are never looked at.
    pub tokens: Vec<u32>,
    /// The pictures of the prompt, each once.
    pub images: Vec<ImageInput>,
    /// Features that stand in the prompt, in ascending order, without overlap. A picture may be
    /// shown more than once.
    pub spans: Vec<ImageSpan>,
    /// Features that tokens look at, in ascending order, without overlap. Empty where features
    /// stand in the prompt.
    pub cross: Vec<CrossSpan>,
}

impl Prepared {
    /// A prompt without pictures.
    #[must_use]
    pub fn text(tokens: Vec<u32>) -> Self {
        Self {
            tokens,
            ..Self::default()
        }
    }

    /// Features of all pictures that the request must keep until it ends.
    #[must_use]
    pub fn cross_features(&self) -> usize {
        if self.cross.is_empty() {
            return 0;
        }
        self.images.iter().map(|image| image.features).sum()
    }
}

/// Image features that take the place of embeddings in one step.
#[derive(Debug, Clone)]
pub struct Splice {
    /// First row of the step's tokens to be replaced.
    pub row: usize,
    /// `[rows, hidden]`, on the model's device.
    pub features: Tensor,
}

/// Rows of one sequence that look at pictures in this step.
#[derive(Debug, Clone)]
pub struct CrossRows {
    /// Rows of the step.
    pub rows: Range<usize>,
    /// What [`Model::encode`] gave for each picture, and how many features of it are seen, in
    /// the order of [`CrossSpan::images`].
    pub images: Vec<(Tensor, usize)>,
    /// See [`CrossSpan::unseen`].
    pub unseen: bool,
}

/// One forward pass over `B` sequences with `T` new tokens in all.
///
/// Plain host data, so that a scheduler's decision can be compared and printed.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// `[T]` token ids, sequence after sequence.
    pub tokens: Vec<u32>,
    /// `[T]` position of each token in its sequence, from 0.
    pub positions: Vec<u32>,
    /// `[T]` where each token's key and value go: `block * BLOCK_TOKENS + offset`.
    pub kv_slots: Vec<u32>,
    /// `[B + 1]` prefix sums of the sequences' new tokens: sequence `i` owns the rows
    /// `cu_q[i]..cu_q[i + 1]`.
    pub cu_q: Vec<u32>,
    /// `[B]` length of each sequence after this step: cached and new tokens.
    pub kv_len: Vec<u32>,
    /// `[B]` the most that each sequence may ever grow to. Fixed at admission, so that what a
    /// model derives from it (long or short rope factors) never changes under cached keys.
    pub max_len: Vec<u32>,
    /// `[B, max_blocks]`, row-major: the cache blocks of each sequence in order. Rows shorter
    /// than `max_blocks` are filled up with 0.
    pub block_table: Vec<u32>,
    /// Columns of `block_table`.
    pub max_blocks: usize,
    /// Image features among the rows, in ascending order of row, without overlap.
    pub splices: Vec<Splice>,
    /// Rows that look at pictures, in ascending order, without overlap.
    pub cross: Vec<CrossRows>,
    /// Rows whose logits are wanted, ascending. None in a step that completes no prompt.
    pub logit_rows: Vec<u32>,
}

/// An architecture with its weights on a device. Owned by the engine's worker thread.
pub trait Model: Send {
    /// Sizes, fixed for the model's life.
    fn spec(&self) -> &ModelSpec;

    /// Where the weights are and where steps run.
    fn device(&self) -> &Device;

    /// Puts pictures at the beginning of the encoder, without work that is worth counting.
    ///
    /// # Errors
    /// When the device fails. The pictures come from the same architecture's processor, so
    /// their shapes are right.
    fn begin_encoding(&self, images: &[&ImageInput]) -> Result<Box<dyn Encoding>>;

    /// Features of each picture, on the model's device: `[features, hidden]` where they stand in
    /// the prompt; where tokens look at them by cross-attention, whatever the model wants to find
    /// in [`CrossRows::images`] again, at most [`ModelSpec::cross_feature_bytes`] for each.
    ///
    /// An [`Encoding`] from its beginning to its end.
    ///
    /// # Errors
    /// See [`Self::begin_encoding`].
    fn encode(&self, images: &[&ImageInput]) -> Result<Vec<Tensor>> {
        let mut encoding = self.begin_encoding(images)?;
        while encoding.remaining() > 0 {
            encoding.advance(usize::MAX)?;
        }
        encoding.finish()
    }

    /// Runs one step: writes the keys and values of all `T` tokens into `cache` and gives the
    /// logits of `step.logit_rows`, `[rows, vocab]`, f32.
    ///
    /// # Errors
    /// When the device fails. The blocks that `kv_slots` lie in are then undefined.
    fn forward(&self, step: &Step, cache: &KvCache) -> Result<Tensor>;
}
