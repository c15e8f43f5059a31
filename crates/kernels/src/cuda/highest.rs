//! The highest logits; see `cuda/highest.cu`.

#![expect(unsafe_code, reason = "a kernel is launched")]

use candle_core::{DType, Result, Tensor};

use super::launch::{Argument, Grid, Module, launch, module};
use crate::highest::Highest;

const HIGHEST: Module = module!("highest");

/// `THREADS` of the kernel.
const THREADS: usize = 512;

/// See [`crate::highest()`], which checks what is given.
pub(crate) fn highest(logits: &Tensor, count: usize) -> Result<Highest> {
    let (rows, width) = logits.dims2()?;
    let logits = logits.contiguous()?;
    let device = logits.device();
    // SAFETY: the kernel writes all of both before the host reads them.
    let (ids, values) = unsafe {
        (
            Tensor::empty((rows, count), DType::U32, device)?,
            Tensor::empty((rows, count), DType::F32, device)?,
        )
    };
    let grid = Grid {
        blocks: (rows, 1),
        threads: THREADS,
    };
    let arguments = [
        Argument::Tensor(&logits),
        Argument::Tensor(&ids),
        Argument::Tensor(&values),
        Argument::Int(width),
        Argument::Int(count),
    ];
    // SAFETY: the parameters of `highest.cu`; all arrays are dense and as large as it says, and
    // `count` is at most the width and its threads.
    unsafe { launch(device, HIGHEST, "highest_f32", grid, &arguments) }?;
    Ok(Highest {
        ids: ids.flatten_all()?.to_vec1()?,
        logits: values.flatten_all()?.to_vec1()?,
    })
}
