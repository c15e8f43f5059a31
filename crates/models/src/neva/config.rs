//! `model_config.yaml`, checked.

use serde::Deserialize;

use super::template::Template;
use crate::common::activation::Activation;
use crate::common::decoder::megatron::{self, MlpKind, NormKind};
use crate::common::fields::ConfigFile;
use crate::common::rope::Rope;
use crate::common::sizes::{Fields, Sizes};
use crate::nemo::CONFIG_FILE;
use crate::{LoadError, NemoFiles};

/// Where NeMo keeps the configuration.
pub(super) const FILE: ConfigFile = ConfigFile(CONFIG_FILE);

/// How NeMo calls a decoder's sizes.
const FIELDS: Fields = Fields {
    file: FILE,
    vocab_size: "the vocabulary",
    hidden_size: "hidden_size",
    intermediate_size: "ffn_hidden_size",
    layers: "num_layers",
    heads: "num_attention_heads",
    kv_heads: "num_query_groups",
    head_dim: "kv_channels",
    max_positions: "max_position_embeddings",
};

/// Most layers of a projector.
const MAX_PROJECTOR_LAYERS: usize = 16;

/// `model_config.yaml`, as far as the tensors do not tell it.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Config {
    num_layers: Option<usize>,
    hidden_size: Option<usize>,
    ffn_hidden_size: Option<usize>,
    num_attention_heads: Option<usize>,
    num_query_groups: Option<usize>,
    kv_channels: Option<usize>,
    max_position_embeddings: Option<usize>,
    encoder_seq_length: Option<usize>,
    position_embedding_type: Option<String>,
    rotary_percentage: Option<f64>,
    rotary_base: Option<f64>,
    rotary_interleaved: Option<bool>,
    seq_len_interpolation_factor: Option<f64>,
    normalization: Option<String>,
    layernorm_epsilon: Option<f64>,
    activation: Option<String>,
    transformer_block_type: Option<String>,
    megatron_legacy: Option<bool>,
    num_moe_experts: Option<usize>,
    window_size: Option<Vec<i64>>,
    share_embeddings_and_output_weights: Option<bool>,
    tensor_model_parallel_size: Option<usize>,
    pipeline_model_parallel_size: Option<usize>,
    virtual_pipeline_model_parallel_size: Option<usize>,
    #[serde(default)]
    tokenizer: TokenizerConfig,
    #[serde(default)]
    mm_cfg: MultimodalConfig,
    #[serde(default)]
    data: DataConfig,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct TokenizerConfig {
    library: Option<String>,
    model: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct MultimodalConfig {
    #[serde(default)]
    vision_encoder: VisionConfig,
    mm_mlp_adapter_type: Option<String>,
    use_im_start_end: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct VisionConfig {
    from_pretrained: Option<String>,
    vision_select_layer: Option<i64>,
    class_token_length: Option<usize>,
    freeze: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct DataConfig {
    conv_template: Option<String>,
    image_aspect_ratio: Option<String>,
}

/// How a picture becomes square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AspectRatio {
    /// Its middle is cut out.
    Square,
    /// It is put on a square of CLIP's mean colour.
    Pad,
}

impl Config {
    /// Reads and checks the configuration of an archive.
    pub(super) fn read(files: &NemoFiles) -> Result<Self, LoadError> {
        let config: Self = files.yaml(CONFIG_FILE)?;
        config.check_kind()?;
        config.decoder()?;
        config.template()?;
        config.aspect_ratio()?;
        config.projector_layers()?;
        config.keeps_class_token()?;
        config.hidden_state()?;
        Ok(config)
    }

    /// Refuses what would be computed otherwise than here.
    fn check_kind(&self) -> Result<(), LoadError> {
        // The default is NeMo's.
        let positions = self.position_embedding_type.as_deref();
        let positions = positions.unwrap_or("learned_absolute");
        FILE.only("position_embedding_type", positions, "rope")?;
        let block = self.transformer_block_type.as_deref().unwrap_or("pre_ln");
        FILE.only("transformer_block_type", block, "pre_ln")?;
        for (field, value) in [
            ("rotary_interleaved", self.rotary_interleaved),
            ("megatron_legacy", self.megatron_legacy),
        ] {
            if value == Some(true) {
                return Err(FILE.must(field, "be false", true));
            }
        }
        for (field, value) in [
            ("num_moe_experts", self.num_moe_experts),
            (
                "virtual_pipeline_model_parallel_size",
                self.virtual_pipeline_model_parallel_size,
            ),
        ] {
            if let Some(value @ 2..) = value {
                return Err(FILE.must(field, "be at most 1", value));
            }
        }
        match &self.window_size {
            Some(window) => Err(FILE.must("window_size", "be null", format!("{window:?}"))),
            None => Ok(()),
        }
    }

    /// Checks that the archive holds as many parts as the configuration says.
    pub(super) fn check_ranks(&self, (tensor, pipeline): (usize, usize)) -> Result<(), LoadError> {
        for (field, stated, found) in [
            (
                "tensor_model_parallel_size",
                self.tensor_model_parallel_size,
                tensor,
            ),
            (
                "pipeline_model_parallel_size",
                self.pipeline_model_parallel_size,
                pipeline,
            ),
        ] {
            let stated = stated.unwrap_or(1);
            if stated != found {
                let bound = format!("be {found}, which is how many parts the weights have");
                return Err(FILE.must(field, bound, stated));
            }
        }
        let layers = self.num_layers.unwrap_or_default();
        FILE.multiple(
            "num_layers",
            layers,
            "pipeline_model_parallel_size",
            pipeline,
        )
    }

    /// The decoder's sizes, checked. `vocab_size` is the number of tokens that may be sampled.
    pub(super) fn sizes(&self, vocab_size: usize) -> Result<Sizes, LoadError> {
        let required = |field: &str, value: Option<usize>| {
            value.ok_or_else(|| FILE.must(field, "be an integer from 1 on", "missing"))
        };
        let hidden_size = required("hidden_size", self.hidden_size)?;
        let heads = required("num_attention_heads", self.num_attention_heads)?;
        let head_dim = match self.kv_channels {
            Some(width) => width,
            None => Sizes::head_dim(hidden_size, heads, &FIELDS)?,
        };
        let positions = self.max_position_embeddings.or(self.encoder_seq_length);
        let sizes = Sizes {
            vocab_size,
            hidden_size,
            intermediate_size: self
                .ffn_hidden_size
                .unwrap_or(hidden_size.saturating_mul(4)),
            layers: required("num_layers", self.num_layers)?,
            heads,
            kv_heads: self.num_query_groups.unwrap_or(heads),
            head_dim,
            max_positions: required("max_position_embeddings", positions)?,
        };
        sizes.check(&FIELDS)?;
        Ok(sizes)
    }

    fn norm(&self) -> Result<NormKind, LoadError> {
        let kind = self.normalization.as_deref().unwrap_or("layernorm");
        FILE.choice(
            "normalization",
            kind,
            &[
                ("layernorm", NormKind::Layer),
                ("low_precision_layernorm", NormKind::Layer),
                ("layernorm1p", NormKind::Layer1p),
                ("rmsnorm", NormKind::Rms),
            ],
        )
    }

    fn mlp(&self) -> Result<MlpKind, LoadError> {
        // NeMo's default, which it computes in more than one way.
        let kind = self.activation.as_deref().unwrap_or("gelu");
        FILE.choice(
            "activation",
            kind,
            &[
                ("squared-relu", MlpKind::Plain(Activation::SquaredRelu)),
                ("swiglu", MlpKind::SwiGlu),
                ("fast-swiglu", MlpKind::SwiGlu),
            ],
        )
    }

    /// What the tensors do not tell about the decoder.
    pub(super) fn decoder(&self) -> Result<megatron::Settings, LoadError> {
        Ok(megatron::Settings {
            norm: self.norm()?,
            norm_eps: FILE.eps("layernorm_epsilon", self.layernorm_epsilon.unwrap_or(1e-5))?,
            mlp: self.mlp()?,
            // NeMo's default.
            tied: self.share_embeddings_and_output_weights.unwrap_or(true),
        })
    }

    /// The decoder's rotations, of the first part of each head.
    pub(super) fn rope(&self, sizes: &Sizes) -> Result<Rope, LoadError> {
        let share = self.rotary_percentage.unwrap_or(1.0);
        let rotated = (sizes.head_dim as f64 * share) as usize;
        if !(2..=sizes.head_dim).contains(&rotated) || !rotated.is_multiple_of(2) {
            return Err(FILE.must(
                "rotary_percentage",
                format!(
                    "be that of an even part of the {} values of a head",
                    sizes.head_dim
                ),
                share,
            ));
        }
        let base = self.rotary_base.unwrap_or(10_000.0);
        FILE.positive("rotary_base", base)?;
        match self.seq_len_interpolation_factor {
            None => Ok(Rope::plain(rotated, base)),
            Some(factor) => {
                FILE.positive("seq_len_interpolation_factor", factor)?;
                Ok(Rope::linear(rotated, base, factor))
            }
        }
    }

    /// The member of the archive that is the tokenizer.
    pub(super) fn tokenizer(&self) -> Result<&str, LoadError> {
        let library = self.tokenizer.library.as_deref().unwrap_or("missing");
        FILE.only("tokenizer.library", library, "sentencepiece")?;
        let model = self.tokenizer.model.as_deref();
        model
            .and_then(|model| model.strip_prefix("nemo:"))
            .ok_or_else(|| {
                FILE.must(
                    "tokenizer.model",
                    "be `nemo:` and the name of a file in the archive",
                    model.unwrap_or("missing"),
                )
            })
    }

    pub(super) fn template(&self) -> Result<Template, LoadError> {
        let name = self.data.conv_template.as_deref().unwrap_or("missing");
        FILE.choice("data.conv_template", name, &Template::NAMED)
    }

    pub(super) fn aspect_ratio(&self) -> Result<AspectRatio, LoadError> {
        let name = self.data.image_aspect_ratio.as_deref().unwrap_or("square");
        FILE.choice(
            "data.image_aspect_ratio",
            name,
            &[("square", AspectRatio::Square), ("pad", AspectRatio::Pad)],
        )
    }

    /// Whether the marks around a picture are embedded, and not replaced by features of it.
    pub(super) fn use_im_start_end(&self) -> bool {
        self.mm_cfg.use_im_start_end.unwrap_or(false)
    }

    /// Names of the projector's linear layers, for a tower of this width.
    pub(super) fn projector(&self, width: usize) -> Result<Vec<String>, LoadError> {
        let layers = self.projector_layers()?;
        let hidden = self.hidden_size.unwrap_or_default();
        if layers == 0 && width != hidden {
            let bound = format!("be {width}, the tower's width, where there is no projector");
            return Err(FILE.must("hidden_size", bound, hidden));
        }
        // The activations between them have numbers, too.
        let numbered = |layer: usize| format!("mm_projector.{}", 2 * layer);
        Ok(match layers {
            1 => vec!["mm_projector".to_owned()],
            _ => (0..layers).map(numbered).collect(),
        })
    }

    fn projector_layers(&self) -> Result<usize, LoadError> {
        let kind = self.mm_cfg.mm_mlp_adapter_type.as_deref();
        let layers = match kind {
            Some("identity") => Some(0),
            None | Some("linear") => Some(1),
            Some(name) => name
                .strip_prefix("mlp")
                .and_then(|rest| rest.strip_suffix("x_gelu"))
                .and_then(|number| number.parse().ok())
                .filter(|layers| (2..=MAX_PROJECTOR_LAYERS).contains(layers)),
        };
        layers.ok_or_else(|| {
            FILE.must(
                "mm_cfg.mm_mlp_adapter_type",
                format!(
                    "be `identity`, `linear` or `mlpNx_gelu` with N from 2 to \
                     {MAX_PROJECTOR_LAYERS}"
                ),
                kind.unwrap_or_default(),
            )
        })
    }

    /// Which of the tower's hidden states are the features, counted from the end.
    pub(super) fn hidden_state(&self) -> Result<i64, LoadError> {
        let layer = self.mm_cfg.vision_encoder.vision_select_layer.unwrap_or(-2);
        if layer >= 0 {
            return Err(FILE.must(
                "mm_cfg.vision_encoder.vision_select_layer",
                "be below 0, counted from the end",
                layer,
            ));
        }
        Ok(layer)
    }

    /// Whether the tower's class token is a feature, too.
    pub(super) fn keeps_class_token(&self) -> Result<bool, LoadError> {
        match self.mm_cfg.vision_encoder.class_token_length {
            None | Some(1) => Ok(false),
            Some(0) => Ok(true),
            Some(other) => Err(FILE.must(
                "mm_cfg.vision_encoder.class_token_length",
                "be 0 or 1",
                other,
            )),
        }
    }

    /// The repository of the tower where the archive holds none: NeMo leaves out what it has not
    /// trained.
    pub(super) fn wanted_tower(&self) -> Option<&str> {
        let vision = &self.mm_cfg.vision_encoder;
        if vision.freeze == Some(false) {
            return None;
        }
        vision.from_pretrained.as_deref()
    }
}
