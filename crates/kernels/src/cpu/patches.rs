//! Pictures as rows of patches, a strip of them a task.

use candle_core::{DType, Device, Result, Tensor, WithDType, bail};
use half::{bf16, f16};
use rayon::prelude::*;

use super::host::{with_bytes, with_f32};
use super::simd::Rounded;
use crate::patches::{COLOURS, Cut, LEVELS};

/// Runs the expression with `$E` as the type of a dtype.
macro_rules! for_dtype {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $E = f32;
                $body
            }
            DType::F16 => {
                type $E = f16;
                $body
            }
            DType::BF16 => {
                type $E = bf16;
                $body
            }
            other => bail!("CPU kernels give f32, f16 or bf16, not {other:?}"),
        }
    };
}

/// See [`crate::level_patches`], which checks what is given.
pub(crate) fn level_patches(
    levels: &Tensor,
    table: &Tensor,
    cut: Cut,
    dtype: DType,
) -> Result<Tensor> {
    with_f32(table, |table| {
        with_bytes(
            &levels.contiguous()?,
            |levels| for_dtype!(dtype, E => tensor(of_levels::<E>(levels, table, cut), cut)),
        )
    })
}

/// See [`crate::value_patches`], which checks what is given.
pub(crate) fn value_patches(values: &Tensor, cut: Cut, dtype: DType) -> Result<Tensor> {
    with_f32(
        values,
        |values| for_dtype!(dtype, E => tensor(of_values::<E>(values, cut), cut)),
    )
}

fn tensor<E: WithDType>(patches: Vec<E>, cut: Cut) -> Result<Tensor> {
    Tensor::from_vec(patches, cut.shape(), &Device::Cpu)
}

fn of_levels<E: Rounded + Send>(levels: &[u8], table: &[f32], cut: Cut) -> Vec<E> {
    // Rounded here, once for all pixels.
    let table: [[E; LEVELS]; COLOURS] = std::array::from_fn(|colour| {
        std::array::from_fn(|level| E::from_f32(table[colour * LEVELS + level]))
    });
    by_rows(cut, |row, out| {
        let first = (row.picture * cut.height + row.y) * cut.width + row.x;
        let pixels = &levels[first * COLOURS..][..out.len() * COLOURS];
        let becomes = &table[row.colour];
        for (out, pixel) in out.iter_mut().zip(pixels.chunks_exact(COLOURS)) {
            *out = becomes[usize::from(pixel[row.colour])];
        }
    })
}

fn of_values<E: Rounded + Send>(values: &[f32], cut: Cut) -> Vec<E> {
    by_rows(cut, |row, out| {
        let plane = row.picture * COLOURS + row.colour;
        let first = (plane * cut.height + row.y) * cut.width + row.x;
        for (out, &value) in out.iter_mut().zip(&values[first..]) {
            *out = E::from_f32(value);
        }
    })
}

/// A row of a patch in one colour.
struct Row {
    picture: usize,
    colour: usize,
    /// Where in the picture it begins, in pixels.
    y: usize,
    x: usize,
}

/// Fills rows of patches, of which `fill` knows each.
fn by_rows<E: Rounded + Send>(cut: Cut, fill: impl Fn(Row, &mut [E]) + Sync) -> Vec<E> {
    let side = cut.patch;
    let strip = |(index, strip): (usize, &mut [E])| {
        let (picture, top) = (index / cut.strips(), index % cut.strips() * side);
        for (column, patch) in strip.chunks_exact_mut(COLOURS * side * side).enumerate() {
            for (colour, plane) in patch.chunks_exact_mut(side * side).enumerate() {
                for (y, out) in plane.chunks_exact_mut(side).enumerate() {
                    let row = Row {
                        picture,
                        colour,
                        y: top + y,
                        x: column * side,
                    };
                    fill(row, out);
                }
            }
        }
    };
    let mut out = vec![E::from_f32(0.); cut.count * cut.strips() * cut.strip()];
    out.par_chunks_mut(cut.strip()).enumerate().for_each(strip);
    out
}
