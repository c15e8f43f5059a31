//! A decoder with layers in between that look at pictures, as Llama-3.2-Vision has them.

use candle_core::{Device, Result, Tensor, bail};
use vlmd_backend::{CrossRows, KvCache, Step};
use vlmd_kernels::{Linear, attention};

use super::{Decoder, Mlp, Residual, llama};
use crate::LoadError;
use crate::common::norm::Norm;
use crate::common::params::Params;
use crate::common::positions::Positions;
use crate::common::sizes::Sizes;
use crate::common::stages::linear_work;

/// A decoder some of whose layers attend to pictures instead of to the text before them.
#[derive(Debug)]
pub(crate) struct LookingDecoder {
    decoder: Decoder,
    /// Each with the index of the decoder's layer that comes after it.
    looking: Vec<(usize, CrossLayer)>,
}

impl LookingDecoder {
    /// Loads a decoder of which the layers `looking`, ascending, look at pictures; `sizes.layers`
    /// counts layers of both kinds.
    pub(crate) fn load(
        params: &Params<'_>,
        source: &llama::Source<'_>,
        sizes: Sizes,
        looking: &[usize],
        positions: Positions,
    ) -> std::result::Result<Self, LoadError> {
        let reading = (0..sizes.layers).filter(|layer| !looking.contains(layer));
        let weights = llama::load(source, &sizes, reading)?;
        let branch = source.model.at("layers");
        // Among the layers before one are as many that look as it has predecessors.
        let layer = |(nth, &layer): (usize, &usize)| {
            let loaded = CrossLayer::load(&branch.at(layer), &sizes, source.rms_norm_eps)?;
            Ok((layer - nth, loaded))
        };
        let looking = looking.iter().enumerate().map(layer);
        Ok(Self {
            looking: looking.collect::<std::result::Result<_, LoadError>>()?,
            decoder: Decoder::new(params, sizes, positions, weights),
        })
    }

    pub(crate) fn device(&self) -> &Device {
        self.decoder.device()
    }

    /// Layers that look.
    pub(crate) fn looking(&self) -> usize {
        self.looking.len()
    }

    /// Keys that a layer, counted among those that look, sees of features `[S, hidden]`:
    /// `[S, kv_heads, head_dim]`. All layers' keys and values of a picture, one layer after the
    /// other, as `[layers, 2, S, kv_heads, head_dim]`, are what is looked at.
    pub(crate) fn keys(&self, index: usize, features: &Tensor) -> Result<Tensor> {
        let layer = self.layer(index)?;
        let keys = layer.by_heads(&layer.key.forward(features)?)?;
        layer.key_norm.forward(&keys)
    }

    /// The values that belong to [`Self::keys`].
    pub(crate) fn values(&self, index: usize, features: &Tensor) -> Result<Tensor> {
        let layer = self.layer(index)?;
        layer.by_heads(&layer.value.forward(features)?)
    }

    /// Multiplications of [`Self::keys`] for so many features, and of [`Self::values`].
    pub(crate) fn keys_work(&self, features: usize) -> u64 {
        let work = |(_, layer): &(usize, CrossLayer)| linear_work([&layer.key], features);
        self.looking.first().map_or(0, work)
    }

    fn layer(&self, index: usize) -> Result<&CrossLayer> {
        match self.looking.get(index) {
            Some((_, layer)) => Ok(layer),
            None => bail!("{} layers look at pictures, not {index}", self.looking()),
        }
    }

    /// Logits of `step.logit_rows`, `[rows, vocab]`, f32.
    pub(crate) fn forward(&self, step: &Step, cache: &KvCache) -> Result<Tensor> {
        self.decoder.forward_with(step, cache, |next, mut x| {
            if step.cross.is_empty() {
                return Ok(x);
            }
            for (index, (before, layer)) in self.looking.iter().enumerate() {
                if *before == next {
                    x = Residual::new(layer.forward(&x.sum()?, &step.cross, index)?);
                }
            }
            Ok(x)
        })
    }
}

/// Gated cross-attention and its MLP (`MllamaCrossAttentionDecoderLayer`).
#[derive(Debug)]
struct CrossLayer {
    attention_norm: Norm,
    query: Linear,
    query_norm: Norm,
    key: Linear,
    key_norm: Norm,
    value: Linear,
    output: Linear,
    attention_gate: f64,
    mlp_norm: Norm,
    mlp: Mlp,
    mlp_gate: f64,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl CrossLayer {
    /// Loads one layer from its branch.
    fn load(
        params: &Params<'_>,
        sizes: &Sizes,
        rms_norm_eps: f32,
    ) -> std::result::Result<Self, LoadError> {
        let hidden = sizes.hidden_size;
        let queries = sizes.heads * sizes.head_dim;
        let keys = sizes.kv_heads * sizes.head_dim;
        let attention = params.at("cross_attn");
        let norm = |params: Params<'_>, width| Norm::rms(&params, width, rms_norm_eps);
        Ok(Self {
            attention_norm: norm(params.at("input_layernorm"), hidden)?,
            query: attention.linear("q_proj", hidden, queries)?,
            query_norm: norm(attention.at("q_norm"), sizes.head_dim)?,
            key: attention.linear("k_proj", hidden, keys)?,
            key_norm: norm(attention.at("k_norm"), sizes.head_dim)?,
            value: attention.linear("v_proj", hidden, keys)?,
            output: attention.linear("o_proj", queries, hidden)?,
            attention_gate: params.gate("cross_attn_attn_gate")?,
            mlp_norm: norm(params.at("post_attention_layernorm"), hidden)?,
            mlp: llama::mlp(&params.at("mlp"), sizes)?,
            mlp_gate: params.gate("cross_attn_mlp_gate")?,
            heads: sizes.heads,
            kv_heads: sizes.kv_heads,
            head_dim: sizes.head_dim,
        })
    }

    /// Rows of keys or values as `[S, kv_heads, head_dim]`.
    fn by_heads(&self, rows: &Tensor) -> Result<Tensor> {
        rows.reshape((rows.dim(0)?, self.kv_heads, self.head_dim))
    }

    /// `[T, hidden]` to the same shape. Rows that look at nothing stay as they are. `index` is
    /// that of this layer among those that look.
    fn forward(&self, x: &Tensor, cross: &[CrossRows], index: usize) -> Result<Tensor> {
        let mut parts = Vec::with_capacity(2 * cross.len() + 1);
        let mut row = 0;
        for look in cross {
            if look.rows.start > row {
                parts.push(x.narrow(0, row, look.rows.start - row)?);
            }
            let rows = x.narrow(0, look.rows.start, look.rows.len())?;
            parts.push(self.look(&rows, look, index)?);
            row = look.rows.end;
        }
        let rest = x.dim(0)?.saturating_sub(row);
        if rest > 0 {
            parts.push(x.narrow(0, row, rest)?);
        }
        Tensor::cat(&parts, 0)
    }

    fn look(&self, x: &Tensor, look: &CrossRows, index: usize) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let side = |which: usize| {
            let of_image = |(kept, visible): &(Tensor, usize)| {
                kept.get(index)?.get(which)?.narrow(0, 0, *visible)
            };
            let parts: Vec<Tensor> = look.images.iter().map(of_image).collect::<Result<_>>()?;
            Tensor::cat(&parts, 0)?.contiguous()?.unsqueeze(0)
        };
        let query = self.query.forward(&self.attention_norm.forward(x)?)?;
        let query = query.reshape((rows, self.heads, self.head_dim))?;
        let query = self.query_norm.forward(&query)?.unsqueeze(0)?;
        let scale = (self.head_dim as f32).sqrt().recip();
        let attended = attention(&query, &side(0)?, &side(1)?, scale)?;
        let attended = attended.reshape((rows, self.heads * self.head_dim))?;
        let x = (x + (self.output.forward(&attended)? * self.attention_gate)?)?;
        if look.unseen {
            return Ok(x);
        }
        let inner = self.mlp.forward(&self.mlp_norm.forward(&x)?)?;
        &x + (inner * self.mlp_gate)?
    }
}
