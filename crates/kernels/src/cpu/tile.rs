//! The two innermost loops, which all products of matrices are made of.
//!
//! Both fix the order in which one element of the result is summed up, whatever tile the element
//! is computed in. That is what makes results independent of the size of a batch.

#![expect(
    unsafe_code,
    reason = "register tiles walk several rows by pointer, without bounds checks"
)]

use super::simd::{Element, MAX_LANES, Simd};

/// Columns of a tile of [`dots`].
pub(crate) const DOT_COLUMNS: usize = 4;

/// Adds the products of the elements `at..at + LANES`.
///
/// # Safety
/// All rows are readable there.
#[inline(always)]
unsafe fn dot_step<S: Simd, E: Element, const R: usize>(
    simd: S,
    left: [*const f32; R],
    right: [*const E; DOT_COLUMNS],
    at: usize,
    sums: &mut [[S::V; DOT_COLUMNS]; R],
) {
    let mut l = [simd.splat(0.); R];
    for r in 0..R {
        // SAFETY: the caller's promise.
        l[r] = unsafe { simd.load(left[r].add(at)) };
    }
    for c in 0..DOT_COLUMNS {
        // SAFETY: the caller's promise.
        let w = unsafe { E::load(simd, right[c].add(at)) };
        for r in 0..R {
            sums[r][c] = simd.mul_add(l[r], w, sums[r][c]);
        }
    }
}

/// Dot products of `R` left rows with four right rows, `depth` elements each.
///
/// Lane `l` adds up the elements `l`, `l + LANES`, `l + 2 * LANES`, ..; then the lanes are added.
///
/// # Safety
/// All rows are readable for `depth` elements.
#[inline(always)]
unsafe fn dot_tile<S: Simd, E: Element, const R: usize>(
    simd: S,
    left: [*const f32; R],
    right: [*const E; DOT_COLUMNS],
    depth: usize,
) -> [[f32; DOT_COLUMNS]; R] {
    let whole = depth / S::LANES * S::LANES;
    let rest = depth - whole;
    // What is left over is filled up with 0 beforehand. Anything but arithmetic between the loop
    // and the sums over lanes would make the compiler move all sums out of their registers.
    let mut left_rest = [[0f32; MAX_LANES]; R];
    let mut right_rest = [[E::default(); MAX_LANES]; DOT_COLUMNS];
    for i in 0..rest {
        // SAFETY: `whole + i < depth`.
        unsafe {
            for r in 0..R {
                left_rest[r][i] = left[r].add(whole + i).read();
            }
            for c in 0..DOT_COLUMNS {
                right_rest[c][i] = right[c].add(whole + i).read();
            }
        }
    }
    let mut sums = [[simd.splat(0.); DOT_COLUMNS]; R];
    let mut at = 0;
    while at < whole {
        // SAFETY: `at + LANES <= depth`.
        unsafe { dot_step(simd, left, right, at, &mut sums) };
        at += S::LANES;
    }
    if rest > 0 {
        let left = left_rest.each_ref().map(|row| row.as_ptr());
        let right = right_rest.each_ref().map(|row| row.as_ptr());
        // SAFETY: the buffers hold whole vectors.
        unsafe { dot_step(simd, left, right, 0, &mut sums) };
    }
    let mut out = [[0.; DOT_COLUMNS]; R];
    for r in 0..R {
        out[r] = simd.sum4(sums[r]);
    }
    out
}

/// Dot products of rows `left + r * stride`, `r < rows`, with four right rows; `emit(r, dots)`
/// is told of each left row in turn.
///
/// # Safety
/// All rows are readable for `depth` elements.
#[inline(always)]
pub(crate) unsafe fn dots<S: Simd, E: Element>(
    simd: S,
    left: *const f32,
    stride: usize,
    rows: usize,
    right: [*const E; DOT_COLUMNS],
    depth: usize,
    mut emit: impl FnMut(usize, [f32; DOT_COLUMNS]),
) {
    /// Tiles of `$r` rows as long as there are that many.
    macro_rules! tiles {
        ($row:ident, $r:literal) => {
            while S::TILE_ROWS >= $r && rows - $row >= $r {
                let mut pointers = [left; $r];
                for (i, pointer) in pointers.iter_mut().enumerate() {
                    // SAFETY: row `row + i` is one of `rows`.
                    *pointer = unsafe { left.add(($row + i) * stride) };
                }
                // SAFETY: the caller's promise.
                let tile = unsafe { dot_tile::<S, E, $r>(simd, pointers, right, depth) };
                for (i, sums) in tile.into_iter().enumerate() {
                    emit($row + i, sums);
                }
                $row += $r;
            }
        };
    }
    let mut row = 0;
    tiles!(row, 6);
    tiles!(row, 3);
    tiles!(row, 2);
    tiles!(row, 1);
}

/// `out[r][..] += sum over i of left[r][i] * right[i][..]` for `R` rows and `N` vectors of
/// columns. Every column adds up its terms in the order of `i`.
///
/// # Safety
/// `right` rows are readable, `out` rows writable for `N * LANES` elements, `left` rows readable
/// for `right.len()`.
#[inline(always)]
unsafe fn axpy_tile<S: Simd, E: Element, const R: usize, const N: usize>(
    simd: S,
    left: [*const f32; R],
    right: &[*const E],
    column: usize,
    out: [*mut f32; R],
) {
    let mut sums = [[simd.splat(0.); N]; R];
    for r in 0..R {
        for (n, sum) in sums[r].iter_mut().enumerate() {
            // SAFETY: within the columns of `out`.
            *sum = unsafe { simd.load(out[r].add(column + n * S::LANES)) };
        }
    }
    for (i, &row) in right.iter().enumerate() {
        let mut values = [simd.splat(0.); N];
        for (n, value) in values.iter_mut().enumerate() {
            // SAFETY: within the columns of `right`.
            *value = unsafe { E::load(simd, row.add(column + n * S::LANES)) };
        }
        for r in 0..R {
            // SAFETY: `i < right.len()`.
            let factor = simd.splat(unsafe { *left[r].add(i) });
            for n in 0..N {
                sums[r][n] = simd.mul_add(factor, values[n], sums[r][n]);
            }
        }
    }
    for r in 0..R {
        for (n, &sum) in sums[r].iter().enumerate() {
            // SAFETY: within the columns of `out`.
            unsafe { simd.store(out[r].add(column + n * S::LANES), sum) };
        }
    }
}

/// `out[r] += sum over i of left[r][i] * right[i]` for `rows` rows of `width` columns, which is
/// a multiple of `LANES`. Rows of `left` and `out` lie `left_stride` and `out_stride` apart.
///
/// # Safety
/// `right` rows are readable and `out` rows writable for `width` elements, `left` rows readable
/// for `right.len()`; `out` overlaps with nothing that is read.
#[expect(
    clippy::too_many_arguments,
    reason = "three matrices, each a pointer and a stride"
)]
#[inline(always)]
pub(crate) unsafe fn axpys<S: Simd, E: Element>(
    simd: S,
    left: *const f32,
    left_stride: usize,
    rows: usize,
    right: &[*const E],
    width: usize,
    out: *mut f32,
    out_stride: usize,
) {
    /// Tiles of `$r` rows as long as there are that many.
    macro_rules! tiles {
        ($row:ident, $r:literal) => {
            while S::TILE_ROWS >= $r && rows - $row >= $r {
                let mut lefts = [left; $r];
                let mut outs = [out; $r];
                for i in 0..$r {
                    // SAFETY: row `row + i` is one of `rows`.
                    unsafe {
                        lefts[i] = left.add(($row + i) * left_stride);
                        outs[i] = out.add(($row + i) * out_stride);
                    }
                }
                let mut column = 0;
                while column + 4 * S::LANES <= width {
                    // SAFETY: the caller's promise; the columns are within `width`.
                    unsafe { axpy_tile::<S, E, $r, 4>(simd, lefts, right, column, outs) };
                    column += 4 * S::LANES;
                }
                while column + 2 * S::LANES <= width {
                    // SAFETY: as above.
                    unsafe { axpy_tile::<S, E, $r, 2>(simd, lefts, right, column, outs) };
                    column += 2 * S::LANES;
                }
                while column < width {
                    // SAFETY: as above; `width` is a multiple of `LANES`.
                    unsafe { axpy_tile::<S, E, $r, 1>(simd, lefts, right, column, outs) };
                    column += S::LANES;
                }
                $row += $r;
            }
        };
    }
    debug_assert!(width.is_multiple_of(S::LANES));
    let mut row = 0;
    tiles!(row, 6);
    tiles!(row, 3);
    tiles!(row, 2);
    tiles!(row, 1);
}
