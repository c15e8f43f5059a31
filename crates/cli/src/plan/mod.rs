//! What the device's memory is for: planned in full before anything is allocated.
//!
//! One plan serves everybody who asks. `vlmd serve --plan-only` prints it; a model of the catalog
//! is refused by it before it is fetched, and a checkpoint before its weights are read; and the
//! server sizes its caches by it when the weights are there.
//!
//! What is asked for ([`Wishes`]) and what the model needs ([`vlmd_models::Need`]) meet a device
//! ([`Machine`]) in [`solve()`], which gives every part of the memory a name and a size ([`PartKind`]),
//! or says what would fit ([`Refusal`]).

mod args;
mod command;
mod machine;
mod parts;
mod profile;
mod refusal;
mod show;
mod solve;
mod wishes;

pub(crate) use args::PlanArgs;
pub(crate) use command::{admit_card, print};
pub(crate) use machine::{Machine, free_memory};
pub(crate) use parts::{Known, MemoryPlan, PartKind, readable};
pub(crate) use profile::{Profile, profile};
pub(crate) use refusal::Refusal;
pub(crate) use show::log;
pub(crate) use solve::{Subject, solve};
pub(crate) use wishes::Wishes;

#[cfg(test)]
mod tests;
