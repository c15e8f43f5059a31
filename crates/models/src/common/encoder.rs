//! The layers of vision towers.

use candle_core::{Result, Tensor};
use vlmd_kernels::{Linear, attention};

use super::activation::Activation;
use super::norm::Norm;
use super::params::Params;
use super::stages::{attention_work, linear_work};
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

    /// `[n, tokens, hidden]` to the same shape. Every token sees all of its picture.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Seen { query, key, value } = self.seen(&self.project(x)?)?;
        self.attend(x, &query, &key, &value)
    }

    /// The first half of [`Self::forward`], token by token: queries, keys and values of
    /// `[n, tokens, hidden]` side by side.
    pub(crate) fn project(&self, x: &Tensor) -> Result<Tensor> {
        self.qkv.forward(&self.attention_norm.forward(x)?)
    }

    /// What [`Self::project`] has given, by heads; nothing is copied.
    pub(crate) fn seen(&self, projected: &Tensor) -> Result<Seen> {
        let (count, tokens, width) = projected.dims3()?;
        let heads = width / 3 / self.head_dim;
        let joined = projected.reshape((count, tokens, 3 * heads, self.head_dim))?;
        let part = |index: usize| joined.narrow(2, index * heads, heads);
        Ok(Seen {
            query: part(0)?,
            key: part(1)?,
            value: part(2)?,
        })
    }

    /// The second half, again token by token: what becomes of tokens `[n, rows, hidden]` with
    /// these queries among all that they see.
    pub(crate) fn attend(
        &self,
        x: &Tensor,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
    ) -> Result<Tensor> {
        let scale = (self.head_dim as f32).sqrt().recip();
        let attended = attention(query, key, value, scale)?.reshape(x.shape())?;
        let x = (x + scaled(self.output.forward(&attended)?, self.gates[0])?)?;
        let inner = self
            .activation
            .apply(&self.up.forward(&self.mlp_norm.forward(&x)?)?)?;
        &x + scaled(self.down.forward(&inner)?, self.gates[1])?
    }

    /// Multiplications of [`Self::project`] for so many tokens.
    pub(crate) fn project_work(&self, rows: usize) -> u64 {
        linear_work([&self.qkv], rows)
    }

    /// Multiplications of [`Self::attend`] for so many tokens that see `keys`.
    pub(crate) fn attend_work(&self, rows: usize, keys: usize) -> u64 {
        linear_work([&self.output, &self.up, &self.down], rows)
            + attention_work(rows, keys, self.output.in_features())
    }
}

/// What tokens look for and what they show: each `[n, tokens, heads, head_dim]`, parts of what was
/// projected.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) query: Tensor,
    pub(crate) key: Tensor,
    pub(crate) value: Tensor,
}

fn scaled(x: Tensor, by: f64) -> Result<Tensor> {
    if by == 1.0 { Ok(x) } else { x * by }
}
