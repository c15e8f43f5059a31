//! CLIP's vision tower, as transformers' `CLIPVisionModel` computes it.
//!
//! Sizes come from the tensors' shapes, because some architectures that carry a tower have no
//! configuration for it.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::activation::Activation;
use super::encoder::{EncoderLayer, Names, Style};
use super::fields::CONFIG;
use super::levels::COLOURS;
use super::norm::Norm;
use super::params::Params;
use super::patches::PatchEmbedding;
use super::views::Views;
use crate::LoadError;

/// Width of a head in every CLIP tower that OpenAI published.
pub(crate) const HEAD_DIM: usize = 64;

const NAMES: Names = Names {
    attention_norm: "layer_norm1",
    output: "out_proj",
    mlp_norm: "layer_norm2",
    attention_bias: true,
    gates: None,
};

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

    /// Features of a picture: its patches, and the class token where that is one, too.
    pub(crate) fn features(&self, class_token: bool) -> usize {
        self.grid * self.grid + usize::from(class_token)
    }
}

/// What a configuration states of a tower, although the tensors tell it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stated {
    pub(crate) hidden_size: Option<usize>,
    pub(crate) image_size: Option<usize>,
    pub(crate) patch_size: Option<usize>,
    /// At most [`MAX_LAYERS`](super::sizes::MAX_LAYERS).
    pub(crate) num_hidden_layers: Option<usize>,
}

impl Stated {
    /// Checks that the weights, whose `vision_model` branch is `params`, are those that the
    /// configuration is of. Heads are counted in its width and hidden states in its layers: with
    /// others the tower would compute something else and say nothing.
    pub(crate) fn check(&self, params: &Params<'_>) -> std::result::Result<(), LoadError> {
        let geometry = Geometry::read(params)?;
        for (field, stated, found) in [
            ("hidden_size", self.hidden_size, geometry.hidden),
            ("image_size", self.image_size, geometry.side()),
            ("patch_size", self.patch_size, geometry.patch),
        ] {
            if let Some(stated) = stated.filter(|&stated| stated != found) {
                return Err(differs(field, found, stated));
            }
        }
        let Some(layers) = self.num_hidden_layers else {
            return Ok(());
        };
        let branch = params.at("encoder").at("layers");
        // A layer that is not there is missed by its name.
        for layer in 0..layers {
            branch.at(layer).shape::<1>(LAYER_MARK)?;
        }
        let present = layers_of(params);
        if present > layers {
            return Err(differs("num_hidden_layers", present, layers));
        }
        Ok(())
    }
}

/// A field of `vision_config` that the weights contradict.
fn differs(field: &str, found: usize, stated: usize) -> LoadError {
    CONFIG.must(
        &format!("vision_config.{field}"),
        format!("be {found}, as in the weights"),
        stated,
    )
}

/// A tensor that every layer has.
const LAYER_MARK: &str = "layer_norm1.weight";

/// Layers that the weights hold.
fn layers_of(params: &Params<'_>) -> usize {
    let branch = params.at("encoder").at("layers");
    (0..)
        .take_while(|layer| branch.at(layer).has(LAYER_MARK))
        .count()
}

/// What tensors do not tell about a tower.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    /// Which of the hidden states are the features, counted from the end as in Python: -1 is the
    /// output of the last layer, -2 that of the last but one.
    pub(crate) hidden_state: i64,
    /// The class token is a feature, too.
    pub(crate) class_token: bool,
    /// Width of a head.
    pub(crate) head_dim: usize,
    pub(crate) activation: Activation,
    pub(crate) layer_norm_eps: f32,
}

impl Options {
    /// OpenAI's towers, whose features are the patches of one of the `hidden_states`.
    pub(crate) fn openai(hidden_state: i64) -> Self {
        Self {
            hidden_state,
            class_token: false,
            head_dim: HEAD_DIM,
            activation: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

/// The tower up to the layer whose features are used; what comes after is never loaded.
#[derive(Debug)]
pub(crate) struct Clip {
    geometry: Geometry,
    class_token: bool,
    patches: PatchEmbedding,
    position_embedding: Tensor,
    pre_norm: Norm,
    layers: Vec<EncoderLayer>,
}

impl Clip {
    /// Loads the tower from its `vision_model` branch.
    pub(crate) fn load(
        params: &Params<'_>,
        options: &Options,
    ) -> std::result::Result<Self, LoadError> {
        let geometry = Geometry::read(params)?;
        let Geometry {
            hidden,
            patch,
            grid,
        } = geometry;
        let head_dim = options.head_dim;
        if head_dim == 0 || !hidden.is_multiple_of(head_dim) {
            return Err(LoadError::tensor(
                params.name("embeddings.class_embedding"),
                format!("must have a multiple of {head_dim} entries, but has {hidden}"),
            ));
        }
        let hidden_state = options.hidden_state;

        let branch = params.at("encoder").at("layers");
        let present = layers_of(params);
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

        let style = Style {
            hidden,
            head_dim,
            activation: options.activation,
            layer_norm_eps: options.layer_norm_eps,
            names: &NAMES,
        };
        let embeddings = params.at("embeddings");
        Ok(Self {
            geometry,
            class_token: options.class_token,
            patches: PatchEmbedding::load(&embeddings, hidden, patch)?,
            position_embedding: embeddings
                .activation("position_embedding.weight", &[grid * grid + 1, hidden])?,
            // The misspelling is the checkpoint's.
            pre_norm: Norm::layer(&params.at("pre_layrnorm"), hidden, options.layer_norm_eps)?,
            layers: (0..used)
                .map(|layer| EncoderLayer::load(&branch.at(layer), &style))
                .collect::<std::result::Result<_, _>>()?,
        })
    }

    /// Inner width of a layer's MLP; `None` where the tower below `params` has no layer.
    pub(crate) fn inner(params: &Params<'_>) -> Option<usize> {
        let layer = params.at("encoder").at("layers").at(0);
        let [inner, _] = layer.at("mlp").shape("fc1.weight").ok()?;
        Some(inner)
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Tokens `[n, 1 + grid * grid, hidden]`, the class token first, then the patches row by row,
    /// of some of the views, which are of `side` by `side` pixels.
    pub(crate) fn embed(&self, views: &Views, wanted: Range<usize>) -> Result<Tensor> {
        let patches = self.patches.forward(views, wanted)?;
        let tokens = self.patches.with_class(&patches)?;
        let x = tokens.broadcast_add(&self.position_embedding)?;
        self.pre_norm.forward(&x)
    }

    /// The layers that tokens go through one after the other.
    pub(crate) fn layers(&self) -> &[EncoderLayer] {
        &self.layers
    }

    /// Which of the tokens are features: `[n, features, hidden]`.
    pub(crate) fn features(&self, tokens: &Tensor) -> Result<Tensor> {
        if self.class_token {
            return Ok(tokens.clone());
        }
        tokens.narrow(1, 1, tokens.dim(1)? - 1)
    }

    /// Features of a picture.
    pub(crate) fn feature_count(&self) -> usize {
        self.geometry.features(self.class_token)
    }

    /// Multiplications of [`Self::embed`] for one picture.
    pub(crate) fn embed_work(&self) -> u64 {
        self.patches.work(self.geometry.features(false))
    }

    /// Multiplications of one layer for one picture.
    pub(crate) fn layer_work(&self) -> u64 {
        let tokens = self.geometry.features(true);
        let work =
            |layer: &EncoderLayer| layer.project_work(tokens) + layer.attend_work(tokens, tokens);
        self.layers.first().map_or(0, work)
    }
}
