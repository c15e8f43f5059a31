//! A decoder as Megatron's checkpoints have it: spread over tensor-parallel ranks and pipeline
//! stages, under the names of Megatron core or of NeMo's own older layers.

mod ranks;

use candle_core::Tensor;
use vlmd_kernels::Linear;

use self::ranks::{Ranks, around_one};
use super::{Attention, Layer, Mlp, Weights};
use crate::LoadError;
use crate::common::activation::Activation;
use crate::common::norm::Norm;
use crate::common::params::Params;
use crate::common::sizes::Sizes;
use crate::load::Source;

/// The kinds of norm that Megatron's models have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NormKind {
    Layer,
    /// A layer norm whose weight is stored around 0 instead of 1.
    Layer1p,
    Rms,
}

/// The kinds of MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MlpKind {
    /// The first half of the inner values gates the second.
    SwiGlu,
    Plain(Activation),
}

/// What tensors do not tell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) norm: NormKind,
    pub(crate) norm_eps: f32,
    pub(crate) mlp: MlpKind,
    /// The embedding is the head, too.
    pub(crate) tied: bool,
}

/// What the parts of a model are called.
#[derive(Debug)]
struct Names {
    /// Holds all others; may be empty.
    model: &'static str,
    layers: &'static str,
    final_norm: &'static str,
    qkv: &'static str,
    attention_output: &'static str,
    up: &'static str,
    /// Where it exists, `up` is the gate alone and this is what it gates.
    gated: Option<&'static str>,
    down: &'static str,
    /// Full names but for `weight` and `bias`; the first that exists counts.
    attention_norm: &'static [&'static str],
    mlp_norm: &'static [&'static str],
}

/// Megatron core. Transformer Engine keeps norms with the layers that they feed.
const CORE: Names = Names {
    model: "",
    layers: "decoder.layers",
    final_norm: "decoder.final_layernorm.",
    qkv: "self_attention.linear_qkv",
    attention_output: "self_attention.linear_proj",
    up: "mlp.linear_fc1",
    gated: None,
    down: "mlp.linear_fc2",
    attention_norm: &["self_attention.linear_qkv.layer_norm_", "input_layernorm."],
    mlp_norm: &["mlp.linear_fc1.layer_norm_", "pre_mlp_layernorm."],
};

/// NeMo before Megatron core (`mcore_gpt: false`).
const LEGACY: Names = Names {
    model: "language_model",
    layers: "encoder.layers",
    final_norm: "encoder.final_layernorm.",
    qkv: "self_attention.query_key_value",
    attention_output: "self_attention.dense",
    up: "mlp.dense_h_to_4h",
    gated: Some("mlp.dense_h_to_4h_2"),
    down: "mlp.dense_4h_to_h",
    attention_norm: &["input_layernorm."],
    mlp_norm: &["post_attention_layernorm."],
};

/// Where the embeddings are within a model, and with them projector and tower.
const EMBEDDING: &str = "embedding.word_embeddings";

/// The language model's tensors in the parts of a checkpoint.
pub(crate) struct Checkpoint<'a> {
    /// Stages of the pipeline. There is always one.
    stages: Vec<Ranks<'a>>,
    names: &'static Names,
}

impl<'a> Checkpoint<'a> {
    /// Finds out how the tensors are called. `ranks` are the numbers of tensor-parallel ranks and
    /// of pipeline stages.
    pub(crate) fn find(
        source: &'a Source<'_>,
        (tensor, pipeline): (usize, usize),
    ) -> Result<Self, LoadError> {
        let root = |stage: usize, rank: usize| {
            let params = source.root();
            params.at(format_args!("tp{rank}.pp{stage}.model"))
        };
        // What mixed precision at level O2 puts around a model.
        for wrapper in [None, Some("module")] {
            for names in [&CORE, &LEGACY] {
                let model = |stage, rank| {
                    let levels = wrapper.into_iter().chain([names.model]);
                    levels
                        .filter(|level| !level.is_empty())
                        .fold(root(stage, rank), |params, level| params.at(level))
                };
                if model(0, 0).at(EMBEDDING).has("weight") {
                    let stage = |stage| {
                        let further = (1..tensor).map(|rank| model(stage, rank));
                        Ranks::new(model(stage, 0), further)
                    };
                    return Ok(Self {
                        stages: (0..pipeline.max(1)).map(stage).collect(),
                        names,
                    });
                }
            }
        }
        Err(LoadError::tensor(
            root(0, 0).at(EMBEDDING).name("weight"),
            "is missing from the weights; NeMo leaves the language model out where \
             `mm_cfg.llm.freeze` is true",
        ))
    }

    fn stage(&self, stage: usize) -> Result<&Ranks<'a>, LoadError> {
        let missing = || LoadError::tensor(format!("pp{stage}"), "is missing from the weights");
        self.stages.get(stage).ok_or_else(missing)
    }

    /// The branch that holds projector and tower.
    pub(crate) fn vision(&self) -> Result<Params<'a>, LoadError> {
        Ok(self.stage(0)?.first().at(EMBEDDING))
    }

    /// Tokens that have an embedding.
    pub(crate) fn rows(&self) -> Result<usize, LoadError> {
        let stage = self.stage(0)?;
        let [rows, _] = stage.first().at(EMBEDDING).shape("weight")?;
        Ok(rows.saturating_mul(stage.count()))
    }

    /// Loads the decoder. The head keeps the first `sizes.vocab_size` rows: NeMo fills the
    /// vocabulary up with tokens that do not exist.
    pub(crate) fn decoder(&self, settings: &Settings, sizes: &Sizes) -> Result<Weights, LoadError> {
        let shape = [self.rows()?, sizes.hidden_size];
        let last = self.stage(self.stages.len() - 1)?;
        let embedding = self.stage(0)?.at(EMBEDDING).rows("weight", shape)?;
        let head = if settings.tied {
            embedding.clone()
        } else {
            last.rows("output_layer.weight", shape)?
        };
        let head = head.narrow(0, 0, sizes.vocab_size)?;
        let loader = LayerLoader {
            names: self.names,
            sizes,
            settings,
        };
        // Each stage counts its layers from 0.
        let per_stage = sizes.layers.div_ceil(self.stages.len());
        let layer = |layer: usize| {
            let branch = self.stage(layer / per_stage)?.at(self.names.layers);
            loader.load(&branch.at(&(layer % per_stage).to_string()))
        };
        Ok(Weights {
            layers: (0..sizes.layers).map(layer).collect::<Result<_, _>>()?,
            norm: loader.norm(last.first(), &[self.names.final_norm])?,
            embedding,
            embedding_scale: 1.0,
            head: Linear::new(head, None)?,
        })
    }
}

/// Loads the layers of a model, which are all alike.
struct LayerLoader<'s> {
    names: &'static Names,
    sizes: &'s Sizes,
    settings: &'s Settings,
}

impl LayerLoader<'_> {
    fn load(&self, layer: &Ranks<'_>) -> Result<Layer, LoadError> {
        let sizes = self.sizes;
        Ok(Layer {
            attention_norm: self.norm(layer.first(), self.names.attention_norm)?,
            attention: Attention {
                qkv: self.qkv(&layer.at(self.names.qkv))?,
                inner_norm: None,
                output: gathered(
                    &layer.at(self.names.attention_output),
                    sizes.hidden_size,
                    sizes.heads * sizes.head_dim,
                )?,
                heads: sizes.heads,
                head_dim: sizes.head_dim,
            },
            mlp_norm: self.norm(layer.first(), self.names.mlp_norm)?,
            mlp: self.mlp(layer)?,
        })
    }

    /// The first of `names` that exists.
    fn norm(&self, params: &Params<'_>, names: &[&str]) -> Result<Norm, LoadError> {
        let weight = |name: &&str| format!("{name}weight");
        let found = names.iter().find(|name| params.has(&weight(name)));
        let name = found.or(names.first()).copied().unwrap_or_default();
        let (width, eps) = (self.sizes.hidden_size, self.settings.norm_eps);
        let weight = params.activation(&weight(&name), &[width])?;
        let bias = || params.activation(&format!("{name}bias"), &[width]);
        Ok(match self.settings.norm {
            NormKind::Rms => Norm::Rms { weight, eps },
            NormKind::Layer => Norm::Layer {
                weight,
                bias: bias()?,
                eps,
            },
            NormKind::Layer1p => Norm::Layer {
                weight: around_one(&weight)?,
                bias: bias()?,
                eps,
            },
        })
    }

    /// Stored head group by head group: its queries, its key, its value.
    fn qkv(&self, params: &Ranks<'_>) -> Result<Linear, LoadError> {
        let Sizes {
            hidden_size,
            heads,
            kv_heads: groups,
            head_dim,
            ..
        } = *self.sizes;
        let rows = (heads + 2 * groups) * head_dim;
        let queries = heads / groups;
        let sorted = |mixed: &Tensor, width: usize| {
            let mixed = mixed.reshape((groups, queries + 2, head_dim, width))?;
            let kind = |start, count| {
                let heads = mixed.narrow(1, start, count)?;
                heads.reshape((groups * count * head_dim, width))
            };
            Tensor::cat(
                &[kind(0, queries)?, kind(queries, 1)?, kind(queries + 1, 1)?],
                0,
            )
        };
        let weight = sorted(&params.rows("weight", [rows, hidden_size])?, hidden_size)?;
        let bias = if params.has("bias") {
            let bias = Tensor::cat(&params.bias_parts("bias", rows)?, 0)?;
            Some(sorted(&bias, 1)?.flatten_all()?)
        } else {
            None
        };
        Ok(Linear::new(weight, bias)?)
    }

    fn mlp(&self, layer: &Ranks<'_>) -> Result<Mlp, LoadError> {
        let (hidden, inner) = (self.sizes.hidden_size, self.sizes.intermediate_size);
        let down = gathered(&layer.at(self.names.down), hidden, inner)?;
        let up = layer.at(self.names.up);
        match self.settings.mlp {
            MlpKind::Plain(activation) => Ok(Mlp::Plain {
                up: spread(&[up], inner, hidden, 1)?,
                activation,
                inner_norm: None,
                down,
            }),
            MlpKind::SwiGlu => {
                let apart = self.names.gated.map(|name| layer.at(name));
                let gate_up = match apart.filter(|gated| gated.has("weight")) {
                    Some(gated) => spread(&[up, gated], inner, hidden, 1)?,
                    None => spread(&[up], 2 * inner, hidden, 2)?,
                };
                Ok(Mlp::SwiGlu { gate_up, down })
            }
        }
    }
}

/// A linear layer whose outputs are spread over the ranks: `matrices`, each `[rows, columns]`,
/// one above the other. Of each the ranks have a part of every one of its `sections`.
fn spread(
    matrices: &[Ranks<'_>],
    rows: usize,
    columns: usize,
    sections: usize,
) -> Result<Linear, LoadError> {
    let sorted = |parts: &[Tensor]| {
        let section = |section: usize| {
            let of_rank = |part: &Tensor| {
                part.chunk(sections, 0)?
                    .get(section)
                    .cloned()
                    .ok_or_else(|| {
                        candle_core::Error::Msg(format!("{rows} rows have no {sections} sections"))
                    })
            };
            parts
                .iter()
                .map(of_rank)
                .collect::<candle_core::Result<Vec<_>>>()
        };
        let sections = (0..sections).map(section);
        let sections = sections.collect::<candle_core::Result<Vec<_>>>()?;
        Tensor::cat(&sections.concat(), 0)
    };
    let weights = matrices
        .iter()
        .map(|matrix| Ok(sorted(&matrix.row_parts("weight", [rows, columns])?)?))
        .collect::<Result<Vec<_>, LoadError>>()?;
    let biases = matrices
        .iter()
        .filter(|matrix| matrix.has("bias"))
        .map(|matrix| Ok(sorted(&matrix.bias_parts("bias", rows)?)?))
        .collect::<Result<Vec<_>, LoadError>>()?;
    let bias = match biases.as_slice() {
        [] => None,
        biases => Some(Tensor::cat(biases, 0)?),
    };
    Ok(Linear::new(Tensor::cat(&weights, 0)?, bias)?)
}

/// A linear layer `[rows, columns]` whose inputs are spread over the ranks; its bias is not.
fn gathered(params: &Ranks<'_>, rows: usize, columns: usize) -> Result<Linear, LoadError> {
    let weight = params.columns("weight", [rows, columns])?;
    let bias = if params.has("bias") {
        Some(params.first().activation("bias", &[rows])?)
    } else {
        None
    };
    Ok(Linear::new(weight, bias)?)
}
