//! Plans for people and for programs.

use serde_json::{Value, json};
use vlmd_backend::BLOCK_TOKENS;
use vlmd_kernels::Place;

use super::parts::{MemoryPlan, Part, PartKind, readable, total};
use super::{Machine, Refusal};

/// Raised when a key changes its meaning or goes.
const VERSION: u32 = 1;

/// What a plan is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Title<'a> {
    pub(crate) model: &'a str,
    /// Type of the weights.
    pub(crate) dtype: &'a str,
    pub(crate) machine: Machine,
    /// Whether the memory was stated and not found.
    pub(crate) stated: bool,
}

impl Title<'_> {
    fn line(&self) -> String {
        let Self {
            model,
            dtype,
            machine,
            stated,
        } = self;
        let place = match (machine.place, stated) {
            (Place::Cpu, _) => "a CPU",
            (Place::Cuda, false) => "the CUDA device",
            (Place::Cuda, true) => "a CUDA device (`--gpu-memory`)",
        };
        let free = readable(machine.free);
        format!("{model}, weights {dtype}, on {place} with {free} of free memory\n")
    }

    fn json(&self) -> Value {
        json!({
            "version": VERSION,
            "model": self.model,
            "weights_dtype": self.dtype,
            "device": match self.machine.place {
                Place::Cpu => "cpu",
                Place::Cuda => "cuda",
            },
            "free_bytes": self.machine.free,
            "free_known": if self.stated { "flag" } else { "measured" },
        })
    }
}

/// Parts as a table, each with its size and how that is known, and the sum.
fn table(parts: &[Part], spare: u64) -> String {
    let row = |name: &str, bytes: u64, known: &str| {
        let line = format!("{name:<22}  {bytes:>15}  {:>11}  {known}", readable(bytes));
        format!("{}\n", line.trim_end())
    };
    let mut text = format!(
        "{:<22}  {:>15}  {:>11}  HOW KNOWN\n",
        "PART", "BYTES", "SIZE"
    );
    for part in parts {
        text += &row(part.kind.name(), part.bytes, part.known.explained());
    }
    if spare > 0 {
        text += &row("left over", spare, "");
    }
    text + &row("together", total(parts).saturating_add(spare), "")
}

/// A plan as text.
pub(crate) fn plan_text(title: &Title<'_>, plan: &MemoryPlan) -> String {
    let mut text = title.line() + &table(&plan.parts, plan.spare) + &summary(plan) + "\n";
    if plan.over > 0 {
        text += &format!(
            "These are upper bounds, and {} more than is free: a full load may run out of memory\n",
            readable(plan.over)
        );
    }
    text
}

/// What fits into the KV cache, in one line.
pub(crate) fn summary(plan: &MemoryPlan) -> String {
    format!(
        "KV cache of {} blocks of {BLOCK_TOKENS} tokens as {}: {} tokens; sequences at full context: \
         {}; max model length: {}",
        plan.kv_blocks,
        plan.kv_dtype,
        plan.kv_tokens(),
        plan.full_sequences(),
        plan.max_model_len
    )
}

/// Tells the log of a plan, part by part.
pub(crate) fn log(plan: &MemoryPlan) {
    for part in &plan.parts {
        tracing::info!(
            part = part.kind.key(),
            bytes = part.bytes,
            known = part.known.key(),
            "memory plan"
        );
    }
    tracing::info!(
        free = plan.free,
        spare = plan.spare,
        tokens = plan.kv_tokens(),
        max_model_len = plan.max_model_len,
        "memory plan"
    );
    if plan.over > 0 {
        tracing::warn!(
            bytes = plan.over,
            "the upper bounds of the memory plan exceed what is free: a full load may run out"
        );
    }
}

/// A plan as JSON.
pub(crate) fn plan_json(title: &Title<'_>, plan: &MemoryPlan) -> Value {
    let mut value = title.json();
    let parts: Vec<Value> = plan.parts.iter().map(Part::json).collect();
    extend(
        &mut value,
        json!({
            "fits": true,
            "parts": parts,
            "spare_bytes": plan.spare,
            "over_bytes": plan.over,
            "kv_cache": {
                "dtype": plan.kv_dtype.as_str(),
                "block_tokens": BLOCK_TOKENS,
                "blocks": plan.kv_blocks,
                "tokens": plan.kv_tokens(),
            },
            "max_model_len": plan.max_model_len,
            "sequences_at_full_length": plan.full_sequences(),
        }),
    );
    value
}

/// A refusal as text: what it would take, for the sentence that follows it.
pub(crate) fn refusal_text(title: &Title<'_>, refusal: &Refusal) -> String {
    let needed: Vec<Part> = needed(refusal);
    if needed.is_empty() {
        return title.line();
    }
    title.line() + &table(&needed, 0)
}

/// A refusal as JSON; `others` are models that would fit.
pub(crate) fn refusal_json(title: &Title<'_>, refusal: &Refusal, others: &[&str]) -> Value {
    let needed = needed(refusal);
    let mut value = title.json();
    let parts: Vec<Value> = needed.iter().map(Part::json).collect();
    extend(
        &mut value,
        json!({
            "fits": false,
            "parts": parts,
            "needed_bytes": total(&needed),
            "reason": refusal.reason,
            "advice": refusal.advice,
            "models_that_fit": others,
        }),
    );
    value
}

/// What has no place, without what was to stay free.
fn needed(refusal: &Refusal) -> Vec<Part> {
    let parts = refusal.parts.iter();
    parts
        .filter(|part| part.kind != PartKind::KeptFree)
        .copied()
        .collect()
}

fn extend(value: &mut Value, more: Value) {
    if let (Value::Object(value), Value::Object(more)) = (value, more) {
        value.extend(more);
    }
}
