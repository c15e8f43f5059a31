//! What attention takes beside its arguments and its result: the part of a step's memory that
//! grows with more than the number of tokens, and that only this crate can know.
//!
//! Upper bounds: everything that a route makes is counted as if it were alive at once.

use candle_core::{DType, Device};

use crate::ragged::PAGE_TOKENS;

/// Scores that the route of candle's operations computes at a time, in f32: 256 MiB. Rows need
/// nothing of each other, so a prompt's scores need not be there together.
pub(crate) const MOST_SCORES: usize = 1 << 26;

/// Tokens of keys, the filling of short sequences included, that decodes are gathered for in one
/// go, unless one sequence alone has more.
pub(crate) const MOST_GATHERED: usize = 1 << 15;

/// Elements of a head that a lane of CUDA's attention takes, and what a head must be made of.
pub(crate) const LANE_ELEMENTS: usize = 8;

/// The largest head that the lanes of a warp hold together.
pub(crate) const MAX_HEAD_DIM: usize = 32 * LANE_ELEMENTS;

/// Pages of a split: what one block of a card's threads reads of a sequence with one new row, or
/// [`PAGE_TOKENS`] times as many keys of a picture that few rows look at.
///
/// Always as many, whatever else is in the step: the order in which a row is summed up must not
/// depend on others. Eight leave two to each warp; a sequence of 2048 tokens makes eight splits
/// for every key head, which is what one sequence alone needs to occupy a card. The sums of a
/// split, one head in f32, are 1/128 of the keys and values in 16 bits that it reads.
pub(crate) const SPLIT_PAGES: usize = 8;

/// Rows of all heads that share a key head, of one picture, up to which CUDA's dense attention
/// splits a picture's keys: with more there are blocks enough, and keys would be read too often.
pub(crate) const FEW_ROWS: usize = 32;

/// Bytes for each score: as the product gives it, widened, scaled, masked, as a weight, and as a
/// weight in the values' type.
const SCORE_BYTES: usize = 2 * 4 + 4 * 4;

/// Copies of keys or values that gathering makes at most, those that are at rest included.
const COPIES: usize = 8;

/// Where something is computed, as far as it decides how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The machine's own processors.
    Cpu,
    /// A CUDA device.
    Cuda,
}

impl Place {
    /// That of a device.
    #[must_use]
    pub fn of(device: &Device) -> Self {
        if device.is_cpu() {
            Self::Cpu
        } else {
            Self::Cuda
        }
    }
}

/// What attends to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attended {
    /// Query rows: tokens of one picture, or of one step.
    pub rows: usize,
    /// Keys that a row sees at most.
    pub keys: usize,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl Attended {
    /// Scores that are there at a time.
    fn scores(self) -> usize {
        let row = self.heads.saturating_mul(self.keys);
        row.saturating_mul(self.rows).min(row.max(MOST_SCORES))
    }

    /// Numbers of the keys of so many tokens, and of their values.
    fn keys_of(self, tokens: usize) -> usize {
        self.kv_heads
            .saturating_mul(self.head_dim)
            .saturating_mul(tokens)
    }
}

/// Bytes that [`attention()`](crate::attention()) takes for so many pictures of `shape`, or of fewer
/// rows, with queries of `dtype` that lie as [`attention()`](crate::attention()) takes them. On a CPU
/// there is no matrix of scores, and what its threads take is not worth counting.
#[must_use]
pub fn attention_scratch(place: Place, pictures: usize, shape: Attended, dtype: DType) -> usize {
    if place == Place::Cpu {
        return 0;
    }
    if has_kernel(shape.head_dim) {
        return few_rows(shape).saturating_mul(pictures);
    }
    // Pictures come one after the other, but for their copies by heads.
    let queries = [shape.rows, shape.heads, shape.head_dim]
        .into_iter()
        .fold(1, usize::saturating_mul);
    let copies = shape
        .keys_of(shape.keys)
        .saturating_mul(2)
        .saturating_add(queries)
        .saturating_mul(dtype.size_in_bytes())
        .saturating_mul(pictures);
    shape
        .scores()
        .saturating_mul(SCORE_BYTES)
        .saturating_add(copies)
}

/// Bytes that [`paged_attention()`](crate::paged_attention()) takes for a step of `shape.rows` tokens in up
/// to `sequences` sequences, the longest of `shape.keys`, with queries of `dtype`; 0 on a CPU, as above.
#[must_use]
pub fn paged_attention_scratch(
    place: Place,
    shape: Attended,
    sequences: usize,
    dtype: DType,
) -> usize {
    if place == Place::Cpu {
        return 0;
    }
    if has_kernel(shape.head_dim) {
        return partial_sums(shape, sequences);
    }
    let gathered = shape
        .keys_of(shape.keys.max(MOST_GATHERED))
        .saturating_mul(COPIES * dtype.size_in_bytes());
    let mask = shape
        .rows
        .saturating_mul(shape.keys)
        .saturating_mul(size_of::<f32>());
    shape
        .scores()
        .saturating_mul(SCORE_BYTES)
        .saturating_add(gathered)
        .saturating_add(mask)
}

/// Whether CUDA's own kernels of attention take heads of this width; others take the route of
/// candle's operations.
pub(crate) fn has_kernel(head_dim: usize) -> bool {
    head_dim.is_multiple_of(LANE_ELEMENTS) && head_dim <= MAX_HEAD_DIM
}

/// What the splits of sequences with one new row come to, in f32: for each head its sum of
/// values, the largest score, and the sum of weights relative to it. Prefills have none.
fn partial_sums(shape: Attended, sequences: usize) -> usize {
    let each = shape.head_dim.saturating_add(2);
    [splits(shape.keys), shape.heads, each, size_of::<f32>()]
        .into_iter()
        .fold(shape.rows.min(sequences), usize::saturating_mul)
}

/// The same of a picture, if its rows are so few that its keys are split.
fn few_rows(shape: Attended) -> usize {
    let most = FEW_ROWS.saturating_mul(shape.kv_heads);
    let rows = shape.rows.saturating_mul(shape.heads).min(most);
    let each = shape.head_dim.saturating_add(2);
    [splits(shape.keys), each, size_of::<f32>()]
        .into_iter()
        .fold(rows, usize::saturating_mul)
}

/// Splits of so many keys.
pub(crate) fn splits(keys: usize) -> usize {
    keys.div_ceil(PAGE_TOKENS).div_ceil(SPLIT_PAGES)
}

/// Rows whose scores are computed together, of `rows` with so many scores each: at least one.
pub(crate) fn rows_at_a_time(rows: usize, scores: usize) -> usize {
    (MOST_SCORES / scores.max(1)).clamp(1, rows.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: Attended = Attended {
        rows: 2048,
        keys: 1 << 17,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
    };

    #[test]
    fn a_picture_counts_no_scores_where_a_kernel_takes_it() {
        let bytes = |pictures, shape| attention_scratch(Place::Cuda, pictures, shape, DType::BF16);
        // Whatever its rows are, 32 of a group at most are split.
        let split = 512 * (128 + 2) * 4;
        assert_eq!(bytes(1, PROMPT), 32 * 8 * split);
        assert_eq!(bytes(5, PROMPT), 5 * 32 * 8 * split);
        let one = Attended { rows: 1, ..PROMPT };
        assert_eq!(bytes(1, one), 32 * split);
        assert_eq!(attention_scratch(Place::Cpu, 5, PROMPT, DType::F32), 0);
    }

    #[test]
    fn scores_of_odd_heads_are_bounded_however_long_a_prompt_is() {
        let odd = Attended {
            head_dim: 100,
            ..PROMPT
        };
        let bytes = attention_scratch(Place::Cuda, 2, odd, DType::BF16);
        let copies = 2 * 8 * 100 * (1 << 17) + 2048 * 32 * 100;
        assert_eq!(bytes, MOST_SCORES * 24 + 2 * 2 * copies);
        let small = Attended {
            rows: 3,
            keys: 5,
            ..odd
        };
        let bytes = attention_scratch(Place::Cuda, 1, small, DType::F32);
        let copies = (2 * 5 * 8 + 3 * 32) * 100 * 4;
        assert_eq!(bytes, 3 * 5 * 32 * 24 + copies);
    }

    #[test]
    fn paged_attention_counts_the_partial_sums_of_its_kernel() {
        let bytes =
            |shape, sequences| paged_attention_scratch(Place::Cuda, shape, sequences, DType::BF16);
        // 131072 tokens are 512 splits of 256.
        let split = 32 * (128 + 2) * 4;
        assert_eq!(bytes(PROMPT, 64), 64 * 512 * split);
        // A step of fewer rows than sequences has no more of them.
        assert_eq!(bytes(PROMPT, 1 << 20), 2048 * 512 * split);
        let short = Attended {
            keys: 257,
            ..PROMPT
        };
        assert_eq!(bytes(short, 3), 3 * 2 * split);
        let absurd = Attended {
            keys: usize::MAX,
            ..PROMPT
        };
        assert_eq!(bytes(absurd, 64), usize::MAX);
        let cpu = paged_attention_scratch(Place::Cpu, PROMPT, 64, DType::F32);
        assert_eq!(cpu, 0);
    }

    #[test]
    fn paged_attention_of_odd_heads_counts_what_it_gathers_and_its_masks() {
        for (head_dim, kernel) in [
            (8, true),
            (96, true),
            (256, true),
            (100, false),
            (264, false),
        ] {
            assert_eq!(has_kernel(head_dim), kernel, "{head_dim}");
        }
        let odd = Attended {
            head_dim: 100,
            ..PROMPT
        };
        let bytes = paged_attention_scratch(Place::Cuda, odd, 64, DType::BF16);
        let gathered = 8 * 2 * 8 * 100 * (1 << 17);
        assert_eq!(bytes, MOST_SCORES * 24 + gathered + 2048 * (1 << 17) * 4);
    }

    #[test]
    fn rows_are_taken_together_as_far_as_their_scores_fit() {
        assert_eq!(rows_at_a_time(7, 10), 7);
        assert_eq!(rows_at_a_time(1 << 20, MOST_SCORES / 3), 3);
        assert_eq!(rows_at_a_time(5, 2 * MOST_SCORES), 1);
        assert_eq!(rows_at_a_time(0, 0), 1);
    }
}
