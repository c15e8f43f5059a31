//! One layer: attention, then the MLP, each behind a norm and beside a residual.

use candle_core::{Result, Tensor};
use vlmd_backend::{KvPages, LayerCache};
use vlmd_kernels::{Linear, Pages, paged_attention, rope, write_kv};

use super::Pass;
use super::mlp::Mlp;
use crate::common::norm::Norm;

/// A pre-norm transformer layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attention_norm: Norm,
    pub(crate) attention: Attention,
    pub(crate) mlp_norm: Norm,
    pub(crate) mlp: Mlp,
}

impl Layer {
    /// `[T, hidden]` to the same shape.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass, cache: &LayerCache) -> Result<Tensor> {
        let normed = self.attention_norm.forward(x)?;
        let x = (x + self.attention.forward(&normed, pass, cache)?)?;
        let normed = self.mlp_norm.forward(&x)?;
        x + self.mlp.forward(&normed)?
    }
}

/// Causal grouped-query attention (Ainslie et al. 2023) over a paged cache.
#[derive(Debug)]
pub(crate) struct Attention {
    /// Rows: all queries, all keys, all values.
    pub(crate) qkv: Linear,
    /// Between attention and the output projection; Kosmos-2 has one.
    pub(crate) inner_norm: Option<Norm>,
    pub(crate) output: Linear,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl Attention {
    fn forward(&self, x: &Tensor, pass: &Pass, cache: &LayerCache) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let queries = self.heads * self.head_dim;
        let keys = self.kv_heads * self.head_dim;
        let qkv = self.qkv.forward(x)?;
        let heads = |start, heads: usize| {
            qkv.narrow(1, start, heads * self.head_dim)?
                .reshape((rows, heads, self.head_dim))
        };
        let rotated = |x: Tensor| match &pass.angles {
            Some((cos, sin)) => rope(&x, cos, sin),
            None => Ok(x),
        };
        let query = rotated(heads(0, self.heads)?)?;
        let key = rotated(heads(queries, self.kv_heads)?)?;
        let value = heads(queries + keys, self.kv_heads)?;
        let (keys, values) = (pages(&cache.k), pages(&cache.v));
        write_kv(&key, &value, keys, values, &pass.ragged)?;
        let scale = (self.head_dim as f32).sqrt().recip();
        let attended =
            paged_attention(&query, keys, values, &pass.ragged, scale)?.reshape((rows, queries))?;
        match &self.inner_norm {
            Some(norm) => self.output.forward(&norm.forward(&attended)?),
            None => self.output.forward(&attended),
        }
    }
}

/// A part of the engine's cache as the kernels take it.
fn pages(cached: &KvPages) -> Pages<'_> {
    Pages {
        data: &cached.data,
        scales: cached.scales.as_ref(),
    }
}
