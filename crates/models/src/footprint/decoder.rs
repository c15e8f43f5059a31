//! A step of a decoder.

use vlmd_kernels::{Attended, attention_scratch, paged_attention_scratch};

use super::{Compute, StepBound, product, sum};
use crate::common::sizes::Sizes;

/// Sizes of a decoder, whatever it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecoderShape {
    pub(crate) vocab_size: usize,
    pub(crate) hidden: usize,
    /// Inner width of the MLP.
    pub(crate) inner: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Layers that look at pictures.
    pub(crate) looking: usize,
}

impl DecoderShape {
    pub(crate) fn new(sizes: &Sizes, looking: usize) -> Self {
        Self {
            vocab_size: sizes.vocab_size,
            hidden: sizes.hidden_size,
            inner: sizes.intermediate_size,
            heads: sizes.heads,
            kv_heads: sizes.kv_heads,
            head_dim: sizes.head_dim,
            looking,
        }
    }

    /// Numbers of a key, or of a value.
    pub(super) fn key_width(&self) -> usize {
        self.kv_heads.saturating_mul(self.head_dim)
    }

    /// Bytes of one step in which tokens look at up to `looked_at` features.
    ///
    /// A layer's two halves and the head come one after the other: the largest of them counts.
    /// Per token, in numbers of the activations' type:
    ///
    /// | while | |
    /// |---|---|
    /// | always | hidden state, cosines and sines |
    /// | attention | its input twice, normed and as residual; queries, keys and values, once fused, once turned, and once more as the cache's type; the result twice, the output |
    /// | looking | the same, where instead of own keys those of pictures are put together and copied |
    /// | MLP | its input twice; gate and value, the activated gate, the product; the output |
    /// | head | the hidden state of each row, normed; its logits, and these in f32 |
    pub(super) fn step_bytes(
        &self,
        bound: &StepBound,
        looked_at: usize,
        compute: Compute,
    ) -> usize {
        let (tokens, size) = (bound.tokens, compute.size());
        let queries = self.heads.saturating_mul(self.head_dim);
        let fused = sum([queries, product([2, self.key_width()])]);
        let each = |numbers: usize| product([tokens, numbers, size]);
        let shape = |keys| Attended {
            rows: tokens,
            keys,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
        };
        let around = product([3, self.hidden]);
        let attention = sum([
            each(sum([around, product([3, fused]), product([2, queries])])),
            paged_attention_scratch(
                compute.place,
                shape(bound.longest),
                bound.sequences,
                compute.activations,
            ),
        ]);
        let looking = if looked_at == 0 {
            0
        } else {
            sum([
                each(sum([around, product([4, queries])])),
                product([4, looked_at, self.key_width(), size]),
                attention_scratch(compute.place, 1, shape(looked_at), compute.activations),
            ])
        };
        let mlp = each(sum([around, product([4, self.inner])]));
        let head = product([
            bound.logit_rows,
            sum([
                product([2, self.hidden, size]),
                product([self.vocab_size, size]),
                product([self.vocab_size, size_of::<f32>()]),
            ]),
        ]);
        let always = each(sum([self.hidden, product([2, self.head_dim])]));
        always.saturating_add(attention.max(looking).max(mlp).max(head))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use vlmd_kernels::Place;

    use super::*;

    const LLAMA: DecoderShape = DecoderShape {
        vocab_size: 128_256,
        hidden: 4096,
        inner: 14_336,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        looking: 8,
    };
    const BOUND: StepBound = StepBound {
        tokens: 2048,
        logit_rows: 64,
        longest: 4096,
        sequences: 64,
        pictures: 1,
    };

    fn bytes(bound: &StepBound, looked_at: usize, place: Place) -> usize {
        LLAMA.step_bytes(bound, looked_at, Compute::of(place, Some(DType::BF16)))
    }

    #[test]
    fn the_widest_part_counts() {
        // On a CPU attention takes nothing by itself: the MLP is the widest, in f32.
        let always = 2048 * (4096 + 2 * 128) * 4;
        let mlp = 2048 * (3 * 4096 + 4 * 14_336) * 4;
        assert_eq!(bytes(&BOUND, 0, Place::Cpu), always + mlp);
        // With all rows' logits the head is.
        let all = StepBound {
            logit_rows: 2048,
            ..BOUND
        };
        let head = 2048 * (2 * 4096 * 4 + 128_256 * 8);
        assert_eq!(bytes(&all, 0, Place::Cpu), always + head);
    }

    #[test]
    fn long_sequences_count_where_they_are_split() {
        let many = |sequences, place| {
            let bound = StepBound {
                longest: 1 << 17,
                sequences,
                ..BOUND
            };
            bytes(&bound, 0, place)
        };
        assert_eq!(many(1024, Place::Cpu), many(1, Place::Cpu));
        let (few, more) = (many(1024, Place::Cuda), many(1025, Place::Cuda));
        assert_eq!(more - few, 512 * 32 * 130 * 4);
    }

    #[test]
    fn pictures_that_are_looked_at_count() {
        let without = bytes(&BOUND, 0, Place::Cuda);
        let with = bytes(&BOUND, 50 * 6404, Place::Cuda);
        assert!(with > without, "{with} {without}");
        // Not more than their keys and values, put together and copied.
        assert!(with < 8 << 30, "{with}");
    }

    #[test]
    fn absurd_sizes_saturate() {
        let absurd = DecoderShape {
            inner: usize::MAX,
            ..LLAMA
        };
        let compute = Compute::of(Place::Cpu, None);
        assert_eq!(absurd.step_bytes(&BOUND, 0, compute), usize::MAX);
    }
}
