//! Tower, resampler and decoder put together.

use candle_core::{D, DType, Result, Tensor};
use vlmd_backend::Model;
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
use crate::common::spliced::{Spliced, Vision};

/// Position of a sequence's first token: fairseq counts from the one behind padding, which is 1.
const FIRST_POSITION: u32 = 2;

/// Loads Kosmos-2.
pub(super) fn load(
    params: &Params<'_>,
    config: &Config,
) -> std::result::Result<Box<dyn Model>, LoadError> {
    let sizes = config.text_config.sizes()?;
    let branch = super::tower(params);
    let options = config.tower()?;
    let tower = Clip::load(&branch, &options)?;
    let width = tower.geometry().hidden;
    let latents = Latents {
        norm: Norm::layer(&branch.at("post_layernorm"), width, options.layer_norm_eps)?,
        resampler: Resampler::load(
            &params.at("image_to_text_projection"),
            width,
            config.latent_query_num,
            &sizes,
        )?,
        tower,
    };
    let text = params.at("text_model").at("model");
    let weights = decoder(&text, config, &sizes)?;
    let positions = Sinusoidal::new(sizes.hidden_size, FIRST_POSITION);
    let decoder = Decoder::new(params, sizes, Positions::Sinusoidal(positions), weights);
    Ok(Box::new(Spliced::new(latents, decoder)))
}

/// From pictures to latents.
#[derive(Debug)]
struct Latents {
    tower: Clip,
    norm: Norm,
    resampler: Resampler,
}

impl Vision for Latents {
    fn tower(&self) -> &Clip {
        &self.tower
    }

    /// `[n, latents, hidden]`.
    fn project(&self, features: &Tensor) -> Result<Tensor> {
        let features = self.norm.forward(features)?;
        self.resampler.forward(&unit_length(&features)?)
    }

    fn project_work(&self) -> u64 {
        self.resampler.work(self.tower.feature_count())
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
