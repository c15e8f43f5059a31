//! What would fit, where what was asked for does not.

use std::fmt;

use vlmd_kernels::Place;
use vlmd_models::Need;

use super::parts::{Known, Part, PartKind, readable};
use super::solve::{Failure, Subject, attempt, sentence};
use super::{Machine, Wishes};
use crate::args::ByteSize;

/// The smallest step that is offered: fewer tokens make prompts needlessly slow.
const LEAST_STEP: usize = 256;

/// Why a model has no place, with numbers, and what would have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What was asked for and what there is.
    pub(crate) reason: String,
    /// Each a way to make it fit; or why there is none.
    pub(crate) advice: Vec<String>,
    /// The parts that do not fit, where that is the reason.
    pub(crate) parts: Vec<Part>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        for advice in &self.advice {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// Adds to a failure what would fit.
pub(super) fn explain(
    failure: Failure,
    subject: Subject<'_>,
    machine: Machine,
    wishes: &Wishes,
) -> Refusal {
    let reason = sentence(&failure, machine, wishes);
    match failure {
        Failure::NoRoom { parts } => Refusal {
            reason,
            advice: ways(subject, machine, wishes),
            parts,
        },
        Failure::Positions { .. } | Failure::NoBlock { .. } | Failure::TooShort { .. } => Refusal {
            reason,
            advice: Vec::new(),
            parts: Vec::new(),
        },
    }
}

/// Changes that make it fit, each by itself; else what it takes at the least.
fn ways(subject: Subject<'_>, machine: Machine, wishes: &Wishes) -> Vec<String> {
    let length = |wishes: &Wishes, need: &Need| {
        let plan = attempt(Subject { need, ..subject }, machine, wishes).ok()?;
        Some(plan.max_model_len)
    };
    let need = subject.need;
    let mut ways = Vec::new();
    let half = need.in_half();
    let narrower = half.weight_bytes < need.weight_bytes;
    if narrower && length(wishes, &half).is_some() {
        let weights = readable(half.weight_bytes);
        ways.push(format!(
            "with `--dtype bf16` the weights take {weights}, which fits"
        ));
    }
    if let Some(wanted) = wishes.max_model_len {
        let free = Wishes {
            max_model_len: None,
            ..*wishes
        };
        if let Some(len) = length(&free, need).filter(|&len| len < wanted) {
            ways.push(format!("`--max-model-len` {len} fits"));
        }
    }
    if let Some(size) = least_cache(subject, machine, wishes) {
        let size = readable(size);
        ways.push(format!("a `--kv-cache-memory` of {size} fits"));
    }
    if let Some(asked) = wishes.cross_memory {
        let free = Wishes {
            cross_memory: None,
            ..*wishes
        };
        if let Ok(plan) = attempt(subject, machine, &free) {
            let fits = plan.bytes(PartKind::Cross);
            if fits < asked.0 {
                let fits = readable(fits);
                ways.push(format!("`--cross-attention-memory` {fits} fits"));
            }
        }
    }
    if let Some((smaller, len)) = smaller_step(subject, machine, wishes) {
        let tokens = smaller.max_num_batched_tokens;
        let mut flags = format!("`--max-num-batched-tokens {tokens}`");
        if smaller.encoder_cache < wishes.encoder_cache {
            flags += " and `--encoder-cache-memory 0`";
        }
        ways.push(format!(
            "with {flags} it fits, with contexts of {len} tokens"
        ));
    }
    if ways.is_empty() {
        ways.push(least(subject, machine, wishes));
    }
    ways
}

/// The KV cache that fits where a larger one was asked for.
fn least_cache(subject: Subject<'_>, machine: Machine, wishes: &Wishes) -> Option<u64> {
    let asked = wishes.memory?;
    let without = Wishes {
        memory: None,
        utilization: Some(1.0),
        max_model_len: None,
        ..*wishes
    };
    let plan = attempt(subject, machine, &without).ok()?;
    let fits = plan.bytes(PartKind::KvCache);
    (fits < asked.0).then_some(fits)
}

/// The largest smaller step with which it fits, if need be without kept features, and the context
/// that goes with it.
fn smaller_step(
    subject: Subject<'_>,
    machine: Machine,
    wishes: &Wishes,
) -> Option<(Wishes, usize)> {
    // What a run has shown was of the larger step.
    let subject = Subject {
        profile: None,
        ..subject
    };
    let least = LEAST_STEP.max(wishes.max_num_seqs);
    let halves = std::iter::successors(Some(wishes.max_num_batched_tokens / 2), |n| Some(n / 2));
    let halves: Vec<usize> = halves.take_while(|&tokens| tokens >= least).collect();
    let caches = [wishes.encoder_cache, 0];
    let steps = caches
        .iter()
        .flat_map(|&cache| halves.iter().map(move |&tokens| (cache, tokens)));
    for (encoder_cache, max_num_batched_tokens) in steps {
        let smaller = Wishes {
            encoder_cache,
            max_num_batched_tokens,
            ..*wishes
        };
        if let Ok(plan) = attempt(subject, machine, &smaller) {
            return Some((smaller, plan.max_model_len));
        }
    }
    None
}

/// What the model takes at the least, and what vlmd cannot do about it.
fn least(subject: Subject<'_>, machine: Machine, wishes: &Wishes) -> String {
    let narrow = subject.need.in_half();
    let need = if narrow.weight_bytes < subject.need.weight_bytes {
        &narrow
    } else {
        subject.need
    };
    let subject = Subject {
        need,
        weights: Known::Headers,
        profile: None,
    };
    let small = Wishes {
        memory: None,
        max_model_len: None,
        max_num_batched_tokens: LEAST_STEP
            .max(wishes.max_num_seqs)
            .min(wishes.max_num_batched_tokens),
        cross_memory: wishes.cross_memory.map(|_| ByteSize(0)),
        encoder_cache: 0,
        ..*wishes
    };
    let fits = |free: u64| attempt(subject, Machine { free, ..machine }, &small).is_ok();
    let mut above = machine.free.max(1);
    while !fits(above) {
        match above.checked_mul(2) {
            Some(more) => above = more,
            None => return "no device holds it".to_owned(),
        }
    }
    let mut below = machine.free;
    // To the mebibyte.
    while above - below > 1 << 20 {
        let middle = below.midpoint(above);
        if fits(middle) {
            above = middle;
        } else {
            below = middle;
        }
    }
    let least = readable(above);
    let settings = "bf16 weights, small steps and a short context";
    match machine.place {
        Place::Cpu => format!("it takes {least} of free memory at least, with {settings}"),
        Place::Cuda => format!(
            "it takes a device with {least} of free memory at least, with {settings}: vlmd has no \
             weights of 8 or 4 bits, and does not spread a model over several devices"
        ),
    }
}
