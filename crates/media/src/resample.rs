//! Resampling with the exact arithmetic of the libraries that models are trained behind.
//!
//! A model's preprocessing names a resampler by library, and libraries differ by several levels
//! at sharp edges: in the kernel's width on downscaling, the bicubic parameter, the rounding, the
//! order of the passes. Each function here reproduces one of them; none is a general-purpose
//! scaler.

mod pil;
mod torch;

pub use pil::{Filter, Window, pil, pil_on_square, pil_window};
pub use torch::torch_bicubic;
