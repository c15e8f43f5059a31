//! From tiles to the features that text looks at, as `MllamaVisionModel` computes them.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, bail};
use vlmd_backend::ImageInput;
use vlmd_kernels::Linear;

use super::canvas::{Canvas, canvases};
use super::config::Config;
use crate::LoadError;
use crate::common::activation::Activation;
use crate::common::encoder::{EncoderLayer, Names, Seen, Style};
use crate::common::norm::Norm;
use crate::common::padding::Padded;
use crate::common::params::Params;
use crate::common::patches::PatchEmbedding;
use crate::common::stages::linear_work;
use crate::common::views::Views;

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
    /// Tokens of a tile without the filling.
    real_tokens: usize,
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
    /// The local ones, then the global ones.
    layers: Vec<EncoderLayer>,
    local_layers: usize,
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
        let mut all_layers = layers("transformer", sizes.num_hidden_layers, &NAMES)?;
        all_layers.extend(layers(
            "global_transformer",
            sizes.num_global_layers,
            &GLOBAL_NAMES,
        )?);
        let outputs = hidden * (1 + sizes.intermediate_layers_indices.len());
        Ok(Self {
            max_tiles: sizes.max_num_tiles,
            real_tokens: tokens,
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
            layers: all_layers,
            local_layers: sizes.num_hidden_layers,
            intermediate: sizes.intermediate_layers_indices.clone(),
            projection: params.linear_with_bias("multi_modal_projector", outputs, text_hidden)?,
            device: params.device().clone(),
            dtype: params.activation_dtype(),
        })
    }

    /// Where the tokens of a picture stand.
    ///
    /// All tiles of the largest canvas are computed, those that the picture does not have, too:
    /// its own see them. Only what the decoder will look at becomes features.
    pub(super) fn layout(&self, image: &ImageInput) -> Result<Layout> {
        let tiles = image.parts();
        let canvas = Canvas {
            rows: image.size.0,
            columns: image.size.1,
        };
        let Some(index) = self.canvases.iter().position(|&known| known == canvas) else {
            bail!("no canvas has {} x {} tiles", canvas.rows, canvas.columns);
        };
        let padded = self.padded(tiles);
        let features = 1..=padded.real_tokens();
        if tiles != canvas.rows * canvas.columns || !features.contains(&image.features) {
            bail!("{tiles} tiles do not have {} features", image.features);
        }
        Ok(Layout {
            aspect: index + 1,
            features: image.features,
            apart: padded.tokens * tiles,
            order: Tensor::new(padded.order(), &self.device)?,
            places: Tensor::new(padded.tile_rows(image.features), &self.device)?,
        })
    }

    fn padded(&self, tiles: usize) -> Padded {
        Padded::new(tiles, self.max_tiles, self.real_tokens)
    }

    /// Tiles of the largest canvas.
    pub(super) fn max_tiles(&self) -> usize {
        self.max_tiles
    }

    /// Tokens of a tile, filled up.
    pub(super) fn tile_tokens(&self) -> usize {
        self.padded(0).padded
    }

    /// Tokens of all tiles, filled up.
    pub(super) fn tokens(&self) -> usize {
        self.max_tiles * self.tile_tokens()
    }

    /// What tokens go through one after the other.
    pub(super) fn layers(&self) -> &[EncoderLayer] {
        &self.layers
    }

    fn layer(&self, index: usize) -> Result<&EncoderLayer> {
        match self.layers.get(index) {
            Some(layer) => Ok(layer),
            None => bail!("the tower has no layer {index}"),
        }
    }

    /// Whether the input of this layer becomes part of features.
    pub(super) fn is_intermediate(&self, index: usize) -> bool {
        self.intermediate.contains(&index)
    }

    /// Tokens of some tiles, `[tiles, P8, hidden]`. Of those that the picture does not have all
    /// values are 0, which is no level's, and so are their patches.
    pub(super) fn embed(
        &self,
        views: &Views,
        layout: &Layout,
        tiles: Range<usize>,
    ) -> Result<Tensor> {
        let own = tiles.start..tiles.end.min(views.count());
        let before = self
            .before
            .of_aspect(layout.aspect, tiles.clone(), self.dtype)?;
        let patches = if own.is_empty() {
            let (_, _, hidden) = before.dims3()?;
            let shape = (tiles.len(), self.real_tokens - 1, hidden);
            Tensor::zeros(shape, self.dtype, &self.device)?
        } else {
            let missing = tiles.end - own.end;
            self.patches
                .forward(views, own)?
                .pad_with_zeros(0, 0, missing)?
        };
        let patches = patches.broadcast_add(&before)?;
        let tile_positions =
            self.tile_positions
                .of_aspect(layout.aspect, tiles.clone(), self.dtype)?;
        let x = self
            .patches
            .with_class(&patches)?
            .broadcast_add(&self.positions)?
            .add(&tile_positions)?;
        let x = self.norm_before.forward(&x)?;
        x.pad_with_zeros(1, 0, self.tile_tokens() - x.dim(1)?)
    }

    /// Multiplications of [`Self::embed`] for one tile.
    pub(super) fn embed_work(&self) -> u64 {
        self.patches.work(self.padded(0).tokens)
    }

    /// Tokens by tiles, `[max_tiles, P8, hidden]`, in the order that layers take them in:
    /// `[tokens, hidden]` with the padding behind everything else.
    pub(super) fn sorted(&self, x: &Tensor, layout: &Layout) -> Result<Tensor> {
        x.flatten(0, 1)?
            .contiguous()?
            .index_select(&layout.order, 0)
    }

    /// The first half of a layer for some tokens `[rows, hidden]`.
    pub(super) fn project(&self, index: usize, x: &Tensor) -> Result<Tensor> {
        self.layer(index)?.project(&x.unsqueeze(0)?)?.squeeze(0)
    }

    /// What [`Self::project`] has given for all tokens, by heads.
    pub(super) fn seen(&self, index: usize, projected: &Tensor) -> Result<Seen> {
        self.layer(index)?.seen(&projected.unsqueeze(0)?)
    }

    /// The second half of a layer for some of the tokens `[tokens, hidden]`. Padding does not see
    /// padding; all else is seen by all.
    pub(super) fn attend(
        &self,
        index: usize,
        x: &Tensor,
        seen: &Seen,
        layout: &Layout,
        rows: Range<usize>,
    ) -> Result<Tensor> {
        let layer = self.layer(index)?;
        let seeing = |rows: Range<usize>, keys: usize| {
            let attended = layer.attend(
                &x.narrow(0, rows.start, rows.len())?.unsqueeze(0)?,
                &seen.query.narrow(1, rows.start, rows.len())?,
                &seen.key.narrow(1, 0, keys)?,
                &seen.value.narrow(1, 0, keys)?,
            )?;
            attended.squeeze(0)
        };
        let border = layout.apart.clamp(rows.start, rows.end);
        let (own, padding) = (rows.start..border, border..rows.end);
        match (own.is_empty(), padding.is_empty()) {
            (false, true) => seeing(own, x.dim(0)?),
            (true, false) => seeing(padding, layout.apart),
            _ => {
                let parts = [seeing(own, x.dim(0)?)?, seeing(padding, layout.apart)?];
                Tensor::cat(&parts, 0)
            }
        }
    }

    /// What the next layer takes of a layer's result `[tokens, hidden]`, or [`Self::combine`] of
    /// the last one's.
    pub(super) fn after_layer(&self, index: usize, x: Tensor, layout: &Layout) -> Result<Tensor> {
        if index + 1 != self.local_layers {
            return Ok(x);
        }
        let after = self
            .after
            .of_aspect(layout.aspect, 0..self.max_tiles, self.dtype)?;
        let (_, _, hidden) = after.dims3()?;
        let after = after.broadcast_as((self.max_tiles, self.tile_tokens(), hidden))?;
        self.norm_after.forward(&x)? + self.sorted(&after, layout)?
    }

    /// Some of a picture's features, `[rows, text_hidden]`, tile after tile: the last output and
    /// the inner states side by side, projected.
    pub(super) fn combine(
        &self,
        last: &Tensor,
        inner: &[Tensor],
        layout: &Layout,
        rows: Range<usize>,
    ) -> Result<Tensor> {
        let places = layout.places.narrow(0, rows.start, rows.len())?;
        let pick = |x: &Tensor| x.index_select(&places, 0);
        let inner: Vec<Tensor> = inner.iter().map(pick).collect::<Result<_>>()?;
        let mut parts = vec![pick(last)?];
        if !inner.is_empty() {
            // Channel by channel, and within a channel layer by layer.
            parts.push(Tensor::stack(&inner, 2)?.flatten_from(1)?);
        }
        self.projection.forward(&Tensor::cat(&parts, 1)?)
    }

    /// Multiplications of [`Self::combine`] for so many features.
    pub(super) fn combine_work(&self, features: usize) -> u64 {
        linear_work([&self.projection], features)
    }
}

/// Where the tokens of a picture stand.
#[derive(Debug)]
pub(super) struct Layout {
    /// The canvas's id.
    aspect: usize,
    /// What the decoder will look at: of so many of the first tokens, without the filling.
    pub(super) features: usize,
    /// Tokens of the picture's own, which come first. The others are padding.
    apart: usize,
    /// The tokens by tiles, in the order that layers take them in.
    order: Tensor,
    /// Where in that order the features come from.
    places: Tensor,
}

/// A learnt vector for each tile of each canvas, scaled by the tangent of a gate.
#[derive(Debug)]
struct ByTile {
    /// `[1 + canvases, max_tiles * tokens * hidden]`. Row 0 stands for no picture at all.
    table: Tensor,
    gate: f64,
    /// Tokens of a tile that have a vector of their own, and its width.
    shape: (usize, usize),
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
            shape: (tokens, hidden),
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

    /// `[tiles, tokens, hidden]` for some tiles of the canvas with this id.
    fn of_aspect(&self, aspect: usize, tiles: Range<usize>, dtype: DType) -> Result<Tensor> {
        let (tokens, hidden) = self.shape;
        let tile = tokens * hidden;
        let row = self
            .table
            .narrow(0, aspect, 1)?
            .narrow(1, tiles.start * tile, tiles.len() * tile)?
            .to_dtype(dtype)?;
        row.reshape((tiles.len(), tokens, hidden))? * self.gate
    }
}
