//! The text decoder that all architectures share: embeddings, pre-norm layers over a paged cache,
//! a last norm and a head.
//!
//! An architecture says what its decoder is made of ([`Weights`]) and from which tensors; the
//! arithmetic is here, once. [`llama`] reads the tensor names that most checkpoints have, [`megatron`]
//! those of NVIDIA's.

pub(crate) mod cross;
mod layer;
pub(crate) mod llama;
pub(crate) mod megatron;
mod mlp;

use candle_core::{DType, Device, IndexOp, Result, Tensor};
use vlmd_backend::{KvCache, ModelSpec, Step};
use vlmd_kernels::{Linear, Ragged, RaggedLayout};

pub(crate) use layer::{Attention, Layer, Residual};
pub(crate) use mlp::Mlp;

use super::norm::Norm;
use super::params::Params;
use super::positions::Positions;
use super::sizes::Sizes;

/// What a decoder is made of.
#[derive(Debug)]
pub(crate) struct Weights {
    /// `[rows, hidden]`; at least as many rows as the vocabulary has tokens.
    pub(crate) embedding: Tensor,
    /// Multiplies embeddings, those of pictures too.
    pub(crate) embedding_scale: f64,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Norm,
    /// `[vocab, hidden]`.
    pub(crate) head: Linear,
}

/// A decoder with its weights.
#[derive(Debug)]
pub(crate) struct Decoder {
    sizes: Sizes,
    positions: Positions,
    weights: Weights,
    device: Device,
    dtype: DType,
}

impl Decoder {
    /// `params` tells the device and the type of activations.
    pub(crate) fn new(
        params: &Params<'_>,
        sizes: Sizes,
        positions: Positions,
        weights: Weights,
    ) -> Self {
        Self {
            sizes,
            positions,
            weights,
            device: params.device().clone(),
            dtype: params.activation_dtype(),
        }
    }

    /// What the engine must know.
    pub(crate) fn spec(&self) -> ModelSpec {
        let rows = self.weights.embedding.dims().first().copied();
        ModelSpec {
            layers: self.weights.layers.len(),
            input_vocab_size: rows.unwrap_or_default(),
            long_beyond: self.positions.long_beyond(),
            ..self.sizes.spec()
        }
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Logits of `step.logit_rows`, `[rows, vocab]`, f32.
    pub(crate) fn forward(&self, step: &Step, cache: &KvCache) -> Result<Tensor> {
        self.forward_with(step, cache, |_, x| Ok(x))
    }

    /// The same with something between the layers: `between` is called with the index of the
    /// layer that comes next, and the hidden states that it is to take; at last with the number
    /// of layers.
    pub(crate) fn forward_with(
        &self,
        step: &Step,
        cache: &KvCache,
        mut between: impl FnMut(usize, Residual) -> Result<Residual>,
    ) -> Result<Tensor> {
        let pass = self.pass(step)?;
        let mut x = Residual::new(self.embed(step)?);
        for (index, (layer, cache)) in self.weights.layers.iter().zip(&cache.layers).enumerate() {
            x = between(index, x)?;
            x = layer.forward(&x, &pass, cache)?;
        }
        let x = between(self.weights.layers.len(), x)?.sum()?;
        self.logits(&x, &step.logit_rows)
    }

    /// What all layers need of a step.
    fn pass(&self, step: &Step) -> Result<Pass> {
        let ragged = Ragged::new(
            RaggedLayout {
                cu_q: &step.cu_q,
                kv_len: &step.kv_len,
                kv_slots: &step.kv_slots,
                block_table: &step.block_table,
                max_blocks: step.max_blocks,
            },
            &self.device,
        )?;
        let angles = match &self.positions {
            Positions::Rotary(rope) => Some(rope.tables(step, self.dtype, &self.device)?),
            Positions::Sinusoidal(_) => None,
        };
        Ok(Pass { ragged, angles })
    }

    /// Token embeddings `[T, hidden]` with image features in their places.
    fn embed(&self, step: &Step) -> Result<Tensor> {
        let ids = Tensor::new(step.tokens.as_slice(), &self.device)?;
        let tokens = self.weights.embedding.index_select(&ids, 0)?;
        let x = splice(tokens.to_dtype(self.dtype)?, step)?;
        let x = if self.weights.embedding_scale == 1.0 {
            x
        } else {
            (x * self.weights.embedding_scale)?
        };
        match &self.positions {
            Positions::Rotary(_) => Ok(x),
            Positions::Sinusoidal(waves) => x + waves.rows(step, self.dtype, &self.device)?,
        }
    }

    fn logits(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        if rows.is_empty() {
            // On the host: CUDA drivers without memory pools refuse to allocate nothing.
            return Tensor::zeros((0, self.sizes.vocab_size), DType::F32, &Device::Cpu);
        }
        let rows = Tensor::new(rows, &self.device)?;
        let normed = self.weights.norm.forward(&x.index_select(&rows, 0)?)?;
        self.weights.head.forward(&normed)?.to_dtype(DType::F32)
    }
}

/// Puts the step's image features into the places of their tokens; `tokens` is `[T, hidden]`.
fn splice(tokens: Tensor, step: &Step) -> Result<Tensor> {
    if step.splices.is_empty() {
        return Ok(tokens);
    }
    let mut parts = Vec::with_capacity(2 * step.splices.len() + 1);
    let mut row = 0;
    for splice in &step.splices {
        if splice.row > row {
            parts.push(tokens.i(row..splice.row)?);
        }
        parts.push(splice.features.to_dtype(tokens.dtype())?);
        row = splice.row + splice.features.dim(0)?;
    }
    if row < step.tokens.len() {
        parts.push(tokens.i(row..)?);
    }
    Tensor::cat(&parts, 0)
}

/// What all layers of one forward pass share.
pub(crate) struct Pass {
    pub(crate) ragged: Ragged,
    /// Cosines and sines, each `[T, rotated / 2]`, where positions are rotations.
    pub(crate) angles: Option<(Tensor, Tensor)>,
}
