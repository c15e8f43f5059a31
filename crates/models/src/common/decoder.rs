//! The text decoder: pre-norm layers of grouped-query attention and SwiGLU over a paged cache.

use candle_core::{DType, Device, IndexOp, Result, Tensor};
use vlmd_backend::{KvCache, LayerCache, ModelSpec, Step};
use vlmd_kernels::{
    Linear, Ragged, RaggedLayout, paged_attention, rms_norm, rope, swiglu, write_kv,
};

use super::params::Params;
use super::rope::Rope;
use crate::LoadError;

/// Sizes of a decoder, already checked.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) rms_norm_eps: f32,
    /// Most positions of a sequence.
    pub(crate) max_positions: usize,
    /// The head is the embedding, and has no tensor of its own.
    pub(crate) tie_word_embeddings: bool,
    pub(crate) rope: Rope,
}

impl Config {
    /// What the engine must know.
    pub(crate) fn spec(&self) -> ModelSpec {
        ModelSpec {
            layers: self.layers,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            hidden_size: self.hidden_size,
            vocab_size: self.vocab_size,
            max_positions: self.max_positions,
        }
    }
}

/// A decoder with its weights.
#[derive(Debug)]
pub(crate) struct Decoder {
    config: Config,
    device: Device,
    dtype: DType,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Linear,
}

impl Decoder {
    /// Loads `model.*` and `lm_head` from `params`.
    pub(crate) fn load(
        params: &Params<'_>,
        config: Config,
    ) -> std::result::Result<Self, LoadError> {
        let model = params.at("model");
        let shape = [config.vocab_size, config.hidden_size];
        let embedding = model.weight("embed_tokens.weight", &shape)?;
        let head = if config.tie_word_embeddings {
            Linear::new(embedding.clone(), None)?
        } else {
            params.linear("lm_head", config.hidden_size, config.vocab_size)?
        };
        let branch = model.at("layers");
        Ok(Self {
            device: params.device().clone(),
            dtype: params.activation_dtype(),
            embedding,
            layers: (0..config.layers)
                .map(|layer| Layer::load(&branch.at(layer), &config))
                .collect::<std::result::Result<_, _>>()?,
            norm: model.activation("norm.weight", &[config.hidden_size])?,
            head,
            config,
        })
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Logits of `step.logit_rows`, `[rows, vocab]`, f32.
    pub(crate) fn forward(&self, step: &Step, cache: &KvCache) -> Result<Tensor> {
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
        let (cos, sin) = self.config.rope.tables(step, self.dtype, &self.device)?;
        let pass = Pass {
            config: &self.config,
            ragged: &ragged,
            cos: &cos,
            sin: &sin,
        };
        let mut x = self.embed(step)?;
        for (layer, cache) in self.layers.iter().zip(&cache.layers) {
            x = layer.forward(&x, &pass, cache)?;
        }
        self.logits(&x, &step.logit_rows)
    }

    /// Token embeddings `[T, hidden]` with image features in their places.
    fn embed(&self, step: &Step) -> Result<Tensor> {
        let ids = Tensor::new(step.tokens.as_slice(), &self.device)?;
        let tokens = self.embedding.index_select(&ids, 0)?.to_dtype(self.dtype)?;
        if step.splices.is_empty() {
            return Ok(tokens);
        }
        let mut parts = Vec::with_capacity(2 * step.splices.len() + 1);
        let mut row = 0;
        for splice in &step.splices {
            if splice.row > row {
                parts.push(tokens.i(row..splice.row)?);
            }
            parts.push(splice.features.to_dtype(self.dtype)?);
            row = splice.row + splice.features.dim(0)?;
        }
        if row < step.tokens.len() {
            parts.push(tokens.i(row..)?);
        }
        Tensor::cat(&parts, 0)
    }

    fn logits(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        if rows.is_empty() {
            return Tensor::zeros((0, self.config.vocab_size), DType::F32, &self.device);
        }
        let rows = Tensor::new(rows, &self.device)?;
        let wanted = x.index_select(&rows, 0)?;
        let normed = rms_norm(&wanted, &self.norm, self.config.rms_norm_eps)?;
        self.head.forward(&normed)?.to_dtype(DType::F32)
    }
}

/// What all layers of one forward pass share.
struct Pass<'a> {
    config: &'a Config,
    ragged: &'a Ragged,
    cos: &'a Tensor,
    sin: &'a Tensor,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Tensor,
    /// Rows: all queries, all keys, all values.
    qkv: Linear,
    output: Linear,
    mlp_norm: Tensor,
    /// Rows: gate, then up.
    gate_up: Linear,
    down: Linear,
}

impl Layer {
    fn load(params: &Params<'_>, config: &Config) -> std::result::Result<Self, LoadError> {
        let hidden = config.hidden_size;
        let queries = config.heads * config.head_dim;
        let keys = config.kv_heads * config.head_dim;
        let attention = params.at("self_attn");
        let mlp = params.at("mlp");
        Ok(Self {
            attention_norm: params.activation("input_layernorm.weight", &[hidden])?,
            qkv: attention.linear("qkv_proj", hidden, queries + 2 * keys)?,
            output: attention.linear("o_proj", queries, hidden)?,
            mlp_norm: params.activation("post_attention_layernorm.weight", &[hidden])?,
            gate_up: mlp.linear("gate_up_proj", hidden, 2 * config.intermediate_size)?,
            down: mlp.linear("down_proj", config.intermediate_size, hidden)?,
        })
    }

    /// `[T, hidden]` to the same shape.
    fn forward(&self, x: &Tensor, pass: &Pass<'_>, cache: &LayerCache) -> Result<Tensor> {
        let config = pass.config;
        let rows = x.dim(0)?;
        let queries = config.heads * config.head_dim;
        let keys = config.kv_heads * config.head_dim;

        let normed = rms_norm(x, &self.attention_norm, config.rms_norm_eps)?;
        let qkv = self.qkv.forward(&normed)?;
        let heads = |start, heads: usize| {
            qkv.narrow(1, start, heads * config.head_dim)?
                .reshape((rows, heads, config.head_dim))
        };
        let query = rope(&heads(0, config.heads)?, pass.cos, pass.sin)?;
        let key = rope(&heads(queries, config.kv_heads)?, pass.cos, pass.sin)?;
        let value = heads(queries + keys, config.kv_heads)?;
        write_kv(&key, &value, &cache.k, &cache.v, pass.ragged)?;
        let scale = (config.head_dim as f32).sqrt().recip();
        let attended = paged_attention(&query, &cache.k, &cache.v, pass.ragged, scale)?;
        let x = (x + self.output.forward(&attended.reshape((rows, queries))?)?)?;

        let normed = rms_norm(&x, &self.mlp_norm, config.rms_norm_eps)?;
        let inner = swiglu(&self.gate_up.forward(&normed)?)?;
        x + self.down.forward(&inner)?
    }
}
