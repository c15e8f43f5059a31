//! A decoder under the tensor names of Llama, which Mistral, Vicuna, Yi and Phi-3 have too.
//!
//! Phi-3 stores queries, keys and values, and gate and up, as one matrix each; the others store
//! them apart. Both are computed as one.

use vlmd_kernels::Linear;

use super::{Attention, Layer, Mlp, Weights};
use crate::LoadError;
use crate::common::norm::Norm;
use crate::common::params::Params;
use crate::common::sizes::Sizes;

/// Where a decoder's tensors are, and what their shapes do not tell.
pub(crate) struct Source<'a> {
    /// Holds `embed_tokens`, `layers` and `norm`.
    pub(crate) model: Params<'a>,
    /// Holds `lm_head`; `None` where the embedding is the head, too.
    pub(crate) head: Option<Params<'a>>,
    pub(crate) rms_norm_eps: f32,
    /// Rows of the embedding beyond the vocabulary: tokens that are read and never said.
    pub(crate) unsaid_tokens: usize,
}

impl<'a> Source<'a> {
    /// `model.*` and `lm_head` of a branch.
    pub(crate) fn at(params: &Params<'a>, rms_norm_eps: f32, tie_word_embeddings: bool) -> Self {
        Self {
            model: params.at("model"),
            head: (!tie_word_embeddings).then(|| params.clone()),
            rms_norm_eps,
            unsaid_tokens: 0,
        }
    }
}

/// Loads a decoder with these of the checkpoint's `layers`.
pub(crate) fn load(
    source: &Source<'_>,
    sizes: &Sizes,
    layers: impl IntoIterator<Item = usize>,
) -> Result<Weights, LoadError> {
    let (hidden, vocab) = (sizes.hidden_size, sizes.vocab_size);
    let model = &source.model;
    let rows = vocab + source.unsaid_tokens;
    let embedding = model.weight("embed_tokens.weight", &[rows, hidden])?;
    let head = match &source.head {
        Some(params) => params.linear("lm_head", hidden, vocab)?,
        None => Linear::new(embedding.narrow(0, 0, vocab)?, None)?,
    };
    let branch = model.at("layers");
    let eps = source.rms_norm_eps;
    Ok(Weights {
        embedding,
        embedding_scale: 1.0,
        layers: layers
            .into_iter()
            .map(|index| layer(&branch.at(index), sizes, eps))
            .collect::<Result<_, _>>()?,
        norm: Norm::rms(&model.at("norm"), hidden, eps)?,
        head,
    })
}

/// Loads one layer from its branch.
fn layer(params: &Params<'_>, sizes: &Sizes, rms_norm_eps: f32) -> Result<Layer, LoadError> {
    let hidden = sizes.hidden_size;
    let queries = sizes.heads * sizes.head_dim;
    let keys = sizes.kv_heads * sizes.head_dim;
    let attention = params.at("self_attn");
    let norm = |name| Norm::rms(&params.at(name), hidden, rms_norm_eps);
    Ok(Layer {
        attention_norm: norm("input_layernorm")?,
        attention: Attention {
            qkv: attention.fused(
                "qkv_proj",
                &[("q_proj", queries), ("k_proj", keys), ("v_proj", keys)],
                hidden,
            )?,
            inner_norm: None,
            output: attention.linear("o_proj", queries, hidden)?,
            heads: sizes.heads,
            head_dim: sizes.head_dim,
        },
        mlp_norm: norm("post_attention_layernorm")?,
        mlp: mlp(&params.at("mlp"), sizes)?,
    })
}

/// Loads gate, up and down from their branch.
pub(crate) fn mlp(params: &Params<'_>, sizes: &Sizes) -> Result<Mlp, LoadError> {
    let (hidden, inner) = (sizes.hidden_size, sizes.intermediate_size);
    let gate_up = [("gate_proj", inner), ("up_proj", inner)];
    Ok(Mlp::SwiGlu {
        gate_up: params.fused("gate_up_proj", &gate_up, hidden)?,
        down: params.linear("down_proj", inner, hidden)?,
    })
}
