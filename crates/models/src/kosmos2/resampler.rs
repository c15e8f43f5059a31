//! From a tower's features to latents: `Kosmos2ImageToTextProjection` of transformers.

use candle_core::{Result, Tensor};
use vlmd_kernels::{Linear, attention};

use crate::LoadError;
use crate::common::params::Params;
use crate::common::sizes::Sizes;
use crate::common::stages::{attention_work, linear_work};

/// Learnt queries that look at a picture's features and at each other.
#[derive(Debug)]
pub(super) struct Resampler {
    dense: Linear,
    /// `[1, latents, hidden]`.
    latents: Tensor,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    head_dim: usize,
}

impl Resampler {
    /// Loads it from its branch; `width` is that of a feature of the tower, and heads are the
    /// decoder's.
    pub(super) fn load(
        params: &Params<'_>,
        width: usize,
        latents: usize,
        sizes: &Sizes,
    ) -> std::result::Result<Self, LoadError> {
        let hidden = sizes.hidden_size;
        let attention = params.at("x_attn");
        let linear = |name| attention.linear_with_bias(name, hidden, hidden);
        Ok(Self {
            dense: params.linear_with_bias("dense", width, hidden)?,
            latents: params
                .activation("latent_query", &[latents, hidden])?
                .unsqueeze(0)?,
            query: linear("q_proj")?,
            key: linear("k_proj")?,
            value: linear("v_proj")?,
            output: linear("out_proj")?,
            head_dim: sizes.head_dim,
        })
    }

    /// Multiplications for a picture of so many tokens.
    pub(super) fn work(&self, tokens: usize) -> u64 {
        let latents = self.latents.elem_count() / self.output.out_features();
        let seen = tokens + latents;
        linear_work([&self.dense], tokens)
            + linear_work([&self.key, &self.value], seen)
            + linear_work([&self.query, &self.output], latents)
            + attention_work(latents, seen, self.output.in_features())
    }

    /// `[n, tokens, width]` to `[n, latents, hidden]`.
    pub(super) fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let pictures = features.dim(0)?;
        let (_, latents, hidden) = self.latents.dims3()?;
        let latents = self
            .latents
            .broadcast_as((pictures, latents, hidden))?
            .contiguous()?;
        let seen = Tensor::cat(&[&self.dense.forward(features)?, &latents], 1)?;
        let heads = |x: Tensor| {
            let (pictures, tokens, hidden) = x.dims3()?;
            x.reshape((pictures, tokens, hidden / self.head_dim, self.head_dim))
        };
        let attended = attention(
            &heads(self.query.forward(&latents)?)?,
            &heads(self.key.forward(&seen)?)?,
            &heads(self.value.forward(&seen)?)?,
            (self.head_dim as f32).sqrt().recip(),
        )?;
        self.output.forward(&attended.reshape(latents.shape())?)
    }
}
