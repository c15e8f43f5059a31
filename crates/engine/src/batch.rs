//! From slices of sequences to one flat [`Step`].

use std::ops::Range;

use candle_core::{Error, Result, Tensor};
use vlmd_backend::{BLOCK_TOKENS, CrossImage, CrossRows, CrossSpan, ImageSpan, Splice, Step};

/// A sequence's part in a step.
#[derive(Debug, Clone)]
pub(crate) struct Slice<'a> {
    /// All tokens known so far.
    pub(crate) known: &'a [u32],
    /// Which of them are computed now. Those before are cached.
    pub(crate) rows: Range<usize>,
    /// At least as many as `rows.end` tokens take.
    pub(crate) blocks: &'a [u32],
    /// Most that the sequence may grow to.
    pub(crate) max_len: usize,
    /// Image spans of the prompt.
    pub(crate) spans: &'a [ImageSpan],
    /// What tokens look at by cross-attention.
    pub(crate) cross: &'a [CrossSpan],
    /// Features of each image, for as long as any row needs them.
    pub(crate) features: &'a [Option<Tensor>],
    /// How many of the last rows are asked for logits.
    pub(crate) logits: usize,
}

/// `EngineConfig::resolve` bounds rows, slots and lengths by `u32::MAX`.
fn index(n: usize) -> u32 {
    n as u32
}

/// Puts the slices side by side.
///
/// # Errors
/// When the device fails to narrow image features.
pub(crate) fn build(slices: &[Slice<'_>]) -> Result<Step> {
    let blocks_of = |slice: &Slice<'_>| slice.rows.end.div_ceil(BLOCK_TOKENS);
    let max_blocks = slices.iter().map(blocks_of).max().unwrap_or(0);
    let mut step = Step {
        cu_q: vec![0],
        max_blocks,
        ..Step::default()
    };
    for slice in slices {
        let first_row = step.tokens.len();
        step.tokens
            .extend_from_slice(&slice.known[slice.rows.clone()]);
        step.positions.extend(slice.rows.clone().map(index));
        let slot = |at: usize| {
            slice.blocks[at / BLOCK_TOKENS] * index(BLOCK_TOKENS) + index(at % BLOCK_TOKENS)
        };
        step.kv_slots.extend(slice.rows.clone().map(slot));
        step.cu_q.push(index(step.tokens.len()));
        step.kv_len.push(index(slice.rows.end));
        step.max_len.push(index(slice.max_len));
        step.block_table
            .extend_from_slice(&slice.blocks[..blocks_of(slice)]);
        step.block_table.resize(step.kv_len.len() * max_blocks, 0);
        for span in slice.spans {
            step.splices.extend(splice(slice, span, first_row)?);
        }
        for span in slice.cross {
            step.cross.extend(cross_rows(slice, span, first_row)?);
        }
        let end = step.tokens.len();
        step.logit_rows.extend((end - slice.logits..end).map(index));
    }
    Ok(step)
}

/// The tokens of a span that are computed now, if any.
fn common(rows: &Range<usize>, span: &Range<usize>) -> Option<Range<usize>> {
    let both = rows.start.max(span.start)..rows.end.min(span.end);
    (!both.is_empty()).then_some(both)
}

fn features<'a>(slice: &Slice<'a>, image: usize) -> Result<&'a Tensor> {
    let features = slice.features.get(image).and_then(Option::as_ref);
    features.ok_or_else(|| Error::msg("an image has no features"))
}

/// The rows of `span` that fall into `slice`, which begins at the step's row `first_row`.
fn splice(slice: &Slice<'_>, span: &ImageSpan, first_row: usize) -> Result<Option<Splice>> {
    let Some(tokens) = common(&slice.rows, &span.tokens) else {
        return Ok(None);
    };
    let first = tokens.start - span.tokens.start;
    Ok(Some(Splice {
        row: first_row + tokens.start - slice.rows.start,
        features: features(slice, span.image)?.narrow(0, first, tokens.len())?,
    }))
}

/// The rows of `slice` that look at the pictures of `span`.
fn cross_rows(slice: &Slice<'_>, span: &CrossSpan, first_row: usize) -> Result<Option<CrossRows>> {
    let Some(tokens) = common(&slice.rows, &span.tokens) else {
        return Ok(None);
    };
    let row = |token| first_row + token - slice.rows.start;
    let seen = |image: &CrossImage| Ok((features(slice, image.image)?.clone(), image.visible));
    Ok(Some(CrossRows {
        rows: row(tokens.start)..row(tokens.end),
        images: span.images.iter().map(seen).collect::<Result<_>>()?,
        unseen: span.unseen,
    }))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn slice<'a>(known: &'a [u32], rows: Range<usize>, blocks: &'a [u32]) -> Slice<'a> {
        Slice {
            known,
            rows,
            blocks,
            max_len: 100,
            spans: &[],
            cross: &[],
            features: &[],
            logits: 0,
        }
    }

    #[test]
    fn rows_look_at_the_pictures_of_the_span_they_fall_into() {
        let pictures = [1f32, 2.].map(|x| Some(Tensor::new(&[x], &Device::Cpu).unwrap()));
        let span = |images: &[usize], tokens, unseen| CrossSpan {
            images: images
                .iter()
                .map(|&image| CrossImage { image, visible: 1 })
                .collect(),
            tokens,
            unseen,
        };
        let spans = [
            span(&[0, 1], 0..2, true),
            span(&[0], 2..5, false),
            span(&[0, 1], 5..usize::MAX, false),
        ];
        let known = [0; 9];
        let seen = |rows: Range<usize>| {
            let mut chunk = slice(&known, rows, &[0]);
            (chunk.cross, chunk.features) = (&spans, &pictures);
            let before = slice(&[1, 2], 0..2, &[1]);
            let step = build(&[before, chunk]).unwrap();
            let plain = |rows: CrossRows| (rows.rows, rows.images.len(), rows.unseen);
            step.cross.into_iter().map(plain).collect::<Vec<_>>()
        };
        assert_eq!(
            seen(0..9),
            [(2..4, 2, true), (4..7, 1, false), (7..11, 2, false)]
        );
        assert_eq!(seen(3..6), [(2..4, 1, false), (4..5, 2, false)]);
        assert_eq!(seen(8..9), [(2..3, 2, false)], "the answer, too");
    }

    #[test]
    fn a_prefill_chunk_and_a_decode_stand_side_by_side() {
        let long: Vec<u32> = (100..140).collect();
        let mut decode = slice(&[7, 8, 9], 2..3, &[5, 6]);
        decode.logits = 1;
        let step = build(&[decode, slice(&long, 30..36, &[3, 1, 0])]).unwrap();
        assert_eq!(step.tokens, [9, 130, 131, 132, 133, 134, 135]);
        assert_eq!(step.positions, [2, 30, 31, 32, 33, 34, 35]);
        let slots = [5 * 32 + 2, 3 * 32 + 30, 3 * 32 + 31, 32, 33, 34, 35];
        assert_eq!(step.kv_slots, slots);
        assert_eq!(step.cu_q, [0, 1, 7]);
        assert_eq!(step.kv_len, [3, 36]);
        assert_eq!(step.max_len, [100, 100]);
        assert_eq!((step.max_blocks, step.block_table), (2, vec![5, 0, 3, 1]));
        assert_eq!(step.logit_rows, [0], "the second prompt is not complete");
        assert!(step.splices.is_empty());
    }

    #[test]
    fn logits_are_asked_for_of_the_last_rows() {
        let known: Vec<u32> = (0..9).collect();
        let mut guessed = slice(&known, 5..9, &[0]);
        guessed.logits = 3;
        let mut decode = slice(&known, 8..9, &[1]);
        decode.logits = 1;
        let step = build(&[guessed, slice(&known, 0..4, &[2]), decode]).unwrap();
        assert_eq!(step.logit_rows, [1, 2, 3, 8]);
    }

    #[test]
    fn chunk_borders_within_a_picture_give_each_row_its_own_feature() {
        let features = [
            Tensor::arange(0f32, 10., &Device::Cpu).unwrap(),
            Tensor::arange(100f32, 106., &Device::Cpu).unwrap(),
        ]
        .map(|t| Some(t.reshape(((), 2)).unwrap()));
        let span = |image, tokens| ImageSpan { image, tokens };
        // Five features, then three, then the first picture again.
        let spans = [span(0, 1..6), span(1, 6..9), span(0, 10..15)];
        let known = [0; 17];
        for size in 1..=17 {
            let mut seen = vec![None; 17];
            for start in (0..17).step_by(size) {
                let rows = start..(start + size).min(17);
                let mut chunk = slice(&known, rows, &[0]);
                (chunk.spans, chunk.features) = (&spans, &features);
                let before = slice(&[1, 2], 0..2, &[1]);
                let step = build(&[before, chunk]).unwrap();
                for splice in step.splices {
                    let values = splice.features.to_vec2::<f32>().unwrap();
                    for (offset, value) in values.into_iter().enumerate() {
                        let row = splice.row + offset - 2 + start;
                        assert_eq!(seen[row].replace(value[0]), None, "row {row} twice");
                    }
                }
            }
            let first = [0., 2., 4., 6., 8.].map(Some);
            let second = [100., 102., 104.].map(Some);
            let expected = [&[None], &first[..], &second, &[None], &first, &[None; 2]].concat();
            assert_eq!(seen, expected, "chunks of {size}");
        }
    }
}
