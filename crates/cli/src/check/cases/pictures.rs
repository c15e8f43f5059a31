//! What brings pictures to their towers.

use candle_core::{DType, Device, Result, Tensor};
use vlmd_kernels::twin;

use super::{Case, Noise, Role, Route, Sizes, Work, of, run};

/// Pixels per side of a patch, as in the towers of CLIP-L and Llama.
const PATCH: usize = 14;

/// Pictures that are cut together.
const PICTURES: usize = 4;

/// Pixels of a square picture's side that has about as many patches as `sizes` says.
fn side(sizes: &Sizes) -> usize {
    sizes.picture.isqrt().max(1) * PATCH
}

fn work(numbers: usize, read: usize, dtype: DType) -> Work {
    Work {
        bytes: numbers * (read + dtype.size_in_bytes()),
        flops: 0,
    }
}

/// Numbers are moved and rounded once: no other bit is right.
fn exact(case: Case) -> Case {
    Case {
        bound: Some(0.0),
        ..case
    }
}

/// Of pictures of 8 bits a colour.
pub(super) fn level_patches(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let side = side(sizes);
    let numbers = PICTURES * side * side * 3;
    let levels: Vec<u8> = (0..numbers).map(|_| noise.below(256) as u8).collect();
    let levels = Tensor::from_vec(levels, (PICTURES, side, side, 3), &Device::Cpu)?;
    let tensors = vec![
        (Role::Plain, levels),
        (Role::Plain, noise.tensor(&[3, 256])?),
    ];
    let shape = format!("{PICTURES} x {side} x {side}, by {PATCH}");
    let work = work(numbers, size_of::<u8>(), dtype);
    let prepare = move |tensors: &[Tensor], _: &Device, route| {
        let [levels, table] = of(tensors)?;
        match route {
            Route::Kernel => {
                run(move || vlmd_kernels::level_patches(&levels, &table, PATCH, dtype))
            }
            Route::Twin => run(move || twin::level_patches(&levels, &table, PATCH, dtype)),
        }
    };
    Ok(exact(Case::new(dtype, shape, tensors, work, prepare)))
}

/// Of pictures that are normalised already.
pub(super) fn value_patches(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let side = side(sizes);
    let numbers = PICTURES * side * side * 3;
    let tensors = vec![(Role::Plain, noise.tensor(&[PICTURES, 3, side, side])?)];
    let shape = format!("{PICTURES} x {side} x {side}, by {PATCH}");
    let work = work(numbers, size_of::<f32>(), dtype);
    let prepare = move |tensors: &[Tensor], _: &Device, route| {
        let [values] = of(tensors)?;
        match route {
            Route::Kernel => run(move || vlmd_kernels::value_patches(&values, PATCH, dtype)),
            Route::Twin => run(move || twin::value_patches(&values, PATCH, dtype)),
        }
    };
    Ok(exact(Case::new(dtype, shape, tensors, work, prepare)))
}
