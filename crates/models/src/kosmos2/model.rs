//! Tower, resampler and decoder put together.

use candle_core::{D, DType, Device, Result, Tensor};
use vlmd_backend::{ImageInput, KvCache, Model, ModelSpec, Step};
use vlmd_kernels::Linear;

use super::config::Config;
use super::resampler::Resampler;
use crate::LoadError;
use crate::common::activation::Activation;
use crate::common::clip::Clip;
use crate::common::decoder::{Attention, Decoder, Layer, Mlp, Weights};
use crate::common::norm::Norm;
use crate::common::params::Params;
use crate::common::positions::{Positions, Sinusoidal};
use crate::common::sizes::Sizes;

/// Pictures that go through the tower at once. Bounds the memory of its inner layers.
const PICTURES_PER_PASS: usize = 8;

/// Position of a sequence's first token: fairseq counts from the one behind padding, which is 1.
const FIRST_POSITION: u32 = 2;

/// Kosmos-2 with its weights.
#[derive(Debug)]
pub(super) struct Kosmos2 {
    spec: ModelSpec,
    tower: Clip,
    tower_norm: Norm,
    resampler: Resampler,
    decoder: Decoder,
    dtype: DType,
}

impl Kosmos2 {
    pub(super) fn load(
        params: &Params<'_>,
        config: &Config,
    ) -> std::result::Result<Self, LoadError> {
        let sizes = config.text_config.sizes()?;
        let branch = super::TOWER
            .iter()
            .fold(params.clone(), |params, part| params.at(part));
        let options = config.tower()?;
        let tower = Clip::load(&branch, &options)?;
        let width = tower.geometry().hidden;
        let tower_norm = Norm::layer(&branch.at("post_layernorm"), width, options.layer_norm_eps)?;
        let resampler = Resampler::load(
            &params.at("image_to_text_projection"),
            width,
            config.latent_query_num,
            &sizes,
        )?;
        let text = params.at("text_model").at("model");
        let weights = decoder(&text, config, &sizes)?;
        let positions = Sinusoidal::new(sizes.hidden_size, FIRST_POSITION);
        let decoder = Decoder::new(params, sizes, Positions::Sinusoidal(positions), weights);
        Ok(Self {
            spec: decoder.spec(),
            tower,
            tower_norm,
            resampler,
            decoder,
            dtype: params.activation_dtype(),
        })
    }

    /// Latents `[n, latents, hidden]` of pictures `[n, 3, side, side]`.
    fn latents(&self, pixels: &Tensor) -> Result<Tensor> {
        let pixels = pixels.to_device(self.device())?.to_dtype(self.dtype)?;
        let features = self.tower_norm.forward(&self.tower.forward(&pixels)?)?;
        self.resampler.forward(&unit_length(&features)?)
    }
}

/// Divides each row by its length, as `torch.nn.functional.normalize` does.
fn unit_length(x: &Tensor) -> Result<Tensor> {
    // Squares in 16 bits would lose what the reference keeps.
    let wide = x.to_dtype(DType::F32)?;
    let length = wide.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
    wide.broadcast_div(&length)?.to_dtype(x.dtype())
}

/// Reads the decoder, whose head is its embedding.
fn decoder(
    params: &Params<'_>,
    config: &Config,
    sizes: &Sizes,
) -> std::result::Result<Weights, LoadError> {
    let (hidden, eps) = (sizes.hidden_size, config.text_config.layer_norm_eps()?);
    let activation = config.text_config.activation()?;
    let embedding = params.weight("embed_tokens.weight", &[sizes.vocab_size, hidden])?;
    let layers = params.at("layers");
    Ok(Weights {
        head: Linear::new(embedding.clone(), None)?,
        embedding,
        embedding_scale: config.text_config.embedding_scale(),
        layers: (0..sizes.layers)
            .map(|index| layer(&layers.at(index), sizes, activation, eps))
            .collect::<std::result::Result<_, _>>()?,
        norm: Norm::layer(&params.at("layer_norm"), hidden, eps)?,
    })
}

/// A layer with Magneto's norms (Wang et al. 2022): before and within both halves.
fn layer(
    params: &Params<'_>,
    sizes: &Sizes,
    activation: Activation,
    eps: f32,
) -> std::result::Result<Layer, LoadError> {
    let (hidden, inner) = (sizes.hidden_size, sizes.intermediate_size);
    let attention = params.at("self_attn");
    let mlp = params.at("ffn");
    // Whether the fused projection has biases goes by its first part.
    attention.at("q_proj").shape::<1>("bias")?;
    let parts = [("q_proj", hidden), ("k_proj", hidden), ("v_proj", hidden)];
    Ok(Layer {
        attention_norm: Norm::layer(&params.at("self_attn_layer_norm"), hidden, eps)?,
        attention: Attention {
            qkv: attention.fused("qkv_proj", &parts, hidden)?,
            inner_norm: Some(Norm::layer(&attention.at("inner_attn_ln"), hidden, eps)?),
            output: attention.linear_with_bias("out_proj", hidden, hidden)?,
            heads: sizes.heads,
            kv_heads: sizes.kv_heads,
            head_dim: sizes.head_dim,
        },
        mlp_norm: Norm::layer(&params.at("final_layer_norm"), hidden, eps)?,
        mlp: Mlp::Plain {
            up: mlp.linear_with_bias("fc1", hidden, inner)?,
            activation,
            inner_norm: Some(Norm::layer(&mlp.at("ffn_layernorm"), inner, eps)?),
            down: mlp.linear_with_bias("fc2", inner, hidden)?,
        },
    })
}

impl Model for Kosmos2 {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> &Device {
        self.decoder.device()
    }

    fn encode(&self, images: &[&ImageInput]) -> Result<Vec<Tensor>> {
        let mut features = Vec::with_capacity(images.len());
        for pass in images.chunks(PICTURES_PER_PASS) {
            let pixels: Vec<&Tensor> = pass.iter().map(|image| &image.pixels).collect();
            let latents = self.latents(&Tensor::cat(&pixels, 0)?)?;
            for picture in 0..pass.len() {
                features.push(latents.get(picture)?);
            }
        }
        Ok(features)
    }

    fn forward(&self, step: &Step, cache: &KvCache) -> Result<Tensor> {
        self.decoder.forward(step, cache)
    }
}
