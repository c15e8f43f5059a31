//! Attention: one routine for pages and for dense tensors, for many new rows and for one.
//!
//! Keys are taken in blocks of [`KEYS`], counted from the first key of the sequence, with the
//! softmax carried along (Milakov and Gimelshein 2018; Dao et al. 2022): no matrix of scores
//! ever exists. All query heads that share a key head are computed together, so that each key
//! and value is read once for them.
//!
//! A row's arithmetic is the same whatever stands beside it: the blocks of keys are the same,
//! and keys that a row does not see have the weight 0 and change nothing. So a prompt in one
//! piece, in chunks, or token by token gives the same bits.

#![expect(
    unsafe_code,
    reason = "register tiles take keys by pointer; threads share the output by heads"
)]

use rayon::prelude::*;

use super::linear::widen;
use super::math::exp;
use super::shared::Shared;
use super::simd::{Element, Kernel, Level, MAX_LANES, Simd, dispatch};
use super::tile::{DOT_COLUMNS, axpys, dots};

/// Keys in a block.
const KEYS: usize = 64;

/// Query rows (tokens times heads of a group) of one task: enough to use each widened key
/// often, few enough for their sums to stay in the second-level cache.
const TASK_ROWS: usize = 96;

/// Up to this many query rows keys are widened in registers, over and over.
const FEW_ROWS: usize = 6;

/// Multiplications below which waking other threads costs more than it gains.
const SERIAL_WORK: usize = 1 << 15;

/// The keys, or values, of one sequence: where the row of each position starts.
pub(crate) trait KeyRows: Sync {
    fn start(&self, position: usize) -> usize;
}

/// One sequence with its new rows. Shared by all of its heads.
#[derive(Debug)]
pub(crate) struct Span<R> {
    /// Its first row among those of the queries and of the output.
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
    /// Keys that its first row sees.
    pub(crate) visible: usize,
    /// By how much that grows from row to row: 1 is causal, 0 is not.
    pub(crate) growth: usize,
    pub(crate) keys: R,
}

/// The tensors of a call. `H` query heads and `K` key heads, heads of `D` elements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads<'a, E> {
    /// Rows of `[H, D]`, `q_stride` apart.
    pub(crate) q: &'a [f32],
    pub(crate) q_stride: usize,
    /// Rows of `[K, D]` and more, wherever [`KeyRows`] says.
    pub(crate) k: &'a [E],
    pub(crate) v: &'a [E],
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) scale: f32,
}

/// Attends all spans; writes every row of every span of `out`, `[rows, H, D]`.
///
/// # Panics
/// When a row of the queries, keys or values is not within its slice.
pub(crate) fn attend<E: Element, R: KeyRows>(
    level: Level,
    heads: Heads<'_, E>,
    spans: &[Span<R>],
    out: &mut [f32],
) {
    let group = heads.heads / heads.kv_heads;
    let rows_each = (TASK_ROWS / group).max(1);
    let mut tasks = Vec::new();
    let mut work = 0usize;
    for span in spans {
        work += span.rows * (span.visible + span.rows) * heads.heads * heads.head_dim;
        for first in (0..span.rows).step_by(rows_each) {
            let rows = rows_each.min(span.rows - first);
            tasks.extend((0..heads.kv_heads).map(|head| (span, first, rows, head)));
        }
    }
    let out = Shared::new(out);
    let run = |scratch: &mut Scratch, (span, first, rows, kv_head): (&Span<R>, _, _, _)| {
        dispatch(
            level,
            Task {
                heads,
                span,
                first,
                rows,
                kv_head,
                out,
                scratch,
            },
        );
    };
    if tasks.len() == 1 || work < SERIAL_WORK {
        let mut scratch = Scratch::default();
        tasks.into_iter().for_each(|task| run(&mut scratch, task));
    } else {
        tasks.into_par_iter().for_each_init(Scratch::default, run);
    }
}

/// Buffers that tasks of one thread use one after the other.
#[derive(Debug, Default)]
struct Scratch {
    /// `[rows, D]` scaled queries.
    q: Vec<f32>,
    /// `[KEYS, D]` widened keys.
    k: Vec<f32>,
    /// `[KEYS, width]` widened values, `width` being `D` rounded up to whole vectors.
    v: Vec<f32>,
    /// `[rows, KEYS]` scores, then weights.
    weights: Vec<f32>,
    /// `[rows, width]` weighted sums of values.
    sums: Vec<f32>,
    /// `[rows]` the largest score so far, and the sum of all weights relative to it.
    softmax: Vec<(f32, f32)>,
}

/// Some rows of one span, for the query heads of one key head. Row `r` of the task is token
/// `r / group`, head `r % group`.
struct Task<'a, E, R> {
    heads: Heads<'a, E>,
    span: &'a Span<R>,
    first: usize,
    rows: usize,
    kv_head: usize,
    out: Shared<'a>,
    scratch: &'a mut Scratch,
}

impl<E: Element, R: KeyRows> Kernel for Task<'_, E, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Heads {
            head_dim, scale, ..
        } = self.heads;
        let group = self.heads.heads / self.heads.kv_heads;
        let rows = self.rows * group;
        let width = head_dim.next_multiple_of(S::LANES);
        let scratch = &mut *self.scratch;

        refill(&mut scratch.q, rows * head_dim, 0.);
        refill(&mut scratch.weights, rows * KEYS, 0.);
        refill(&mut scratch.sums, rows * width, 0.);
        refill(&mut scratch.softmax, rows, (f32::NEG_INFINITY, 0.));
        for (row, q) in scratch.q.chunks_exact_mut(head_dim).enumerate() {
            let token = self.span.first_row + self.first + row / group;
            let head = self.kv_head * group + row % group;
            let from = &self.heads.q[token * self.heads.q_stride + head * head_dim..][..head_dim];
            for (to, &from) in q.iter_mut().zip(from) {
                *to = from * scale;
            }
        }

        let copy_keys = rows > FEW_ROWS && size_of::<E>() < size_of::<f32>();
        // Whole vectors are read of values, so rows that end within one are copied too.
        let copy_values = copy_keys || width != head_dim;
        if copy_keys {
            refill(&mut scratch.k, KEYS * head_dim, 0.);
        }
        if copy_values {
            refill(&mut scratch.v, KEYS * width, 0.);
        }

        let visible =
            |row: usize| self.span.visible + self.span.growth * (self.first + row / group);
        let keys = visible(rows - 1);
        for start in (0..keys).step_by(KEYS) {
            let count = KEYS.min(keys - start);
            let mut k = [self.heads.k.as_ptr(); KEYS];
            let mut v = [self.heads.v.as_ptr(); KEYS];
            for i in 0..count {
                let at = self.span.keys.start(start + i) + self.kv_head * head_dim;
                k[i] = self.heads.k[at..][..head_dim].as_ptr();
                v[i] = self.heads.v[at..][..head_dim].as_ptr();
            }

            if copy_keys {
                let k = widened(simd, &k[..count], head_dim, head_dim, &mut scratch.k);
                score(simd, scratch, &k, count, rows, head_dim);
            } else {
                score(simd, scratch, &k, count, rows, head_dim);
            }

            for row in 0..rows {
                let seen = visible(row).saturating_sub(start).min(count);
                let weights = &mut scratch.weights[row * KEYS..][..KEYS];
                weights[seen..].fill(f32::NEG_INFINITY);
                let shrink = soften(simd, weights, &mut scratch.softmax[row]);
                if shrink != 1. {
                    let sums = &mut scratch.sums[row * width..][..width];
                    for at in (0..width).step_by(S::LANES) {
                        let sum = simd.mul(simd.read(&sums[at..]), simd.splat(shrink));
                        simd.write(&mut sums[at..], sum);
                    }
                }
            }

            if copy_values {
                let v = widened(simd, &v[..count], head_dim, width, &mut scratch.v);
                collect(simd, scratch, &v[..count], rows, width);
            } else {
                collect(simd, scratch, &v[..count], rows, width);
            }
        }

        for row in 0..rows {
            let token = self.span.first_row + self.first + row / group;
            let head = self.kv_head * group + row % group;
            let start = (token * self.heads.heads + head) * head_dim;
            // SAFETY: no two tasks share a token and a key head.
            let out = unsafe { self.out.part(start, head_dim) };
            let whole = 1. / scratch.softmax[row].1;
            for (to, &sum) in out.iter_mut().zip(&scratch.sums[row * width..]) {
                *to = sum * whole;
            }
        }
    }
}

/// `len` times `value`.
#[inline(always)]
fn refill<T: Copy>(buffer: &mut Vec<T>, len: usize, value: T) {
    buffer.clear();
    buffer.resize(len, value);
}

/// Copies rows of `len` elements to `to`, `stride` apart, and gives where they are now.
#[inline(always)]
fn widened<S: Simd, E: Element>(
    simd: S,
    rows: &[*const E],
    len: usize,
    stride: usize,
    to: &mut [f32],
) -> [*const f32; KEYS] {
    let mut pointers = [to.as_ptr(); KEYS];
    for (i, (&row, to)) in rows.iter().zip(to.chunks_exact_mut(stride)).enumerate() {
        // SAFETY: each pointer was made from a slice of `len` elements.
        let row = unsafe { std::slice::from_raw_parts(row, len) };
        widen(simd, row, &mut to[..len]);
        pointers[i] = to.as_ptr();
    }
    pointers
}

/// Scores of all rows for `count` keys.
#[inline(always)]
fn score<S: Simd, E: Element>(
    simd: S,
    scratch: &mut Scratch,
    keys: &[*const E; KEYS],
    count: usize,
    rows: usize,
    head_dim: usize,
) {
    for first in (0..count).step_by(DOT_COLUMNS) {
        let mut four = [keys[first]; DOT_COLUMNS];
        for (i, key) in four.iter_mut().enumerate() {
            // Missing keys repeat the last one; their scores are masked.
            *key = keys[(first + i).min(count - 1)];
        }
        let weights = &mut scratch.weights;
        let emit = |row: usize, scores: [f32; DOT_COLUMNS]| {
            weights[row * KEYS + first..][..DOT_COLUMNS].copy_from_slice(&scores);
        };
        let q = scratch.q.as_ptr();
        // SAFETY: `q` holds `rows` rows, and each key was made from a slice of `head_dim`.
        unsafe { dots(simd, q, head_dim, rows, four, head_dim, emit) };
    }
}

/// Turns the scores of a block into weights relative to the largest score so far, and gives the
/// factor by which earlier sums shrink.
#[inline(always)]
fn soften<S: Simd>(simd: S, scores: &mut [f32], (largest, sum): &mut (f32, f32)) -> f32 {
    let mut most = simd.splat(f32::NEG_INFINITY);
    for at in (0..KEYS).step_by(S::LANES) {
        most = simd.max(simd.read(&scores[at..]), most);
    }
    let most = simd.max_lane(most).max(*largest);
    if most == f32::NEG_INFINITY {
        scores.fill(0.);
        return 1.;
    }
    let mut total = simd.splat(0.);
    for at in (0..KEYS).step_by(S::LANES) {
        let weight = exp(simd, simd.sub(simd.read(&scores[at..]), simd.splat(most)));
        simd.write(&mut scores[at..], weight);
        total = simd.add(total, weight);
    }
    let mut shrink = [0.; MAX_LANES];
    simd.write(&mut shrink, exp(simd, simd.splat(*largest - most)));
    *sum = *sum * shrink[0] + simd.sum(total);
    *largest = most;
    shrink[0]
}

/// Adds the weighted values of a block to all rows.
#[inline(always)]
fn collect<S: Simd, E: Element>(
    simd: S,
    scratch: &mut Scratch,
    values: &[*const E],
    rows: usize,
    width: usize,
) {
    let (weights, sums) = (scratch.weights.as_ptr(), scratch.sums.as_mut_ptr());
    // SAFETY: `weights` holds rows of `KEYS >= values.len()`, `sums` rows of `width`, and every
    // value is readable for `width`: either that is `head_dim`, or it was copied to such rows.
    unsafe { axpys(simd, weights, KEYS, rows, values, width, sums, width) };
}
