//! The highest logits of each row.

use candle_core::{DType, Result, Tensor, bail};

use crate::cpu;

/// Most logits of a row that [`highest`] gives.
pub const MOST_HIGHEST: usize = 64;

/// Some logits of each row, the highest first and equal ones by index; zeros of either sign are
/// equal. NaN comes before all others.
#[derive(Debug, Clone, PartialEq)]
pub struct Highest {
    /// `[rows, count]`, row-major: where in its row each stands.
    pub ids: Vec<u32>,
    /// `[rows, count]`: what stands there.
    pub logits: Vec<f32>,
}

/// The `count` highest of each row of `logits`, `[rows, width]` in f32, brought to the host: of
/// a row of the vocabulary that is a thousandth part.
///
/// # Errors
/// When `logits` is not f32, `count` is 0 or more than [`MOST_HIGHEST`] or the width, or the
/// device fails or has no kernel for it.
pub fn highest(logits: &Tensor, count: usize) -> Result<Highest> {
    let (rows, width) = logits.dims2()?;
    if logits.dtype() != DType::F32 {
        bail!("logits are f32, not {:?}", logits.dtype());
    }
    if count == 0 || count > MOST_HIGHEST.min(width) {
        bail!("{count} of the highest of {width} logits are wanted, at most {MOST_HIGHEST}");
    }
    if rows == 0 {
        return Ok(Highest {
            ids: Vec::new(),
            logits: Vec::new(),
        });
    }
    match logits.device() {
        candle_core::Device::Cpu => cpu::highest(logits, count),
        #[cfg(feature = "cuda")]
        candle_core::Device::Cuda(_) => crate::cuda::highest(logits, count),
        _ => bail!("this device has no kernel for the highest logits"),
    }
}
