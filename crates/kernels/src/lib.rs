//! The computing part of every model: attention over a paged cache, linear layers, norms,
//! activations, rotary embedding and the loading of weights. Tensors in, tensors out.
//!
//! Each function looks at where its tensors are:
//!
//! * On the **CPU** it runs this crate's own kernels (`cpu`). Activations are f32, sums are f32,
//!   weights and the cache keep their 16-bit or 8-bit form and are widened in registers. AVX-512, AVX2
//!   or plain code is chosen once, when the first kernel runs.
//! * On **NVIDIA cards** it runs its own kernels, too (`cuda`), where it has one for the operation
//!   and the dtype: activations are f32, f16 or bf16, sums are f32.
//! * For **everything else** it takes a route of candle's own operations (`portable`), in the
//!   dtype of the weights. The tests hold the routes against each other on the same tensors.
//!
//! # Threads
//!
//! The CPU kernels split their work on rayon's global pool, the one that candle uses too, so
//! `RAYON_NUM_THREADS` bounds them both. How the work is split never shows in a result.
//!
//! # The same row, whatever else is in the batch
//!
//! A server answers many requests in one step, and what it answers to one must not depend on
//! the others. On the CPU it does not, to the last bit: a row of [`Linear::forward`] is the
//! same sum in the same order for any number of rows, norms and activations work row by row,
//! and a row of [`paged_attention()`] depends on nothing but its own sequence. That holds on one
//! machine; another instruction set sums up in another order.

mod activation;
mod attention;
mod cards;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
pub mod draw;
mod linear;
mod norm;
mod paged_attention;
mod pages;
mod patches;
mod portable;
mod qkv;
mod ragged;
mod rope;
mod route;
mod scratch;
pub mod twin;
mod watch;
pub mod weights;
#[cfg(any(feature = "cuda", test))]
mod work;

#[cfg(test)]
mod parity;

pub use activation::{gelu, quick_gelu, softmax, squared_relu, swiglu};
pub use attention::attention;
pub use cards::{Capability, DriverError, Family, cards, family_for};
pub use device::{CudaBuild, CudaCard, CudaDriver, cuda_build, cuda_driver, free_cuda_memory};
pub use draw::{Draw, Terms, draw};
pub use linear::Linear;
pub use norm::{add_layer_norm, add_rms_norm, layer_norm, rms_norm};
pub use paged_attention::{paged_attention, write_kv};
pub use pages::Pages;
pub use patches::{level_patches, value_patches};
pub use qkv::qkv_rope_write;
pub use ragged::{PAGE_TOKENS, Ragged, RaggedLayout};
pub use rope::rope;
pub use scratch::{Attended, Place, attention_scratch, paged_attention_scratch};
pub use watch::MemoryWatch;
