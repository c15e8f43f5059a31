//! Pictures as rows of patches; see `cuda/patches.cu`.

#![expect(unsafe_code, reason = "kernels are launched")]

use candle_core::{DType, Device, Result, Tensor};

use super::launch::{Argument, Grid, Module, launch, module, suffix};
use crate::patches::Cut;

const PATCHES: Module = module!("patches");

const THREADS: usize = 256;

/// Numbers that a thread is meant to see to: two wide stores of 16-bit types.
const EACH: usize = 16;

/// See [`crate::level_patches`], which checks what is given.
pub(crate) fn level_patches(
    levels: &Tensor,
    table: &Tensor,
    cut: Cut,
    dtype: DType,
) -> Result<Tensor> {
    let (levels, table) = (levels.contiguous()?, table.contiguous()?);
    // SAFETY: the kernel writes all of it.
    let out = unsafe { unwritten(cut, dtype, levels.device()) }?;
    let kernel = format!("level_patches_{}", suffix(dtype)?);
    let arguments = [
        Argument::Tensor(&levels),
        Argument::Tensor(&table),
        Argument::Tensor(&out),
        Argument::Int(cut.strip()),
        Argument::Int(cut.patch),
        Argument::Int(cut.width),
    ];
    // SAFETY: the parameters of `patches.cu`; all are dense, of its types and shapes.
    unsafe { launch(levels.device(), PATCHES, &kernel, grid(cut), &arguments) }?;
    Ok(out)
}

/// See [`crate::value_patches`], which checks what is given.
pub(crate) fn value_patches(values: &Tensor, cut: Cut, dtype: DType) -> Result<Tensor> {
    let values = values.contiguous()?;
    // SAFETY: the kernel writes all of it.
    let out = unsafe { unwritten(cut, dtype, values.device()) }?;
    let kernel = format!("value_patches_{}", suffix(dtype)?);
    let arguments = [
        Argument::Tensor(&values),
        Argument::Tensor(&out),
        Argument::Int(cut.strip()),
        Argument::Int(cut.patch),
        Argument::Int(cut.width),
        Argument::Int(cut.height),
    ];
    // SAFETY: the parameters of `patches.cu`; both are dense, of its types and shapes.
    unsafe { launch(values.device(), PATCHES, &kernel, grid(cut), &arguments) }?;
    Ok(out)
}

/// A tensor for a kernel to fill.
///
/// # Safety
/// Before anything else reads it, a kernel is launched that writes every element.
unsafe fn unwritten(cut: Cut, dtype: DType, device: &Device) -> Result<Tensor> {
    // SAFETY: the same contract.
    unsafe { Tensor::empty(cut.shape(), dtype, device) }
}

fn grid(cut: Cut) -> Grid {
    let shares = cut.strip().div_ceil(THREADS * EACH);
    Grid {
        blocks: (cut.count * cut.strips(), shares.min(usize::from(u16::MAX))),
        threads: THREADS,
    }
}
