//! `y = x W^T + b`, where rows of `x` and rows of `W` are both contiguous.
//!
//! Few rows of `x` make it a matter of memory: each weight is read once, widened in a register
//! and used for all rows. With many rows a panel of the weight is widened into the second-level
//! cache and reused from there, which makes it a matter of arithmetic. Both sum up an element in
//! the same order, blocks of [`DEPTH`] one after the other, so both give the same bits.

#![expect(
    unsafe_code,
    reason = "register tiles take rows by pointer; threads share the output by columns"
)]

use rayon::prelude::*;

use super::shared::Shared;
use super::simd::{Element, Kernel, Level, Simd, dispatch};
use super::tile::{DOT_COLUMNS, dots};

/// Elements of a row that are summed up before they are added to the result. Six rows of this
/// length fit the first-level cache beside what streams past them.
const DEPTH: usize = 1024;

/// Up to this many rows of `x` the weight is widened in registers, over and over.
const FEW_ROWS: usize = 8;

/// Columns of the result that a widened panel is made for: 256 KiB of f32 at most.
const PANEL_COLUMNS: usize = 64;

/// Fewest rows of `x` that are worth widening a panel for once more in another thread.
const SPLIT_ROWS: usize = 96;

/// Bytes of weights that make a task of their own when there are few rows.
const TASK_BYTES: usize = 128 << 10;

/// Multiplications below which waking other threads costs more than it gains.
const SERIAL_WORK: usize = 1 << 15;

/// A product to be computed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product<'a, E> {
    /// `[rows, depth]`
    pub(crate) x: &'a [f32],
    /// `[columns, depth]`
    pub(crate) weight: &'a [E],
    /// `[columns]`
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) depth: usize,
}

/// Computes `[rows, columns]` into `out`.
///
/// # Panics
/// When a slice is not as long as the sizes say.
pub(crate) fn product<E: Element>(level: Level, product: Product<'_, E>, out: &mut [f32]) {
    let Product {
        rows,
        columns,
        depth,
        ..
    } = product;
    assert_eq!(product.x.len(), rows * depth);
    assert_eq!(product.weight.len(), columns * depth);
    assert_eq!(out.len(), rows * columns);
    assert!(product.bias.is_none_or(|bias| bias.len() == columns));
    if out.is_empty() {
        return;
    }
    let (width, height) = task_size::<E>(rows, columns, depth);
    let (across, down) = (columns.div_ceil(width), rows.div_ceil(height));
    let out = Shared::new(out);
    let run = |task: usize| {
        let (column, row) = (task % across * width, task / across * height);
        dispatch(
            level,
            Block {
                product,
                out,
                row,
                rows: height.min(rows - row),
                column,
                columns: width.min(columns - column),
            },
        );
    };
    if across * down == 1 || rows * columns * depth < SERIAL_WORK {
        (0..across * down).for_each(run);
    } else {
        (0..across * down).into_par_iter().for_each(run);
    }
}

/// Columns and rows of the blocks that the result is cut into. Speed alone depends on them.
fn task_size<E: Element>(rows: usize, columns: usize, depth: usize) -> (usize, usize) {
    if rows <= FEW_ROWS {
        let row_bytes = (depth * size_of::<E>()).max(1);
        let width = (TASK_BYTES / row_bytes).next_multiple_of(DOT_COLUMNS);
        return (width.max(DOT_COLUMNS), rows);
    }
    let wanted = 4 * rayon::current_num_threads();
    let down = wanted.div_ceil(columns.div_ceil(PANEL_COLUMNS));
    (PANEL_COLUMNS, rows.div_ceil(down).max(SPLIT_ROWS))
}

/// One block of the result.
#[derive(Debug)]
struct Block<'a, E> {
    product: Product<'a, E>,
    out: Shared<'a>,
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
}

impl<E: Element> Kernel for Block<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        if self.rows <= FEW_ROWS {
            self.streamed(simd);
        } else {
            self.paneled(simd);
        }
    }
}

impl<E: Element> Block<'_, E> {
    /// Widens weights in registers.
    #[inline(always)]
    fn streamed<S: Simd>(&self, simd: S) {
        let depth = self.product.depth;
        for strip in (0..self.columns).step_by(DOT_COLUMNS) {
            for start in (0..depth.max(1)).step_by(DEPTH) {
                let place = Place {
                    row: 0,
                    rows: self.rows,
                    strip,
                    columns: DOT_COLUMNS.min(self.columns - strip),
                    start,
                    count: DEPTH.min(depth - start),
                };
                let x = Strided {
                    data: &self.product.x[self.row * depth + start..],
                    stride: depth,
                };
                let weights = Strided {
                    data: &self.product.weight[(self.column + strip) * depth + start..],
                    stride: depth,
                };
                self.tile(simd, x, weights, place);
            }
        }
    }

    /// Widens a panel of weights, then multiplies all rows with it.
    #[inline(always)]
    fn paneled<S: Simd>(&self, simd: S) {
        let depth = self.product.depth;
        let longest = DEPTH.min(depth);
        let mut buffer = vec![0f32; (self.columns + S::TILE_ROWS) * longest + LINE];
        let (panel, tile) = aligned(&mut buffer).split_at_mut(self.columns * longest);
        for start in (0..depth.max(1)).step_by(DEPTH) {
            let count = DEPTH.min(depth - start);
            for column in 0..self.columns {
                let from = &self.product.weight[(self.column + column) * depth + start..][..count];
                widen(simd, from, &mut panel[column * count..][..count]);
            }
            for row in (0..self.rows).step_by(S::TILE_ROWS) {
                let rows = S::TILE_ROWS.min(self.rows - row);
                // A few rows against the whole panel. They stay in the first-level cache, where
                // rows that lie some power of two apart would drive each other out: so in a copy.
                for i in 0..rows {
                    let from = &self.product.x[(self.row + row + i) * depth + start..][..count];
                    tile[i * count..][..count].copy_from_slice(from);
                }
                for strip in (0..self.columns).step_by(DOT_COLUMNS) {
                    let place = Place {
                        row,
                        rows,
                        strip,
                        columns: DOT_COLUMNS.min(self.columns - strip),
                        start,
                        count,
                    };
                    let x = Strided {
                        data: &*tile,
                        stride: count,
                    };
                    let weights = Strided {
                        data: &panel[strip * count..],
                        stride: count,
                    };
                    self.tile(simd, x, weights, place);
                }
            }
        }
    }

    /// Adds one block of depth to some rows of up to four columns.
    #[inline(always)]
    fn tile<S: Simd, W: Element>(
        &self,
        simd: S,
        x: Strided<'_, f32>,
        weights: Strided<'_, W>,
        place: Place,
    ) {
        let depth = self.product.depth;
        assert!(place.columns <= DOT_COLUMNS);
        assert!((place.columns - 1) * weights.stride + place.count <= weights.data.len());
        assert!((place.rows - 1) * x.stride + place.count <= x.data.len());
        let mut right = [weights.data.as_ptr(); DOT_COLUMNS];
        for (i, pointer) in right.iter_mut().enumerate() {
            let column = i.min(place.columns - 1);
            // Missing columns repeat the last one; their sums are dropped.
            // SAFETY: the row is within `weights`, as just checked.
            *pointer = unsafe { weights.data.as_ptr().add(column * weights.stride) };
        }
        let first = place.start == 0;
        let mut bias = [0.; DOT_COLUMNS];
        if let Some(all) = self.product.bias
            && place.start + place.count == depth
        {
            let own = &all[self.column + place.strip..][..place.columns];
            bias[..place.columns].copy_from_slice(own);
        }
        let corner = (self.row + place.row) * self.product.columns + self.column + place.strip;
        let emit = |row: usize, sums: [f32; DOT_COLUMNS]| {
            let start = corner + row * self.product.columns;
            // SAFETY: tasks own disjoint blocks of rows and columns, and this is within ours.
            let out = unsafe { self.out.part(start, place.columns) };
            let add = |out: &mut f32, i: usize| {
                *out = if first { sums[i] } else { *out + sums[i] } + bias[i];
            };
            if let Ok(out) = <&mut [f32; DOT_COLUMNS]>::try_from(&mut *out) {
                // Of known length, which makes one vector of it.
                for (i, out) in out.iter_mut().enumerate() {
                    add(out, i);
                }
            } else {
                for (i, out) in out.iter_mut().enumerate() {
                    add(out, i);
                }
            }
        };
        let (rows, count) = (place.rows, place.count);
        // SAFETY: both matrices were checked to hold the last row to its end.
        unsafe { dots(simd, x.data.as_ptr(), x.stride, rows, right, count, emit) };
    }
}

/// Rows that start `stride` apart.
#[derive(Debug, Clone, Copy)]
struct Strided<'a, T> {
    data: &'a [T],
    stride: usize,
}

/// Elements of f32 in a line of cache. A vector that crosses lines takes two loads.
const LINE: usize = 16;

/// What follows the first border between lines of cache.
fn aligned(buffer: &mut [f32]) -> &mut [f32] {
    let skip = buffer.as_ptr().align_offset(LINE * size_of::<f32>());
    &mut buffer[skip.min(LINE)..]
}

/// Where a tile lies within its block.
#[derive(Debug, Clone, Copy)]
struct Place {
    row: usize,
    rows: usize,
    strip: usize,
    columns: usize,
    start: usize,
    count: usize,
}

/// Converts to f32, exactly.
#[inline(always)]
pub(crate) fn widen<S: Simd, E: Element>(simd: S, from: &[E], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    let whole = from.len() / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        // SAFETY: `at + LANES` is within both.
        unsafe {
            let value = E::load(simd, from.as_ptr().add(at));
            simd.store(to.as_mut_ptr().add(at), value);
        }
    }
    for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
        *to = from.to_f32();
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::super::simd::Rounded;
    use super::*;
    use crate::parity::Noise;

    /// Numbers without a pattern, within -1..1.
    fn computed<E: Element>(
        level: Level,
        x: &[f32],
        w: &[E],
        bias: &[f32],
        depth: usize,
    ) -> Vec<f32> {
        let (rows, columns) = (x.len() / depth, bias.len());
        let mut out = vec![f32::NAN; rows * columns];
        let task = Product {
            x,
            weight: w,
            bias: Some(bias),
            rows,
            columns,
            depth,
        };
        product(level, task, &mut out);
        out
    }

    fn check<E: Rounded>() {
        // Odd sizes on purpose; the depths lie on both sides of a block.
        let cases = [
            (1, 1, 1),
            (1, 5, 3),
            (2, 7, 12),
            (5, 9, 100),
            (7, 66, 96),
            (8, 3, 1024),
            (9, 130, 33),
            (13, 64, 1025),
            (101, 70, 2100),
        ];
        for (rows, columns, depth) in cases {
            // The rounding of a sum of so many terms within -1..1.
            let tolerance = 1e-6 * (depth as f64).sqrt().max(2.);
            let x = Noise::new(1).vec(rows * depth);
            let w: Vec<E> = Noise::new(2)
                .vec(columns * depth)
                .into_iter()
                .map(E::from_f32)
                .collect();
            let bias = Noise::new(3).vec(columns);
            for level in Level::all() {
                let out = computed(level, &x, &w, &bias, depth);
                for row in 0..rows {
                    let x = &x[row * depth..][..depth];
                    for column in 0..columns {
                        let w = &w[column * depth..][..depth];
                        let exact: f64 = x
                            .iter()
                            .zip(w)
                            .map(|(&x, w)| f64::from(x) * f64::from(w.to_f32()))
                            .sum::<f64>()
                            + f64::from(bias[column]);
                        let error = (f64::from(out[row * columns + column]) - exact).abs();
                        assert!(
                            error < tolerance,
                            "{level:?} {rows}x{columns}x{depth}: {error}"
                        );
                    }
                    // The same row alone is the same to the last bit.
                    let alone = computed(level, x, &w, &bias, depth);
                    assert_eq!(alone, out[row * columns..][..columns], "{level:?}");
                }
            }
        }
    }

    #[test]
    fn a_product_is_right_and_the_same_for_a_row_alone_in_f32() {
        check::<f32>();
    }

    #[test]
    fn a_product_is_right_and_the_same_for_a_row_alone_in_bf16() {
        check::<bf16>();
    }

    #[test]
    fn a_product_is_right_and_the_same_for_a_row_alone_in_f16() {
        check::<f16>();
    }
}
