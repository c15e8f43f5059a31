//! Every architecture against the reference implementation, on the goldens that
//! `tests/reference` makes; see [`support::suite`] for the rungs.
//!
//! `VLMD_GOLDENS=dir:dir cargo test -p vlmd-models --test golden` runs further ones, too.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

#[path = "../common/checkpoint.rs"]
mod checkpoint;
mod kosmos2;
mod llava;
mod mllama;
mod neva;
mod phi3_v;
mod spellings;
mod support;
