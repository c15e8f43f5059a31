//! Activations; see `cuda/activations.cu`.

#![expect(unsafe_code, reason = "kernels are launched")]

use candle_core::{D, Result, Tensor};

use super::launch::{Argument, Grid, Module, launch, module, suffix, unwritten};

const ACTIVATIONS: Module = module!("activations");

const THREADS: usize = 256;

/// Numbers that a thread is meant to see to.
const EACH: usize = 8;

/// See [`crate::swiglu`].
pub(crate) fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    let gate_up = gate_up.contiguous()?;
    let width = gate_up.dim(D::Minus1)? / 2;
    let mut shape = gate_up.dims().to_vec();
    shape.pop();
    let rows = shape.iter().product::<usize>();
    shape.push(width);
    if rows * width == 0 {
        // A view: some drivers refuse to allocate nothing.
        return gate_up.narrow(D::Minus1, 0, width);
    }
    // SAFETY: the kernel writes all of it.
    let out = unsafe { unwritten(&shape, &gate_up) }?;
    let kernel = format!("swiglu_{}", suffix(gate_up.dtype())?);
    let grid = Grid {
        blocks: (
            rows,
            width.div_ceil(THREADS * EACH).min(usize::from(u16::MAX)),
        ),
        threads: THREADS,
    };
    let arguments = [
        Argument::Tensor(&gate_up),
        Argument::Tensor(&out),
        Argument::Int(width),
    ];
    // SAFETY: the parameters of `activations.cu`; both are dense, of one dtype and of its shapes.
    unsafe { launch(gate_up.device(), ACTIVATIONS, &kernel, grid, &arguments) }?;
    Ok(out)
}

/// See [`crate::quick_gelu`].
pub(crate) fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    map("quick_gelu", x)
}

/// See [`crate::squared_relu`].
pub(crate) fn squared_relu(x: &Tensor) -> Result<Tensor> {
    map("squared_relu", x)
}

fn map(kernel: &str, x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let count = x.elem_count();
    if count == 0 {
        return Ok(x);
    }
    // SAFETY: the kernel writes all of it.
    let out = unsafe { unwritten(x.dims(), &x) }?;
    let kernel = format!("{kernel}_{}", suffix(x.dtype())?);
    let grid = Grid {
        blocks: (count.div_ceil(THREADS * EACH).min(i32::MAX as usize), 1),
        threads: THREADS,
    };
    let arguments = [
        Argument::Tensor(&x),
        Argument::Tensor(&out),
        Argument::Size(count),
    ];
    // SAFETY: the parameters of `activations.cu`; both are dense, of one dtype and `count` long.
    unsafe { launch(x.device(), ACTIVATIONS, &kernel, grid, &arguments) }?;
    Ok(out)
}
