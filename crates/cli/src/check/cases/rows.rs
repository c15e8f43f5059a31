//! What works row by row: norms, activations, rotations.

use candle_core::{DType, Device, Result, Tensor};
use vlmd_kernels::twin;

use super::{Case, Noise, Role, Route, Run, Sizes, Work, of, run};

const EPS: f32 = 1e-5;

/// What reads `x` once and writes as much or less is bounded by that.
fn work(read: usize, written: usize, dtype: DType) -> Work {
    Work {
        bytes: (read + written) * dtype.size_in_bytes(),
        flops: 0,
    }
}

pub(super) fn rms_norm(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let (rows, width) = (sizes.rows, sizes.hidden);
    let tensors = vec![
        (Role::Activation, noise.tensor(&[rows, width])?),
        (Role::Stored, noise.tensor(&[width])?),
    ];
    let work = work(rows * width, rows * width, dtype);
    let shape = format!("{rows} x {width}");
    Ok(Case::new(
        dtype,
        shape,
        tensors,
        work,
        |tensors, _, route| {
            let [x, weight] = of(tensors)?;
            match route {
                Route::Kernel => run(move || vlmd_kernels::rms_norm(&x, &weight, EPS)),
                Route::Twin => run(move || twin::rms_norm(&x, &weight, EPS)),
            }
        },
    ))
}

/// The norm of a sum, and the sum.
pub(super) fn add_rms_norm(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let (rows, width) = (sizes.rows, sizes.hidden);
    let tensors = vec![
        (Role::Activation, noise.tensor(&[rows, width])?),
        (Role::Activation, noise.tensor(&[rows, width])?),
        (Role::Stored, noise.tensor(&[width])?),
    ];
    let work = work(2 * rows * width, 2 * rows * width, dtype);
    let shape = format!("{rows} x {width}");
    let prepare = |tensors: &[Tensor], _: &Device, route| -> Result<Run> {
        let [x, added, weight] = of(tensors)?;
        Ok(match route {
            Route::Kernel => Box::new(move || {
                let (sum, normed) = vlmd_kernels::add_rms_norm(&x, &added, &weight, EPS)?;
                Ok(vec![sum, normed])
            }),
            Route::Twin => Box::new(move || {
                let sum = (&x + &added)?;
                let normed = twin::rms_norm(&sum, &weight, EPS)?;
                Ok(vec![sum, normed])
            }),
        })
    };
    Ok(Case::new(dtype, shape, tensors, work, prepare))
}

pub(super) fn layer_norm(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let (rows, width) = (sizes.rows, sizes.hidden);
    let tensors = vec![
        (Role::Activation, noise.tensor(&[rows, width])?),
        (Role::Stored, noise.tensor(&[width])?),
        (Role::Stored, noise.tensor(&[width])?),
    ];
    let work = work(rows * width, rows * width, dtype);
    let shape = format!("{rows} x {width}");
    Ok(Case::new(
        dtype,
        shape,
        tensors,
        work,
        |tensors, _, route| {
            let [x, weight, bias] = of(tensors)?;
            match route {
                Route::Kernel => run(move || vlmd_kernels::layer_norm(&x, &weight, &bias, EPS)),
                Route::Twin => run(move || twin::layer_norm(&x, &weight, &bias, EPS)),
            }
        },
    ))
}

type Activation = fn(&Tensor) -> Result<Tensor>;

/// A kernel of one tensor `[rows, width]`, of which `written` numbers become of a row.
fn activation(
    (rows, width, written): (usize, usize, usize),
    dtype: DType,
    noise: &mut Noise,
    (kernel, twin): (Activation, Activation),
) -> Result<Case> {
    // Wide enough for what bends to bend.
    let x = noise.tensor(&[rows, width])?.affine(6.0, 0.0)?;
    let work = work(rows * width, rows * written, dtype);
    let shape = format!("{rows} x {width}");
    let tensors = vec![(Role::Activation, x)];
    let prepare = move |tensors: &[Tensor], _: &_, route| {
        let [x] = of(tensors)?;
        match route {
            Route::Kernel => run(move || kernel(&x)),
            Route::Twin => run(move || twin(&x)),
        }
    };
    Ok(Case::new(dtype, shape, tensors, work, prepare))
}

pub(super) fn swiglu(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let shape = (sizes.rows, 2 * sizes.inner, sizes.inner);
    activation(shape, dtype, noise, (vlmd_kernels::swiglu, twin::swiglu))
}

pub(super) fn gelu(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let shape = (sizes.rows, sizes.inner, sizes.inner);
    activation(shape, dtype, noise, (vlmd_kernels::gelu, twin::gelu))
}

pub(super) fn quick_gelu(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let shape = (sizes.rows, sizes.inner, sizes.inner);
    let routes: (Activation, Activation) = (vlmd_kernels::quick_gelu, twin::quick_gelu);
    activation(shape, dtype, noise, routes)
}

pub(super) fn squared_relu(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let shape = (sizes.rows, sizes.inner, sizes.inner);
    let routes: (Activation, Activation) = (vlmd_kernels::squared_relu, twin::squared_relu);
    activation(shape, dtype, noise, routes)
}

pub(super) fn softmax(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let shape = (sizes.rows, sizes.keys, sizes.keys);
    activation(shape, dtype, noise, (vlmd_kernels::softmax, twin::softmax))
}

pub(super) fn rope(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let (rows, heads, width) = (sizes.rows, sizes.heads, sizes.head_dim);
    let angles = noise.tensor(&[rows, width / 2])?.affine(3.0, 0.0)?;
    let tensors = vec![
        (Role::Activation, noise.tensor(&[rows, heads, width])?),
        (Role::Activation, angles.cos()?),
        (Role::Activation, angles.sin()?),
    ];
    let numbers = rows * heads * width;
    let work = work(numbers + rows * width, numbers, dtype);
    let shape = format!("{rows} x {heads} x {width}");
    Ok(Case::new(
        dtype,
        shape,
        tensors,
        work,
        |tensors, _, route| {
            let [x, cos, sin] = of(tensors)?;
            match route {
                Route::Kernel => run(move || vlmd_kernels::rope(&x, &cos, &sin)),
                Route::Twin => run(move || twin::rope(&x, &cos, &sin)),
            }
        },
    ))
}
