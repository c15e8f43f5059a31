//! The layers of vision towers.

use candle_core::{Result, Tensor};
use vlmd_kernels::{Linear, attention};

use super::activation::Activation;
use super::norm::Norm;
use super::params::Params;
use crate::LoadError;

/// What a tower's layers have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    pub(crate) hidden: usize,
    pub(crate) head_dim: usize,
    pub(crate) activation: Activation,
    pub(crate) layer_norm_eps: f32,
    /// How the checkpoint calls a layer's parts.
    pub(crate) names: &'static Names,
}

/// Tensor names within a layer.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) attention_norm: &'static str,
    pub(crate) output: &'static str,
    pub(crate) mlp_norm: &'static str,
    /// Queries, keys, values and output have biases.
    pub(crate) attention_bias: bool,
    /// Scalars that scale both branches by their hyperbolic tangent.
    pub(crate) gates: Option<[&'static str; 2]>,
}

/// A pre-norm transformer layer with bidirectional attention.
#[derive(Debug)]
pub(crate) struct EncoderLayer {
    attention_norm: Norm,
    /// Rows: all queries, all keys, all values.
    qkv: Linear,
    output: Linear,
    head_dim: usize,
    mlp_norm: Norm,
    up: Linear,
    activation: Activation,
    down: Linear,
    /// What multiplies attention and MLP; both 1 where a layer has no gates.
    gates: [f64; 2],
}

impl EncoderLayer {
    pub(crate) fn load(params: &Params<'_>, style: &Style) -> std::result::Result<Self, LoadError> {
        let Style {
            hidden,
            head_dim,
            activation,
            layer_norm_eps,
            names,
        } = *style;
        let norm = |name| Norm::layer(&params.at(name), hidden, layer_norm_eps);
        let attention = params.at("self_attn");
        let mlp = params.at("mlp");
        let [inner, _] = mlp.shape("fc1.weight")?;
        let parts = [("q_proj", hidden), ("k_proj", hidden), ("v_proj", hidden)];
        let gates = match names.gates {
            Some([attention, mlp]) => [params.gate(attention)?, params.gate(mlp)?],
            None => [1.0; 2],
        };
        Ok(Self {
            attention_norm: norm(names.attention_norm)?,
            qkv: attention.fused("qkv_proj", &parts, hidden)?,
            output: attention.linear_of(names.output, hidden, hidden, names.attention_bias)?,
            head_dim,
            mlp_norm: norm(names.mlp_norm)?,
            up: mlp.linear_with_bias("fc1", hidden, inner)?,
            activation,
            down: mlp.linear_with_bias("fc2", inner, hidden)?,
            gates,
        })
    }

    /// `[n, tokens, hidden]` to the same shape. The tokens from `apart` on do not see each other;
    /// all else is seen by all.
    pub(crate) fn forward(&self, x: &Tensor, apart: usize) -> Result<Tensor> {
        let (count, tokens, hidden) = x.dims3()?;
        let head_dim = self.head_dim;
        let qkv = self.qkv.forward(&self.attention_norm.forward(x)?)?;
        let part = |index: usize| {
            qkv.narrow(2, index * hidden, hidden)?
                .contiguous()?
                .reshape((count, tokens, hidden / head_dim, head_dim))
        };
        let (query, key, value) = (part(0)?, part(1)?, part(2)?);
        let scale = (head_dim as f32).sqrt().recip();
        let attended = if apart >= tokens {
            attention(&query, &key, &value, scale)?
        } else {
            let first = |x: &Tensor| x.narrow(1, 0, apart)?.contiguous();
            let rest = query.narrow(1, apart, tokens - apart)?.contiguous()?;
            let seeing_all = attention(&first(&query)?, &key, &value, scale)?;
            let seeing_first = attention(&rest, &first(&key)?, &first(&value)?, scale)?;
            Tensor::cat(&[seeing_all, seeing_first], 1)?
        };
        let attended = self
            .output
            .forward(&attended.reshape((count, tokens, hidden))?)?;
        let x = (x + scaled(attended, self.gates[0])?)?;

        let inner = self
            .activation
            .apply(&self.up.forward(&self.mlp_norm.forward(&x)?)?)?;
        &x + scaled(self.down.forward(&inner)?, self.gates[1])?
    }
}

fn scaled(x: Tensor, by: f64) -> Result<Tensor> {
    if by == 1.0 { Ok(x) } else { x * by }
}
