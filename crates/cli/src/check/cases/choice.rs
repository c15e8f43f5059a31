//! What chooses the next token.

use candle_core::{DType, Device, Result, Tensor};

use super::{Case, Noise, Role, Route, Run, Sizes, Work, of};

/// Highest logits of a row that are asked for.
const COUNT: usize = 20;

/// The highest logits of a vocabulary; their places are held against each other, too.
pub(super) fn highest(sizes: &Sizes, _: DType, noise: &mut Noise) -> Result<Case> {
    let (rows, vocab) = (sizes.sequences, 8 * sizes.inner);
    let tensors = vec![(Role::Plain, noise.tensor(&[rows, vocab])?)];
    let work = Work {
        bytes: rows * vocab * size_of::<f32>(),
        flops: 0,
    };
    let shape = format!("{COUNT} of {rows} x {vocab}");
    let prepare = |tensors: &[Tensor], _: &Device, route| -> Result<Run> {
        let [logits] = of(tensors)?;
        Ok(match route {
            Route::Kernel => Box::new(move || {
                let found = vlmd_kernels::highest(&logits, COUNT)?;
                let ids = Tensor::new(found.ids, &Device::Cpu)?;
                Ok(vec![ids, Tensor::new(found.logits, &Device::Cpu)?])
            }),
            Route::Twin => Box::new(move || {
                let (sorted, ids) = logits.sort_last_dim(false)?;
                let first = |all: Tensor| all.narrow(1, 0, COUNT)?.flatten_all();
                Ok(vec![first(ids)?, first(sorted)?])
            }),
        })
    };
    Ok(Case::new(DType::F32, shape, tensors, work, prepare))
}
