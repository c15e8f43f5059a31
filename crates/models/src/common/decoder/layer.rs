//! One layer: attention, then the MLP, each behind a norm and beside a residual.

use candle_core::{Result, Tensor};
use vlmd_backend::{KvPages, LayerCache};
use vlmd_kernels::{Linear, Pages, paged_attention, qkv_rope_write};

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
    /// What comes out of the layer for what goes in.
    pub(crate) fn forward(
        &self,
        x: &Residual,
        pass: &Pass,
        cache: &LayerCache,
    ) -> Result<Residual> {
        let (x, normed) = x.normed(&self.attention_norm)?;
        let attended = self.attention.forward(&normed, pass, cache)?;
        let (sum, normed) = self.mlp_norm.add(&x, &attended)?;
        let added = Some(self.mlp.forward(&normed)?);
        Ok(Residual { sum, added })
    }
}

/// The hidden states between two layers, `[T, hidden]`: what a layer gives is added only when the
/// next one norms the sum, which is one pass over memory instead of two.
pub(crate) struct Residual {
    sum: Tensor,
    /// What is still to be added.
    added: Option<Tensor>,
}

impl Residual {
    /// Hidden states with nothing left to be added.
    pub(crate) fn new(sum: Tensor) -> Self {
        Self { sum, added: None }
    }

    /// The hidden states.
    pub(crate) fn sum(self) -> Result<Tensor> {
        match self.added {
            Some(added) => self.sum + added,
            None => Ok(self.sum),
        }
    }

    /// The hidden states, and their norm.
    fn normed(&self, norm: &Norm) -> Result<(Tensor, Tensor)> {
        match &self.added {
            Some(added) => norm.add(&self.sum, added),
            None => Ok((self.sum.clone(), norm.forward(&self.sum)?)),
        }
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
    /// Of queries; how many keys have the cache says.
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
}

impl Attention {
    fn forward(&self, x: &Tensor, pass: &Pass, cache: &LayerCache) -> Result<Tensor> {
        let (keys, values) = (pages(&cache.k), pages(&cache.v));
        let qkv = self.qkv.forward(x)?;
        let angles = pass.angles.as_ref().map(|(cos, sin)| (cos, sin));
        let query = qkv_rope_write(&qkv, angles, self.heads, keys, values, &pass.ragged)?;
        let scale = (self.head_dim as f32).sqrt().recip();
        let attended = paged_attention(&query, keys, values, &pass.ragged, scale)?;
        let attended = attended.flatten_from(1)?;
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
