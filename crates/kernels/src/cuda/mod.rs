//! This crate's own CUDA kernels: what is in here brings tensors to them. The kernels are in the
//! crate's folder `cuda`, with what they compute and how; `build.rs` makes PTX of them.

mod activations;
mod attention;
mod dense_attention;
mod draw;
mod launch;
mod norms;
mod paged_attention;
mod patches;
mod rotary;
mod write_codes;

pub(crate) use activations::{quick_gelu, squared_relu, swiglu};
pub(crate) use dense_attention::attention;
pub(crate) use draw::draw;
pub(crate) use norms::{layer_norm, rms_norm};
pub(crate) use paged_attention::{StepIndex, paged_attention};
pub(crate) use patches::{level_patches, value_patches};
pub(crate) use rotary::{qkv_rope_write, rope};
pub(crate) use write_codes::{qkv_rope_write_codes, write_kv_codes};
