//! Attention: one routine for pages and for dense tensors, for many new rows and for one.
//!
//! Keys are taken in blocks of [`KEYS`], counted from the first key of the sequence, with the
//! softmax carried along (Milakov and Gimelshein 2018; Dao et al. 2022): no matrix of scores
//! ever exists. All query heads that share a key head are computed together, so that each key
//! and value is read once for them.
//!
//! Elements of 8 bits are multiples of a scale that their row has. It is left out of the
//! products: a score is multiplied by its key's, a weight by its value's.
//!
//! A row's arithmetic is the same whatever stands beside it: the blocks of keys are the same,
//! and keys that a row does not see have the weight 0 and change nothing. So a prompt in one
//! piece, in chunks, or token by token gives the same bits.

#![expect(
    unsafe_code,
    reason = "register tiles take keys by pointer; threads share the output by heads"
)]

use std::ops::Range;

use rayon::prelude::*;

use super::host::Rows;
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

/// The keys, or values, of one sequence: which row of [`Stored`] each position is.
pub(crate) trait KeyRows: Sync {
    fn row(&self, position: usize) -> usize;
}

/// One sequence with its new rows. Shared by all of its heads.
#[derive(Debug)]
pub(crate) struct Span<R> {
    /// Its first row among those of the output.
    pub(crate) first_row: usize,
    /// And among those of the queries.
    pub(crate) first_query: usize,
    pub(crate) rows: usize,
    /// Keys that its first row sees.
    pub(crate) visible: usize,
    /// By how much that grows from row to row: 1 is causal, 0 is not.
    pub(crate) growth: usize,
    pub(crate) keys: R,
}

/// Keys, or values: rows of `K` heads of `D` elements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored<'a, E> {
    /// Rows of `[K, D]`.
    pub(crate) data: &'a [E],
    /// Elements from row to row.
    pub(crate) stride: usize,
    /// Rows of `[K]`: what each head's elements are to be multiplied by.
    pub(crate) scales: Option<&'a [f32]>,
}

impl<'a, E> Stored<'a, E> {
    /// The elements of a row's head.
    #[inline(always)]
    fn head(&self, row: usize, head: usize, head_dim: usize) -> &'a [E] {
        &self.data[row * self.stride + head * head_dim..][..head_dim]
    }
}

/// `H` query heads and `K` key heads, heads of `D` elements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Multiplies scores.
    pub(crate) scale: f32,
}

/// The tensors of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads<'a, E> {
    /// Rows of `[H, D]`.
    pub(crate) q: Rows<'a>,
    pub(crate) k: Stored<'a, E>,
    pub(crate) v: Stored<'a, E>,
    pub(crate) shape: Shape,
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
    let shape = heads.shape;
    let group = shape.heads / shape.kv_heads;
    let rows_each = (TASK_ROWS / group).max(1);
    let few = |rows: usize| rows * group <= FEW_ROWS;
    let single = spans.iter().filter(|span| few(span.rows)).count();
    // Rows of all heads lie side by side in memory, rows of one head pages apart: with so few
    // query rows it is the reading that takes the time, so a task takes as many heads as leave
    // enough tasks for all threads.
    let splits = (4 * rayon::current_num_threads()).div_ceil(single.max(1));
    let heads_each = shape.kv_heads.div_ceil(splits);
    let mut tasks = Vec::new();
    let mut work = 0usize;
    for span in spans {
        work += span.rows * (span.visible + span.rows) * shape.heads * shape.head_dim;
        let heads_each = if few(span.rows) { heads_each } else { 1 };
        for first in (0..span.rows).step_by(rows_each) {
            let rows = rows_each.min(span.rows - first);
            for head in (0..shape.kv_heads).step_by(heads_each) {
                let kv_heads = head..shape.kv_heads.min(head + heads_each);
                tasks.push((span, first, rows, kv_heads));
            }
        }
    }
    let out = Shared::new(out);
    let run = |scratch: &mut Scratch, (span, first, rows, kv_heads)| {
        dispatch(
            level,
            Task {
                heads,
                span,
                first,
                rows,
                kv_heads,
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

/// Buffers that tasks of one thread use one after the other. `heads` are the key heads of a
/// task, `width` is `D` rounded up to whole vectors.
#[derive(Debug, Default)]
struct Scratch {
    /// `[heads, rows, D]` scaled queries.
    q: Vec<f32>,
    /// `[KEYS, D]` widened keys.
    k: Vec<f32>,
    /// `[KEYS, width]` widened values.
    v: Vec<f32>,
    /// `[rows, KEYS]` scores, then weights.
    weights: Vec<f32>,
    /// `[heads, rows, width]` weighted sums of values.
    sums: Vec<f32>,
    /// `[heads, rows]` the largest score so far, and the sum of all weights relative to it.
    softmax: Vec<(f32, f32)>,
}

/// Some rows of one span, for the query heads of some key heads. Within a key head row `r` is
/// token `r / group`, head `r % group`.
struct Task<'a, E, R> {
    heads: Heads<'a, E>,
    span: &'a Span<R>,
    first: usize,
    rows: usize,
    kv_heads: Range<usize>,
    out: Shared<'a>,
    scratch: &'a mut Scratch,
}

impl<E: Element, R: KeyRows> Kernel for Task<'_, E, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let rows = self.rows * self.group();
        let width = self.heads.shape.head_dim.next_multiple_of(S::LANES);
        self.prepare(rows, width);
        let mut keys = self.keys(0);
        while keys.count > 0 {
            let next = self.keys(keys.first + keys.count);
            for index in 0..self.kv_heads.len() {
                self.block(simd, index, &keys, &next, width);
            }
            keys = next;
        }
        self.finish(rows, width);
    }
}

/// A block of keys, the same for all heads.
struct Keys {
    first: usize,
    count: usize,
    /// Their rows of [`Stored`].
    rows: [usize; KEYS],
}

impl<E: Element, R: KeyRows> Task<'_, E, R> {
    /// The block that begins with key `first`; empty beyond the last that a row sees.
    #[inline(always)]
    fn keys(&self, first: usize) -> Keys {
        let last = self.visible(self.rows * self.group() - 1);
        let count = last.saturating_sub(first).min(KEYS);
        let mut rows = [0; KEYS];
        for (i, row) in rows[..count].iter_mut().enumerate() {
            *row = self.span.keys.row(first + i);
        }
        Keys { first, count, rows }
    }

    #[inline(always)]
    fn group(&self) -> usize {
        self.heads.shape.heads / self.heads.shape.kv_heads
    }

    /// Keys that a row sees.
    #[inline(always)]
    fn visible(&self, row: usize) -> usize {
        self.span.visible + self.span.growth * (self.first + row / self.group())
    }

    /// Token of the span and query head of a row.
    #[inline(always)]
    fn place(&self, index: usize, row: usize) -> (usize, usize) {
        let token = self.first + row / self.group();
        let head = (self.kv_heads.start + index) * self.group() + row % self.group();
        (token, head)
    }

    #[inline(always)]
    fn prepare(&mut self, rows: usize, width: usize) {
        let Shape {
            head_dim, scale, ..
        } = self.heads.shape;
        let heads = self.kv_heads.len();
        self.scratch.q.clear();
        for index in 0..heads {
            for row in 0..rows {
                let (token, head) = self.place(index, row);
                let token = self.span.first_query + token;
                let at = token * self.heads.q.stride + head * head_dim;
                let q = &self.heads.q.data[at..][..head_dim];
                self.scratch.q.extend(q.iter().map(|q| q * scale));
            }
        }
        refill(&mut self.scratch.k, KEYS * head_dim, 0.);
        refill(&mut self.scratch.v, KEYS * width, 0.);
        refill(&mut self.scratch.weights, rows * KEYS, 0.);
        refill(&mut self.scratch.sums, heads * rows * width, 0.);
        let nothing = (f32::NEG_INFINITY, 0.);
        refill(&mut self.scratch.softmax, heads * rows, nothing);
    }

    /// Takes a block of keys into account for one key head.
    #[inline(always)]
    fn block<S: Simd>(&mut self, simd: S, index: usize, keys: &Keys, next: &Keys, width: usize) {
        let head_dim = self.heads.shape.head_dim;
        let rows = self.rows * self.group();
        let count = keys.count;
        let head = self.kv_heads.start + index;
        let mut k = [self.heads.k.data.as_ptr(); KEYS];
        let mut v = [self.heads.v.data.as_ptr(); KEYS];
        for (i, row) in keys.rows[..count].iter().enumerate() {
            k[i] = self.heads.k.head(*row, head, head_dim).as_ptr();
            v[i] = self.heads.v.head(*row, head, head_dim).as_ptr();
        }
        let kv_heads = self.heads.shape.kv_heads;
        let k_scales = scales(self.heads.k.scales, keys, head, kv_heads);
        let v_scales = scales(self.heads.v.scales, keys, head, kv_heads);
        if rows <= FEW_ROWS {
            self.prefetch(index, keys, next);
        }
        let copy_keys = rows > FEW_ROWS && size_of::<E>() < size_of::<f32>();
        // Whole vectors are read of values, so rows that end within one are copied too.
        let copy_values = copy_keys || width != head_dim;

        let q = &self.scratch.q[index * rows * head_dim..][..rows * head_dim];
        let weights = &mut self.scratch.weights;
        if copy_keys {
            let k = widened(simd, &k[..count], head_dim, head_dim, &mut self.scratch.k);
            score(simd, q, &k[..count], head_dim, weights);
        } else {
            score(simd, q, &k[..count], head_dim, weights);
        }

        if let Some(scales) = &k_scales {
            scale_rows(simd, &mut self.scratch.weights, scales);
        }
        for row in 0..rows {
            let seen = self.visible(row).saturating_sub(keys.first).min(count);
            let weights = &mut self.scratch.weights[row * KEYS..][..KEYS];
            weights[seen..].fill(f32::NEG_INFINITY);
            let softmax = &mut self.scratch.softmax[index * rows + row];
            let shrink = soften(simd, weights, softmax);
            if shrink != 1. {
                let sums = &mut self.scratch.sums[(index * rows + row) * width..][..width];
                for at in (0..width).step_by(S::LANES) {
                    let sum = simd.mul(simd.read(&sums[at..]), simd.splat(shrink));
                    simd.write(&mut sums[at..], sum);
                }
            }
        }

        if let Some(scales) = &v_scales {
            scale_rows(simd, &mut self.scratch.weights, scales);
        }
        let weights = &self.scratch.weights;
        let sums = &mut self.scratch.sums[index * rows * width..][..rows * width];
        if copy_values {
            let v = widened(simd, &v[..count], head_dim, width, &mut self.scratch.v);
            collect(simd, weights, &v[..count], width, sums);
        } else {
            collect(simd, weights, &v[..count], width, sums);
        }
    }

    /// Asks for what is read after a block: the next head of the same keys, or the first head of
    /// the next ones. Rows lie pages apart, too many at a time for the memory system to follow.
    #[inline(always)]
    fn prefetch(&self, index: usize, keys: &Keys, next: &Keys) {
        let head_dim = self.heads.shape.head_dim;
        let (head, keys) = if index + 1 < self.kv_heads.len() {
            (self.kv_heads.start + index + 1, keys)
        } else {
            (self.kv_heads.start, next)
        };
        for row in &keys.rows[..keys.count] {
            prefetch(self.heads.k.head(*row, head, head_dim));
            prefetch(self.heads.v.head(*row, head, head_dim));
        }
    }

    #[inline(always)]
    fn finish(&self, rows: usize, width: usize) {
        let head_dim = self.heads.shape.head_dim;
        for index in 0..self.kv_heads.len() {
            for row in 0..rows {
                let (token, head) = self.place(index, row);
                let token = self.span.first_row + token;
                let start = (token * self.heads.shape.heads + head) * head_dim;
                // SAFETY: no two tasks share a token and a key head.
                let out = unsafe { self.out.part(start, head_dim) };
                let whole = 1. / self.scratch.softmax[index * rows + row].1;
                let sums = &self.scratch.sums[(index * rows + row) * width..];
                for (to, &sum) in out.iter_mut().zip(sums) {
                    *to = sum * whole;
                }
            }
        }
    }
}

/// Those of all scales, if there are any, that a head's keys or values have; 0 where the block
/// has fewer.
#[inline(always)]
fn scales(all: Option<&[f32]>, keys: &Keys, head: usize, kv_heads: usize) -> Option<[f32; KEYS]> {
    let all = all?;
    let mut scales = [0.; KEYS];
    for (scale, row) in scales.iter_mut().zip(&keys.rows[..keys.count]) {
        *scale = all[row * kv_heads + head];
    }
    Some(scales)
}

/// Asks for the lines of cache that a row begins in.
#[inline(always)]
fn prefetch<E>(row: &[E]) {
    #[cfg(target_arch = "x86_64")]
    for element in row.iter().step_by(64 / size_of::<E>()) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 CPU has the instruction, and it reads nothing that can be seen.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(element).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
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

/// Scores of all rows of `q` for some keys of `head_dim` elements.
#[inline(always)]
fn score<S: Simd, E: Element>(
    simd: S,
    q: &[f32],
    keys: &[*const E],
    head_dim: usize,
    weights: &mut [f32],
) {
    let rows = q.len() / head_dim;
    for first in (0..keys.len()).step_by(DOT_COLUMNS) {
        let mut four = [keys[first]; DOT_COLUMNS];
        for (i, key) in four.iter_mut().enumerate() {
            // Missing keys repeat the last one; their scores are masked.
            *key = keys[(first + i).min(keys.len() - 1)];
        }
        let emit = |row: usize, scores: [f32; DOT_COLUMNS]| {
            weights[row * KEYS + first..][..DOT_COLUMNS].copy_from_slice(&scores);
        };
        // SAFETY: `q` holds `rows` rows, and each key was made from a slice of `head_dim`.
        unsafe { dots(simd, q.as_ptr(), head_dim, rows, four, head_dim, emit) };
    }
}

/// Multiplies every row of scores or weights by the scales of the keys or values they are for.
#[inline(always)]
fn scale_rows<S: Simd>(simd: S, rows: &mut [f32], scales: &[f32; KEYS]) {
    for row in rows.chunks_exact_mut(KEYS) {
        for at in (0..KEYS).step_by(S::LANES) {
            let scaled = simd.mul(simd.read(&row[at..]), simd.read(&scales[at..]));
            simd.write(&mut row[at..], scaled);
        }
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

/// Adds the weighted values of a block to all rows of `sums`.
#[inline(always)]
fn collect<S: Simd, E: Element>(
    simd: S,
    weights: &[f32],
    values: &[*const E],
    width: usize,
    sums: &mut [f32],
) {
    let rows = sums.len() / width;
    assert!(values.len() <= KEYS && weights.len() >= rows * KEYS);
    let (weights, sums) = (weights.as_ptr(), sums.as_mut_ptr());
    // SAFETY: the rows were just counted, and every value is readable for `width`: either that
    // is `head_dim`, or it was copied to such rows.
    unsafe { axpys(simd, weights, KEYS, rows, values, width, sums, width) };
}

#[cfg(test)]
mod tests;
