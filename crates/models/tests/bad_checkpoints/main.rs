//! Damaged, foreign and hostile checkpoints: each is refused with one sentence that names the file
//! and the reason, and nothing is half-loaded.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

#[path = "../common/checkpoint.rs"]
mod checkpoint;
mod families;
mod phi3_v;
mod phi3_v_config;
mod settings;
mod support;
