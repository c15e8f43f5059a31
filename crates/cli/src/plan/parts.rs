//! The parts of a plan.

use serde_json::{Value, json};
use vlmd_backend::{BLOCK_TOKENS, KvDtype};

/// What a part of the memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartKind {
    /// The model's weights.
    Weights,
    /// What the largest step computes with, its logits included.
    Step,
    /// What encoding the largest picture takes.
    Encoder,
    /// Features of pictures: those kept for the next request, and of one request on their way.
    Features,
    /// Keys and values of pictures that running answers look at by cross-attention.
    Cross,
    /// The driver's own, code and workspaces of kernels, and what is lost between allocations.
    Reserve,
    /// Keys and values of tokens.
    KvCache,
    /// What is to stay free.
    KeptFree,
}

impl PartKind {
    /// The name in JSON. Stable.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Step => "step_activations",
            Self::Encoder => "encoder_workspace",
            Self::Features => "image_features",
            Self::Cross => "cross_attention",
            Self::Reserve => "reserve",
            Self::KvCache => "kv_cache",
            Self::KeptFree => "kept_free",
        }
    }

    /// The name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Step => "activations of a step",
            Self::Encoder => "encoder workspace",
            Self::Features => "image features",
            Self::Cross => "cross-attention store",
            Self::Reserve => "reserve",
            Self::KvCache => "KV cache",
            Self::KeptFree => "kept free",
        }
    }
}

/// How the size of a part is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// From the catalog's card.
    Card,
    /// From the headers of the weight files.
    Headers,
    /// Seen on the device.
    Measured,
    /// Computed from the configuration, as an upper bound.
    Formula,
    /// A flag, as it was given or by its default.
    Setting,
    /// A fixed rule.
    Rule,
    /// What the others leave.
    Rest,
}

impl Known {
    /// The name in JSON. Stable.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Card => "card",
            Self::Headers => "headers",
            Self::Measured => "measured",
            Self::Formula => "formula",
            Self::Setting => "setting",
            Self::Rule => "rule",
            Self::Rest => "rest",
        }
    }

    /// The same for people.
    pub(crate) fn explained(self) -> &'static str {
        match self {
            Self::Card => "the catalog's count",
            Self::Headers => "headers of the weight files",
            Self::Measured => "measured on the device",
            Self::Formula => "upper bound from the configuration",
            Self::Setting => "a setting",
            Self::Rule => "a fixed rule",
            Self::Rest => "what the others leave",
        }
    }
}

/// A part of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) kind: PartKind,
    pub(crate) bytes: u64,
    pub(crate) known: Known,
}

impl Part {
    /// As JSON.
    pub(crate) fn json(&self) -> Value {
        json!({"part": self.kind.key(), "bytes": self.bytes, "known": self.known.key()})
    }
}

/// Bytes of parts together.
pub(crate) fn total(parts: &[Part]) -> u64 {
    let bytes = parts.iter().map(|part| part.bytes);
    bytes.fold(0, u64::saturating_add)
}

/// A plan of a device's memory.
///
/// The parts and [`MemoryPlan::spare`] together are what was free, or what they exceed it by is
/// [`MemoryPlan::over`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemoryPlan {
    /// Bytes that were free before the model was there.
    pub(crate) free: u64,
    pub(crate) parts: Vec<Part>,
    /// Bytes that nothing is planned for.
    pub(crate) spare: u64,
    /// Bytes by which the parts exceed what is free: on CPUs alone, where upper bounds refuse
    /// nobody.
    pub(crate) over: u64,
    /// Type of the cached keys and values.
    pub(crate) kv_dtype: KvDtype,
    /// Blocks of the KV cache.
    pub(crate) kv_blocks: usize,
    /// Most tokens of one sequence.
    pub(crate) max_model_len: usize,
}

impl MemoryPlan {
    /// Bytes for a purpose; 0 where there is no such part.
    pub(crate) fn bytes(&self, kind: PartKind) -> u64 {
        let of_kind = self.parts.iter().filter(|part| part.kind == kind);
        of_kind.map(|part| part.bytes).fold(0, u64::saturating_add)
    }

    /// Tokens that the KV cache holds.
    pub(crate) fn kv_tokens(&self) -> usize {
        self.kv_blocks.saturating_mul(BLOCK_TOKENS)
    }

    /// Sequences of the full length that it holds side by side.
    pub(crate) fn full_sequences(&self) -> usize {
        let each = self.max_model_len.div_ceil(BLOCK_TOKENS);
        self.kv_blocks.checked_div(each).unwrap_or(0)
    }
}

/// Bytes as a person reads them.
pub(crate) fn readable(bytes: u64) -> String {
    let (unit, size) = match bytes {
        0..0x10_0000 => ("KiB", 1 << 10),
        0x10_0000..0x4000_0000 => ("MiB", 1 << 20),
        _ => ("GiB", 1 << 30),
    };
    format!("{:.1} {unit}", bytes as f64 / f64::from(size))
}
