//! Everything that works on rows or single elements: norms, activations, softmax, rotation.

use rayon::prelude::*;

use super::host::Rows;
use super::math::{erf, exp, sigmoid};
use super::simd::{Kernel, Level, MAX_LANES, Simd, dispatch};

/// Elements that make a task of their own.
const TASK_ELEMENTS: usize = 1 << 14;

/// A function from a row to a row, of whatever width its operation says.
pub(crate) trait RowOp: Copy + Sync {
    /// Implementations are `#[inline(always)]`, see [`Kernel`].
    fn row<S: Simd>(self, simd: S, index: usize, x: &[f32], out: &mut [f32]);
}

struct Batch<'a, O> {
    op: O,
    first: usize,
    x: Rows<'a>,
    width: usize,
    out: &'a mut [f32],
    out_width: usize,
}

impl<O: RowOp> Kernel for Batch<'_, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.out.chunks_exact_mut(self.out_width);
        for (index, out) in (self.first..).zip(rows) {
            let x = self.x.row(index, self.width);
            self.op.row(simd, index, x, out);
        }
    }
}

/// Applies an operation to the first `width` elements of each of `count` rows, which makes rows
/// of `out_width` elements of them.
pub(crate) fn by_rows<O: RowOp>(
    level: Level,
    op: O,
    x: Rows<'_>,
    count: usize,
    width: usize,
    out_width: usize,
) -> Vec<f32> {
    let mut out = vec![0f32; count * out_width];
    if out.is_empty() {
        return out;
    }
    let rows_each = (TASK_ELEMENTS / width).max(1);
    let run = |(task, out): (usize, &mut [f32])| {
        let first = task * rows_each;
        dispatch(
            level,
            Batch {
                op,
                first,
                x,
                width,
                out,
                out_width,
            },
        );
    };
    let chunk = rows_each * out_width;
    if count * width <= 2 * TASK_ELEMENTS {
        out.chunks_mut(chunk).enumerate().for_each(run);
    } else {
        out.par_chunks_mut(chunk).enumerate().for_each(run);
    }
    out
}

/// Applies an operation that does not care for rows.
pub(crate) fn by_elements<O: RowOp>(level: Level, op: O, x: &[f32]) -> Vec<f32> {
    const CHUNK: usize = 4096;
    let (whole, rest) = x.split_at(x.len() / CHUNK * CHUNK);
    let rows = |data, stride| Rows { data, stride };
    let mut out = by_rows(
        level,
        op,
        rows(whole, CHUNK),
        whole.len() / CHUNK,
        CHUNK,
        CHUNK,
    );
    let n = rest.len();
    out.extend(by_rows(level, op, rows(rest, n), 1, n, n));
    out
}

/// Writes `$value` to `$out`, computed from the vectors of slices that are as long; the last
/// vectors are filled up with 0.
macro_rules! map_vectors {
    ($simd:ident, $out:ident, $($x:ident = $from:expr),+ => $value:expr) => {{
        let whole = $out.len() / S::LANES * S::LANES;
        $(let $x = &$from[..$out.len()];)+
        let sources = ($($x,)+);
        for at in (0..whole).step_by(S::LANES) {
            let ($($x,)+) = sources;
            $(let $x = $simd.read(&$x[at..]);)+
            $simd.write(&mut $out[at..], $value);
        }
        let rest = $out.len() - whole;
        if rest > 0 {
            let ($($x,)+) = sources;
            $(let $x = $simd.read(&tail(&$x[whole..]));)+
            let mut lanes = [0.; MAX_LANES];
            $simd.write(&mut lanes, $value);
            $out[whole..].copy_from_slice(&lanes[..rest]);
        }
    }};
}

/// The sum of `$value` over the elements of a slice.
macro_rules! sum_vectors {
    ($simd:ident, $from:expr, $x:ident => $value:expr) => {{
        let from: &[f32] = $from;
        let whole = from.len() / S::LANES * S::LANES;
        let mut sum = $simd.splat(0.);
        for at in (0..whole).step_by(S::LANES) {
            let $x = $simd.read(&from[at..]);
            sum = $simd.add(sum, $value);
        }
        let mut sum = $simd.sum(sum);
        for &x in &from[whole..] {
            let $x = $simd.splat(x);
            let mut lanes = [0.; MAX_LANES];
            $simd.write(&mut lanes, $value);
            sum += lanes[0];
        }
        sum
    }};
}

#[inline(always)]
fn tail(rest: &[f32]) -> [f32; MAX_LANES] {
    let mut lanes = [0.; MAX_LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    lanes
}

/// See [`crate::rms_norm`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct RmsNorm<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) eps: f32,
}

impl RowOp for RmsNorm<'_> {
    #[inline(always)]
    fn row<S: Simd>(self, simd: S, _: usize, x: &[f32], out: &mut [f32]) {
        let squares = sum_vectors!(simd, x, x => simd.mul(x, x));
        let factor = 1. / (squares / x.len() as f32 + self.eps).sqrt();
        let factor = simd.splat(factor);
        map_vectors!(simd, out, x = x, w = self.weight => simd.mul(simd.mul(x, factor), w));
    }
}

/// See [`crate::layer_norm`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerNorm<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) eps: f32,
}

impl RowOp for LayerNorm<'_> {
    #[inline(always)]
    fn row<S: Simd>(self, simd: S, _: usize, x: &[f32], out: &mut [f32]) {
        let mean = sum_vectors!(simd, x, x => x) / x.len() as f32;
        let mean = simd.splat(mean);
        // In a second pass: the difference of two large sums would lose what is looked for.
        let squares = sum_vectors!(simd, x, x => {
            let off = simd.sub(x, mean);
            simd.mul(off, off)
        });
        let factor = simd.splat(1. / (squares / x.len() as f32 + self.eps).sqrt());
        map_vectors!(simd, out, x = x, w = self.weight, b = self.bias => {
            simd.mul_add(simd.mul(simd.sub(x, mean), factor), w, b)
        });
    }
}

/// See [`crate::swiglu`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct SwiGlu;

impl RowOp for SwiGlu {
    #[inline(always)]
    fn row<S: Simd>(self, simd: S, _: usize, x: &[f32], out: &mut [f32]) {
        let (gate, up) = x.split_at(out.len());
        map_vectors!(simd, out, g = gate, u = up => {
            simd.mul(simd.mul(g, sigmoid(simd, g)), u)
        });
    }
}

/// See [`crate::gelu`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gelu;

impl RowOp for Gelu {
    #[inline(always)]
    fn row<S: Simd>(self, simd: S, _: usize, x: &[f32], out: &mut [f32]) {
        let scale = simd.splat(std::f32::consts::FRAC_1_SQRT_2);
        map_vectors!(simd, out, x = x => {
            let half = simd.mul(x, simd.splat(0.5));
            simd.mul_add(half, erf(simd, simd.mul(x, scale)), half)
        });
    }
}

/// See [`crate::quick_gelu`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuickGelu;

impl RowOp for QuickGelu {
    #[inline(always)]
    fn row<S: Simd>(self, simd: S, _: usize, x: &[f32], out: &mut [f32]) {
        let slope = simd.splat(1.702);
        map_vectors!(simd, out, x = x => simd.mul(x, sigmoid(simd, simd.mul(x, slope))));
    }
}

/// See [`crate::squared_relu`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct SquaredRelu;

impl RowOp for SquaredRelu {
    #[inline(always)]
    fn row<S: Simd>(self, simd: S, _: usize, x: &[f32], out: &mut [f32]) {
        let zero = simd.splat(0.0);
        map_vectors!(simd, out, x = x => {
            let positive = simd.max(x, zero);
            simd.mul(positive, positive)
        });
    }
}

/// See [`crate::softmax`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Softmax;

impl RowOp for Softmax {
    #[inline(always)]
    fn row<S: Simd>(self, simd: S, _: usize, x: &[f32], out: &mut [f32]) {
        let whole = x.len() / S::LANES * S::LANES;
        let mut most = simd.splat(f32::NEG_INFINITY);
        for at in (0..whole).step_by(S::LANES) {
            most = simd.max(simd.read(&x[at..]), most);
        }
        let mut most = simd.max_lane(most);
        for &x in &x[whole..] {
            most = most.max(x);
        }
        let most = simd.splat(most);
        map_vectors!(simd, out, x = x => exp(simd, simd.sub(x, most)));
        let whole = simd.splat(1. / sum_vectors!(simd, out, x => x));
        for at in (0..out.len()).step_by(S::LANES) {
            let mut lanes = [0.; MAX_LANES];
            let count = S::LANES.min(out.len() - at);
            lanes[..count].copy_from_slice(&out[at..][..count]);
            let value = simd.mul(simd.read(&lanes), whole);
            simd.write(&mut lanes, value);
            out[at..][..count].copy_from_slice(&lanes[..count]);
        }
    }
}

/// See [`crate::rope()`]. A row is all heads of one token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rope<'a> {
    pub(crate) cos: &'a [f32],
    pub(crate) sin: &'a [f32],
    pub(crate) head_dim: usize,
    /// Dimensions of a head that are rotated; what follows them stays.
    pub(crate) rotated: usize,
}

impl RowOp for Rope<'_> {
    #[inline(always)]
    fn row<S: Simd>(self, simd: S, index: usize, x: &[f32], out: &mut [f32]) {
        let half = self.rotated / 2;
        let cos = &self.cos[index * half..][..half];
        let sin = &self.sin[index * half..][..half];
        let heads = x.chunks_exact(self.head_dim);
        for (x, out) in heads.zip(out.chunks_exact_mut(self.head_dim)) {
            let (x, rest) = x.split_at(self.rotated);
            let (out, out_rest) = out.split_at_mut(self.rotated);
            out_rest.copy_from_slice(rest);
            let (a, b) = x.split_at(half);
            let (out_a, out_b) = out.split_at_mut(half);
            map_vectors!(simd, out_a, a = a, b = b, c = cos, s = sin => {
                simd.sub(simd.mul(a, c), simd.mul(b, s))
            });
            map_vectors!(simd, out_b, a = a, b = b, c = cos, s = sin => {
                simd.add(simd.mul(b, c), simd.mul(a, s))
            });
        }
    }
}
