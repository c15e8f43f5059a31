//! From needs, wishes and a device to a plan.

use vlmd_backend::BLOCK_TOKENS;
use vlmd_engine::EngineConfig;
use vlmd_kernels::Place;
use vlmd_models::Need;

use super::parts::{Known, MemoryPlan, Part, PartKind, readable, total};
use super::refusal::{self, Refusal};
use super::{Machine, Profile, Wishes};

/// Share of the memory beside the weights that caches take by themselves where no utilization
/// bounds the plan: others use the machine, too.
const MODEST_SHARE: u64 = 4;

/// What the driver's context, the code of kernels and the workspaces of its matrix products take
/// of a CUDA device. An estimate, which no card has confirmed.
const CONTEXT_BYTES: u64 = 512 << 20;

/// Of what comes and goes on a CUDA device, so much is lost between allocations: one in so many
/// bytes. An estimate, too.
const FRAGMENTATION_SHARE: u64 = 8;

/// The model that memory is planned for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) need: &'a Need,
    /// How the size of its weights is known.
    pub(crate) weights: Known,
    /// What a run on the device has shown, if there was one.
    pub(crate) profile: Option<&'a Profile>,
}

/// Plans the memory of `machine`.
///
/// # Errors
/// When the parts do not fit, or not the sequence or cache that was asked for; says what would.
pub(crate) fn solve(
    subject: Subject<'_>,
    machine: Machine,
    wishes: &Wishes,
) -> Result<MemoryPlan, Refusal> {
    attempt(subject, machine, wishes)
        .map_err(|failure| refusal::explain(failure, subject, machine, wishes))
}

/// Why a plan cannot be made.
#[derive(Debug)]
pub(super) enum Failure {
    /// More tokens than the model has positions.
    Positions { wanted: usize, most: usize },
    /// A cache of the size that was asked for holds not one block.
    NoBlock { bytes: u64, block: u64 },
    /// It holds less than the sequence that was asked for.
    TooShort {
        wanted: usize,
        needed: u64,
        bytes: u64,
    },
    /// The parts, the least KV cache among them, exceed what may be used.
    NoRoom { parts: Vec<Part> },
}

/// [`solve()`] without advice.
pub(super) fn attempt(
    subject: Subject<'_>,
    machine: Machine,
    wishes: &Wishes,
) -> Result<MemoryPlan, Failure> {
    let spec = &subject.need.spec;
    let wanted = match wishes.max_model_len {
        Some(len) if len > spec.max_positions => {
            return Err(Failure::Positions {
                wanted: len,
                most: spec.max_positions,
            });
        }
        Some(len) => len,
        None => spec.max_positions,
    };
    let plan = Planner {
        subject,
        machine,
        wishes,
        wanted,
    };
    if wishes.max_model_len.is_some() {
        return plan.with_length(wanted);
    }
    // What a step takes may grow with the longest sequence, and leaves the less for it: the
    // longest that still fits.
    let holds = |blocks: usize| {
        let len = blocks.saturating_mul(BLOCK_TOKENS).min(wanted);
        plan.with_length(len)
    };
    if let Ok(full) = holds(wanted.div_ceil(BLOCK_TOKENS)) {
        return Ok(full);
    }
    let (mut fits, mut exceeds) = (1, wanted.div_ceil(BLOCK_TOKENS));
    let mut best = holds(fits)?;
    while exceeds - fits > 1 {
        let middle = fits.midpoint(exceeds);
        match holds(middle) {
            Ok(plan) => (fits, best) = (middle, plan),
            Err(_) => exceeds = middle,
        }
    }
    Ok(best)
}

struct Planner<'a> {
    subject: Subject<'a>,
    machine: Machine,
    wishes: &'a Wishes,
    /// Most tokens of a sequence that the cache is of use for.
    wanted: usize,
}

impl Planner<'_> {
    /// A plan for sequences of up to `len` tokens, of which the cache must hold one.
    fn with_length(&self, len: usize) -> Result<MemoryPlan, Failure> {
        let (spec, wishes, free) = (&self.subject.need.spec, self.wishes, self.machine.free);
        let block = spec.block_bytes(wishes.kv_dtype) as u64;
        let blocks_of = |len: usize| len.div_ceil(BLOCK_TOKENS) as u64;
        let needed = blocks_of(len).saturating_mul(block);
        let useful = blocks_of(self.wanted).saturating_mul(wishes.max_num_seqs as u64);

        let mut parts = self.fixed(len);
        let kept = wishes.kept_free(free);
        let rest = free.saturating_sub(kept).saturating_sub(total(&parts));
        let beside_weights = free
            .saturating_sub(kept)
            .saturating_sub(self.subject.need.weight_bytes);
        let modest = beside_weights / MODEST_SHARE;
        let strict = self.strict();

        let cross = self.cross(if strict { rest / MODEST_SHARE } else { modest });
        let cross_bytes = cross.map_or(0, |part| part.bytes);
        let (bytes, known) = match wishes.memory {
            Some(size) => (size.0, Known::Setting),
            None if strict => (rest.saturating_sub(cross_bytes), Known::Rest),
            None => (modest, Known::Rule),
        };
        let kv_blocks = (bytes / block.max(1)).min(useful);
        let kv_bytes = kv_blocks.saturating_mul(block);
        parts.extend(cross);

        // Whether what must be there is there at all, before what was asked for.
        let certain = if strict {
            total(&parts)
        } else {
            let asked = cross.filter(|part| part.known == Known::Setting);
            self.subject
                .need
                .weight_bytes
                .saturating_add(asked.map_or(0, |part| part.bytes))
        };
        let least_cache = match wishes.memory {
            Some(_) => kv_bytes.max(block),
            None => match wishes.max_model_len {
                Some(_) => needed,
                None => block,
            },
        };
        if certain.saturating_add(least_cache).saturating_add(kept) > free {
            parts.push(part(PartKind::KvCache, least_cache, Known::Rule));
            if kept > 0 {
                parts.push(part(PartKind::KeptFree, kept, Known::Setting));
            }
            return Err(Failure::NoRoom { parts });
        }
        if kv_blocks == 0 {
            return Err(Failure::NoBlock { bytes, block });
        }
        let capacity = usize::try_from(kv_blocks)
            .unwrap_or(usize::MAX)
            .saturating_mul(BLOCK_TOKENS);
        if len > capacity {
            return Err(Failure::TooShort {
                wanted: len,
                needed,
                bytes,
            });
        }
        parts.push(part(PartKind::KvCache, kv_bytes, known));
        if kept > 0 {
            parts.push(part(PartKind::KeptFree, kept, Known::Setting));
        }
        let all = total(&parts);
        Ok(MemoryPlan {
            free,
            parts,
            spare: free.saturating_sub(all),
            over: all.saturating_sub(free),
            kv_dtype: wishes.kv_dtype,
            kv_blocks: usize::try_from(kv_blocks).unwrap_or(usize::MAX),
            max_model_len: len,
        })
    }

    /// Whether every part must fit. On a CPU, where nobody set a bound, other programs' memory may
    /// make room, and upper bounds turn nobody away.
    fn strict(&self) -> bool {
        self.machine.place == Place::Cuda || self.wishes.utilization.is_some()
    }

    /// All parts but the caches, for sequences of up to `longest` tokens.
    fn fixed(&self, longest: usize) -> Vec<Part> {
        let (need, wishes) = (self.subject.need, self.wishes);
        let seen = |formula: u64, measured: Option<u64>| match measured {
            Some(measured) if measured >= formula => (measured, Known::Measured),
            _ => (formula, Known::Formula),
        };
        let (step, step_known) = seen(
            need.footprint
                .step_bytes(&wishes.step(longest), need.compute),
            self.subject.profile.map(|profile| profile.step),
        );
        let call = EngineConfig::ENCODER_CALL_PIXELS;
        let (encoder, encoder_known) = seen(
            need.footprint.encoding_bytes(call, need.compute),
            self.subject.profile.map(|profile| profile.encoder),
        );
        let mut parts = vec![
            part(PartKind::Weights, need.weight_bytes, self.subject.weights),
            part(PartKind::Step, step, step_known),
            part(PartKind::Encoder, encoder, encoder_known),
            part(PartKind::Features, self.features(), Known::Setting),
        ];
        if self.machine.place == Place::Cuda {
            let moving = step.saturating_add(encoder);
            let reserve = CONTEXT_BYTES.saturating_add(moving / FRAGMENTATION_SHARE);
            parts.push(part(PartKind::Reserve, reserve, Known::Rule));
        }
        parts
    }

    /// The features that are kept, and where they stand in prompts those of one request that waits
    /// to be read.
    fn features(&self) -> u64 {
        let need = self.subject.need;
        let waiting = if need.spec.cross_feature_bytes > 0 {
            0
        } else {
            let feature = need
                .spec
                .hidden_size
                .saturating_mul(need.compute.activations.size_in_bytes());
            let picture = need.footprint.picture_features().saturating_mul(feature);
            picture.saturating_mul(self.wishes.max_images) as u64
        };
        self.wishes.encoder_cache.saturating_add(waiting)
    }

    /// For models that have it: what was asked for, or a share, and no more than the pictures of
    /// all requests side by side take.
    fn cross(&self, share: u64) -> Option<Part> {
        let need = self.subject.need;
        if need.spec.cross_feature_bytes == 0 {
            return None;
        }
        if let Some(size) = self.wishes.cross_memory {
            return Some(part(PartKind::Cross, size.0, Known::Setting));
        }
        let picture = need
            .footprint
            .picture_features()
            .saturating_mul(need.spec.cross_feature_bytes);
        let useful = picture
            .saturating_mul(self.wishes.max_images)
            .saturating_mul(self.wishes.max_num_seqs);
        Some(part(PartKind::Cross, share.min(useful as u64), Known::Rule))
    }
}

fn part(kind: PartKind, bytes: u64, known: Known) -> Part {
    Part { kind, bytes, known }
}

/// The flag that gives the KV cache more.
pub(super) fn knob(machine: Machine, wishes: &Wishes) -> &'static str {
    let bounded = machine.place == Place::Cuda || wishes.utilization.is_some();
    if wishes.memory.is_none() && bounded {
        "`--gpu-memory-utilization`"
    } else {
        "`--kv-cache-memory`"
    }
}

/// What failed, in one sentence without an end.
pub(super) fn sentence(failure: &Failure, machine: Machine, wishes: &Wishes) -> String {
    match failure {
        Failure::Positions { wanted, most } => {
            format!("`--max-model-len` {wanted} exceeds the {most} positions that the model has")
        }
        Failure::NoBlock { bytes, block } => format!(
            "a KV cache of {} cannot hold one block of {}; raise {}",
            readable(*bytes),
            readable(*block),
            knob(machine, wishes)
        ),
        Failure::TooShort {
            wanted,
            needed,
            bytes,
        } => format!(
            "`--max-model-len` {wanted} needs {} of KV cache, there are {}; lower it or raise {}",
            readable(*needed),
            readable(*bytes),
            knob(machine, wishes)
        ),
        Failure::NoRoom { parts } => {
            let listed = |part: &Part| match part.kind {
                PartKind::KvCache => format!("the least KV cache {}", readable(part.bytes)),
                kind => format!("{} {}", kind.name(), readable(part.bytes)),
            };
            let kept = |part: &&Part| part.kind == PartKind::KeptFree;
            let needed: Vec<Part> = parts.iter().filter(|part| !kept(part)).copied().collect();
            let some = needed.iter().filter(|part| part.bytes > 0);
            let names: Vec<String> = some.map(listed).collect();
            let stays = parts.iter().find(kept).map_or_else(String::new, |part| {
                let kept = readable(part.bytes);
                format!(", of which {kept} are to stay so (`--gpu-memory-utilization`)")
            });
            format!(
                "it takes {} ({}), but {} of memory are free{stays}",
                readable(total(&needed)),
                names.join(", "),
                readable(machine.free)
            )
        }
    }
}
