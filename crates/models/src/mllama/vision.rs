//! From tiles to the features that text looks at, as `MllamaVisionModel` computes them.

use candle_core::{DType, Device, Result, Tensor, bail};
use vlmd_backend::ImageInput;
use vlmd_kernels::Linear;

use super::canvas::{Canvas, canvases};
use super::config::Config;
use crate::LoadError;
use crate::common::activation::Activation;
use crate::common::encoder::{EncoderLayer, Names, Style};
use crate::common::norm::Norm;
use crate::common::padding::{ALIGNMENT, Padded};
use crate::common::params::Params;
use crate::common::patches::PatchEmbedding;

const NAMES: Names = Names {
    attention_norm: "input_layernorm",
    output: "o_proj",
    mlp_norm: "post_attention_layernorm",
    attention_bias: false,
    gates: None,
};

const GLOBAL_NAMES: Names = Names {
    gates: Some(["gate_attn", "gate_ffn"]),
    ..NAMES
};

/// The tower with its projection into the decoder's width.
#[derive(Debug)]
pub(super) struct Vision {
    max_tiles: usize,
    canvases: Vec<Canvas>,
    patches: PatchEmbedding,
    /// `[1, P, hidden]`: positions within a tile, already gated.
    positions: Tensor,
    /// Position within a tile and in the canvas, `P * hidden` for each of the tiles.
    tile_positions: ByTile,
    before: ByTile,
    after: ByTile,
    norm_before: Norm,
    norm_after: Norm,
    layers: Vec<EncoderLayer>,
    global_layers: Vec<EncoderLayer>,
    /// Layers whose inputs are features, ascending.
    intermediate: Vec<usize>,
    projection: Linear,
    device: Device,
    dtype: DType,
}

impl Vision {
    /// Loads `vision_model` and `multi_modal_projector` from `params`.
    pub(super) fn load(
        params: &Params<'_>,
        config: &Config,
        text_hidden: usize,
    ) -> std::result::Result<Self, LoadError> {
        let sizes = &config.vision_config;
        let (hidden, tokens) = (sizes.hidden_size, sizes.tile_tokens());
        let model = params.at("vision_model");
        let eps = sizes.norm_eps()?;
        let style = |names| Style {
            hidden,
            head_dim: hidden / sizes.attention_heads,
            activation: Activation::Gelu,
            layer_norm_eps: eps,
            names,
        };
        let layers = |branch: &str, count: usize, names| {
            let branch = model.at(branch).at("layers");
            (0..count)
                .map(|layer| EncoderLayer::load(&branch.at(layer), &style(names)))
                .collect::<std::result::Result<Vec<_>, LoadError>>()
        };

        let patches = PatchEmbedding::load(&model, hidden, sizes.patch_size)?;
        let gated = model.at("gated_positional_embedding");
        let gate = gated.gate("gate")?;
        let positions = gated.activation("embedding", &[tokens, hidden])?;
        let outputs = hidden * (1 + sizes.intermediate_layers_indices.len());
        Ok(Self {
            max_tiles: sizes.max_num_tiles,
            canvases: canvases(sizes.max_num_tiles),
            patches,
            positions: (positions * (1.0 - gate))?.unsqueeze(0)?,
            tile_positions: ByTile::load(
                &gated.at("tile_embedding"),
                gate,
                sizes.max_num_tiles,
                (tokens, hidden),
            )?,
            before: ByTile::gated(
                &model,
                "pre_tile_positional_embedding",
                sizes.max_num_tiles,
                hidden,
            )?,
            after: ByTile::gated(
                &model,
                "post_tile_positional_embedding",
                sizes.max_num_tiles,
                hidden,
            )?,
            norm_before: Norm::layer(&model.at("layernorm_pre"), hidden, eps)?,
            norm_after: Norm::layer(&model.at("layernorm_post"), hidden, eps)?,
            layers: layers("transformer", sizes.num_hidden_layers, &NAMES)?,
            global_layers: layers("global_transformer", sizes.num_global_layers, &GLOBAL_NAMES)?,
            intermediate: sizes.intermediate_layers_indices.clone(),
            projection: params.linear_with_bias("multi_modal_projector", outputs, text_hidden)?,
            device: params.device().clone(),
            dtype: params.activation_dtype(),
        })
    }

    /// Features of a picture, `[image.features, text_hidden]`, tile after tile.
    ///
    /// All tiles of the largest canvas are computed, those that the picture does not have, too:
    /// its own see them. Only what the decoder will look at is projected.
    pub(super) fn encode(&self, image: &ImageInput) -> Result<Tensor> {
        let tiles = image.pixels.dim(0)?;
        let canvas = Canvas {
            rows: image.size.0,
            columns: image.size.1,
        };
        let Some(index) = self.canvases.iter().position(|&known| known == canvas) else {
            bail!("no canvas has {} x {} tiles", canvas.rows, canvas.columns);
        };
        let layout = Padded::new(tiles, self.max_tiles, self.positions.dim(1)?);
        if tiles != canvas.rows * canvas.columns || image.features > layout.real_tokens() {
            bail!("{tiles} tiles do not have {} features", image.features);
        }

        let embedded = self.embed(&image.pixels, index + 1)?;
        let order = Tensor::new(layout.order(), &self.device)?;
        // The layers want the padding behind everything else.
        let sorted = |x: &Tensor| {
            x.flatten(0, 1)?
                .contiguous()?
                .index_select(&order, 0)?
                .unsqueeze(0)
        };
        let apart = layout.tokens * tiles;
        let mut x = sorted(&embedded)?;
        let mut features = Vec::with_capacity(self.intermediate.len());
        for (index, layer) in self.layers.iter().enumerate() {
            // transformers from 4.55 on takes other states here and is wrong.
            if self.intermediate.contains(&index) {
                features.push(x.clone());
            }
            x = layer.forward(&x, apart)?;
        }
        x = self.norm_after.forward(&x)?;
        let after = self.after.of_aspect(index + 1, self.dtype)?;
        let (_, padded, hidden) = embedded.dims3()?;
        let after = after.broadcast_as((self.max_tiles, padded, hidden))?;
        x = (x + sorted(&after)?)?;
        for layer in &self.global_layers {
            x = layer.forward(&x, apart)?;
        }
        self.project(&x, &features, &layout, image.features)
    }

    /// Tokens of all tiles, `[max_tiles, P8, hidden]`, for a canvas of this id.
    fn embed(&self, pixels: &Tensor, aspect: usize) -> Result<Tensor> {
        let missing = self.max_tiles.saturating_sub(pixels.dim(0)?);
        let pixels = pixels
            .pad_with_zeros(0, 0, missing)?
            .to_device(&self.device)?
            .to_dtype(self.dtype)?;
        let patches = self.patches.forward(&pixels)?;
        let patches = patches.broadcast_add(&self.before.of_aspect(aspect, self.dtype)?)?;
        let x = self
            .patches
            .with_class(&patches)?
            .broadcast_add(&self.positions)?
            .add(&self.tile_positions.of_aspect(aspect, self.dtype)?)?;
        let x = self.norm_before.forward(&x)?;
        let tokens = x.dim(1)?;
        x.pad_with_zeros(1, 0, tokens.next_multiple_of(ALIGNMENT) - tokens)
    }

    /// Puts the last output and the inner states side by side and projects the first rows.
    fn project(
        &self,
        last: &Tensor,
        inner: &[Tensor],
        layout: &Padded,
        wanted: usize,
    ) -> Result<Tensor> {
        let rows = Tensor::new(layout.tile_rows(wanted), &self.device)?;
        let pick = |x: &Tensor| x.squeeze(0)?.index_select(&rows, 0);
        let inner: Vec<Tensor> = inner.iter().map(pick).collect::<Result<_>>()?;
        let mut parts = vec![pick(last)?];
        if !inner.is_empty() {
            // Channel by channel, and within a channel layer by layer.
            parts.push(Tensor::stack(&inner, 2)?.flatten_from(1)?);
        }
        self.projection.forward(&Tensor::cat(&parts, 1)?)
    }
}

/// A learnt vector for each tile of each canvas, scaled by the tangent of a gate.
#[derive(Debug)]
struct ByTile {
    /// `[1 + canvases, max_tiles * tokens * hidden]`. Row 0 stands for no picture at all.
    table: Tensor,
    gate: f64,
    /// `[max_tiles, tokens, hidden]`.
    shape: (usize, usize, usize),
}

impl ByTile {
    fn load(
        params: &Params<'_>,
        gate: f64,
        tiles: usize,
        (tokens, hidden): (usize, usize),
    ) -> std::result::Result<Self, LoadError> {
        let rows = 1 + canvases(tiles).len();
        Ok(Self {
            // With a position for every token this is hundreds of megabytes: it stays as stored.
            table: params.weight("weight", &[rows, tiles * tokens * hidden])?,
            gate,
            shape: (tiles, tokens, hidden),
        })
    }

    /// One vector a tile, with a gate of its own.
    fn gated(
        params: &Params<'_>,
        name: &str,
        tiles: usize,
        hidden: usize,
    ) -> std::result::Result<Self, LoadError> {
        let branch = params.at(name);
        let gate = branch.gate("gate")?;
        Self::load(&branch.at("embedding"), gate, tiles, (1, hidden))
    }

    /// `[max_tiles, tokens, hidden]` for the canvas with this id.
    fn of_aspect(&self, aspect: usize, dtype: DType) -> Result<Tensor> {
        let row = self.table.narrow(0, aspect, 1)?.to_dtype(dtype)?;
        row.reshape(self.shape)? * self.gate
    }
}
