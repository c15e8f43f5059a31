//! CLIP's vision tower, as transformers' `CLIPVisionModel` computes it.
//!
//! Sizes come from the tensors' shapes, because some architectures that carry a tower have no
//! configuration for it.

use candle_core::{Result, Tensor};
use vlmd_kernels::{Linear, attention, layer_norm, quick_gelu};

use super::params::Params;
use crate::LoadError;

/// Width of a head in every CLIP tower that OpenAI published.
const HEAD_DIM: usize = 64;

const EPS: f32 = 1e-5;

const COLOURS: usize = 3;

/// How a tower cuts a picture up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Width of a feature.
    pub(crate) hidden: usize,
    /// Pixels per side of a patch.
    pub(crate) patch: usize,
    /// Patches per side of a picture.
    pub(crate) grid: usize,
}

impl Geometry {
    /// Reads the shapes of the embeddings; `params` is the `vision_model` branch.
    pub(crate) fn read(params: &Params<'_>) -> std::result::Result<Self, LoadError> {
        let embeddings = params.at("embeddings");
        let [hidden, colours, patch, width] = embeddings.shape("patch_embedding.weight")?;
        if colours != COLOURS || patch != width {
            return Err(LoadError::tensor(
                embeddings.name("patch_embedding.weight"),
                format!(
                    "must be [hidden, {COLOURS}, patch, patch], \
                     but its shape is [{hidden}, {colours}, {patch}, {width}]"
                ),
            ));
        }
        let [positions, _] = embeddings.shape("position_embedding.weight")?;
        let grid = positions.saturating_sub(1).isqrt();
        if grid == 0 || grid * grid + 1 != positions {
            return Err(LoadError::tensor(
                embeddings.name("position_embedding.weight"),
                format!(
                    "must have a row for the class and for each patch of a square, but has {positions}"
                ),
            ));
        }
        Ok(Self {
            hidden,
            patch,
            grid,
        })
    }

    /// Pixels per side of a picture.
    pub(crate) fn side(&self) -> usize {
        self.patch * self.grid
    }
}

/// The tower up to the layer whose features are used; what comes after is never loaded.
#[derive(Debug)]
pub(crate) struct Clip {
    geometry: Geometry,
    patch_embedding: Linear,
    class_embedding: Tensor,
    position_embedding: Tensor,
    pre_norm: Norm,
    layers: Vec<Layer>,
}

impl Clip {
    /// Loads the tower from its `vision_model` branch, down to `hidden_states[hidden_state]`.
    ///
    /// `hidden_state` counts from the end as in Python: -1 is the output of the last layer, -2
    /// that of the last but one.
    pub(crate) fn load(
        params: &Params<'_>,
        hidden_state: i64,
    ) -> std::result::Result<Self, LoadError> {
        let geometry = Geometry::read(params)?;
        let Geometry {
            hidden,
            patch,
            grid,
        } = geometry;
        if !hidden.is_multiple_of(HEAD_DIM) {
            return Err(LoadError::tensor(
                params.name("embeddings.class_embedding"),
                format!("must have a multiple of {HEAD_DIM} entries, but has {hidden}"),
            ));
        }

        let branch = params.at("encoder").at("layers");
        let present = (0..)
            .take_while(|layer| branch.at(layer).has("layer_norm1.weight"))
            .count();
        let used = usize::try_from(hidden_state.unsigned_abs())
            .ok()
            .filter(|_| hidden_state < 0)
            .and_then(|back| (present + 1).checked_sub(back))
            .ok_or_else(|| {
                LoadError::tensor(
                    params.name("encoder.layers"),
                    format!("has {present} layers and no hidden state {hidden_state}"),
                )
            })?;

        let embeddings = params.at("embeddings");
        let kernel =
            embeddings.weight("patch_embedding.weight", &[hidden, COLOURS, patch, patch])?;
        Ok(Self {
            geometry,
            // A convolution whose stride is its kernel is a matrix product over patches.
            patch_embedding: Linear::new(kernel.flatten_from(1)?, None)?,
            class_embedding: embeddings.activation("class_embedding", &[hidden])?,
            position_embedding: embeddings
                .activation("position_embedding.weight", &[grid * grid + 1, hidden])?,
            // The misspelling is the checkpoint's.
            pre_norm: Norm::load(&params.at("pre_layrnorm"), hidden)?,
            layers: (0..used)
                .map(|layer| Layer::load(&branch.at(layer), hidden))
                .collect::<std::result::Result<_, _>>()?,
        })
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Features of each patch, `[n, grid * grid, hidden]`, row by row, without the class token,
    /// of pictures `[n, 3, side, side]` in the activations' type.
    pub(crate) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let Geometry {
            hidden,
            patch,
            grid,
        } = self.geometry;
        let count = pixels.dim(0)?;
        let patches = pixels
            .reshape(&[count, COLOURS, grid, patch, grid, patch])?
            .permute([0, 2, 4, 1, 3, 5])?
            .reshape((count, grid * grid, COLOURS * patch * patch))?;
        let patches = self.patch_embedding.forward(&patches)?;
        let class = self
            .class_embedding
            .reshape((1, 1, hidden))?
            .broadcast_as((count, 1, hidden))?
            .contiguous()?;
        let x = Tensor::cat(&[class, patches], 1)?.broadcast_add(&self.position_embedding)?;
        let mut x = self.pre_norm.forward(&x)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        x.narrow(1, 1, grid * grid)
    }
}

#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn load(params: &Params<'_>, width: usize) -> std::result::Result<Self, LoadError> {
        Ok(Self {
            weight: params.activation("weight", &[width])?,
            bias: params.activation("bias", &[width])?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, EPS)
    }
}

/// A pre-norm transformer layer with bidirectional attention.
#[derive(Debug)]
struct Layer {
    attention_norm: Norm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    mlp_norm: Norm,
    up: Linear,
    down: Linear,
}

impl Layer {
    fn load(params: &Params<'_>, hidden: usize) -> std::result::Result<Self, LoadError> {
        let attention = params.at("self_attn");
        let mlp = params.at("mlp");
        let [inner, _] = mlp.shape("fc1.weight")?;
        Ok(Self {
            attention_norm: Norm::load(&params.at("layer_norm1"), hidden)?,
            query: attention.linear_with_bias("q_proj", hidden, hidden)?,
            key: attention.linear_with_bias("k_proj", hidden, hidden)?,
            value: attention.linear_with_bias("v_proj", hidden, hidden)?,
            output: attention.linear_with_bias("out_proj", hidden, hidden)?,
            mlp_norm: Norm::load(&params.at("layer_norm2"), hidden)?,
            up: mlp.linear_with_bias("fc1", hidden, inner)?,
            down: mlp.linear_with_bias("fc2", inner, hidden)?,
        })
    }

    /// `[n, tokens, hidden]` to the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (count, tokens, hidden) = x.dims3()?;
        let heads = |x: Tensor| x.reshape((count, tokens, hidden / HEAD_DIM, HEAD_DIM));

        let normed = self.attention_norm.forward(x)?;
        let query = heads(self.query.forward(&normed)?)?;
        let key = heads(self.key.forward(&normed)?)?;
        let value = heads(self.value.forward(&normed)?)?;
        let scale = (HEAD_DIM as f32).sqrt().recip();
        let attended = attention(&query, &key, &value, scale)?.reshape((count, tokens, hidden))?;
        let x = (x + self.output.forward(&attended)?)?;

        let normed = self.mlp_norm.forward(&x)?;
        let inner = quick_gelu(&self.up.forward(&normed)?)?;
        x + self.down.forward(&inner)?
    }
}
