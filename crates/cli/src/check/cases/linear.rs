//! Linear layers.

use candle_core::{DType, Result};
use vlmd_kernels::{Linear, twin};

use super::{Case, Noise, Role, Route, Sizes, Work, of, run};

/// A row for each sequence: bounded by reading the weight.
pub(super) fn decode(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    linear(sizes.sequences, sizes, dtype, noise)
}

/// A prompt's rows: bounded by arithmetic.
pub(super) fn prefill(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    linear(sizes.rows, sizes, dtype, noise)
}

fn linear(rows: usize, sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let (inputs, outputs) = (sizes.hidden, sizes.inner);
    let tensors = vec![
        (Role::Activation, noise.tensor(&[rows, inputs])?),
        (Role::Stored, noise.tensor(&[outputs, inputs])?),
        (Role::Stored, noise.tensor(&[outputs])?),
    ];
    let numbers = inputs * outputs + rows * (inputs + outputs);
    let work = Work {
        bytes: numbers * dtype.size_in_bytes(),
        flops: 2 * rows * inputs * outputs,
    };
    let shape = format!("{rows} x {inputs} to {outputs}");
    Ok(Case::new(
        dtype,
        shape,
        tensors,
        work,
        |tensors, _, route| {
            let [x, weight, bias] = of(tensors)?;
            match route {
                Route::Kernel => {
                    let layer = Linear::new(weight, Some(bias))?;
                    run(move || layer.forward(&x))
                }
                Route::Twin => run(move || twin::linear(&x, &weight, Some(&bias))),
            }
        },
    ))
}
