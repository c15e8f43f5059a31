//! Checks on a prompt, before it can meet others in a step.

use vlmd_backend::{CrossImage, ModelSpec, Prepared};

/// What is wrong with `prompt`, if anything: a step must never fail for one request's data.
pub(crate) fn check(prompt: &Prepared, spec: &ModelSpec) -> Result<(), String> {
    let tokens = prompt.tokens.len();
    if tokens == 0 {
        return Err("it has no tokens".to_owned());
    }
    let mut text_from = 0;
    for span in &prompt.spans {
        let range = &span.tokens;
        if range.start < text_from || range.end < range.start || range.end > tokens {
            return Err(format!(
                "its image span {}..{} is out of order or beyond its {tokens} tokens",
                range.start, range.end
            ));
        }
        let Some(image) = prompt.images.get(span.image) else {
            return Err(format!(
                "its image span names image {} of {}",
                span.image,
                prompt.images.len()
            ));
        };
        if range.len() != image.features {
            return Err(format!(
                "its image span has {} tokens for {} features",
                range.len(),
                image.features
            ));
        }
        text_from = range.end;
    }
    let mut cross_from = 0;
    for span in &prompt.cross {
        let range = &span.tokens;
        if range.start < cross_from || range.end < range.start {
            return Err(format!(
                "its cross-attention span {}..{} is out of order",
                range.start, range.end
            ));
        }
        if span.images.is_empty() {
            return Err("its cross-attention span names no image".to_owned());
        }
        for &CrossImage { image, visible } in &span.images {
            let Some(of) = prompt.images.get(image) else {
                return Err(format!(
                    "its cross-attention span names image {image} of {}",
                    prompt.images.len()
                ));
            };
            if visible == 0 || visible > of.features {
                return Err(format!(
                    "its cross-attention span shows {visible} of {} features",
                    of.features
                ));
            }
        }
        cross_from = range.end;
    }
    match text(prompt).find(|&id| id as usize >= spec.input_vocab_size) {
        Some(id) => Err(format!(
            "its token id {id} is not below the vocabulary's {}",
            spec.input_vocab_size
        )),
        None => Ok(()),
    }
}

/// The ids outside of the image spans of a prompt whose spans are in order.
pub(crate) fn text(prompt: &Prepared) -> impl Iterator<Item = u32> {
    let starts = prompt.spans.iter().map(|span| span.tokens.start);
    let ends = prompt.spans.iter().map(|span| span.tokens.end);
    let gaps = std::iter::once(0)
        .chain(ends)
        .zip(starts.chain(std::iter::once(prompt.tokens.len())));
    gaps.flat_map(|(from, to)| prompt.tokens[from..to].iter().copied())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use vlmd_backend::{CrossImage, CrossSpan, ImageInput, ImageSpan, Pixels};

    use super::*;

    const SPEC: ModelSpec = ModelSpec {
        layers: 1,
        kv_heads: 1,
        head_dim: 4,
        hidden_size: 4,
        vocab_size: 10,
        input_vocab_size: 10,
        max_positions: 64,
        long_beyond: None,
        cross_feature_bytes: 0,
    };

    fn prompt(tokens: &[u32], spans: &[(usize, usize, usize)]) -> Prepared {
        let pixels = Tensor::zeros((1, 3, 2, 2), DType::F32, &Device::Cpu).unwrap();
        let span = |&(image, start, end)| ImageSpan {
            image,
            tokens: start..end,
        };
        Prepared {
            tokens: tokens.to_vec(),
            images: vec![ImageInput::new(vec![Pixels::Values(pixels)], (2, 2), 2).unwrap()],
            spans: spans.iter().map(span).collect(),
            cross: Vec::new(),
        }
    }

    #[test]
    fn cross_attention_spans_are_in_order_and_name_pictures_that_are_there() {
        let check_spans = |spans: &[(usize, usize, usize)]| {
            let mut prompt = prompt(&[1, 2, 3], &[]);
            let span = |&(image, start, end)| CrossSpan {
                images: vec![CrossImage { image, visible: 2 }],
                tokens: start..end,
                unseen: false,
            };
            prompt.cross = spans.iter().map(span).collect();
            check(&prompt, &SPEC)
        };
        assert_eq!(check_spans(&[(0, 0, 1), (0, 1, usize::MAX)]), Ok(()));
        assert_eq!(
            check_spans(&[(0, 1, 3), (0, 2, 4)]).unwrap_err(),
            "its cross-attention span 2..4 is out of order"
        );
        assert_eq!(
            check_spans(&[(1, 0, 3)]).unwrap_err(),
            "its cross-attention span names image 1 of 1"
        );
        let mut blind = prompt(&[1, 2, 3], &[]);
        blind.cross = vec![CrossSpan {
            images: vec![CrossImage {
                image: 0,
                visible: 3,
            }],
            tokens: 0..3,
            unseen: true,
        }];
        assert_eq!(
            check(&blind, &SPEC).unwrap_err(),
            "its cross-attention span shows 3 of 2 features"
        );
        blind.cross[0].images.clear();
        assert_eq!(
            check(&blind, &SPEC).unwrap_err(),
            "its cross-attention span names no image"
        );
    }

    #[test]
    fn fillers_within_a_span_may_be_any_id() {
        let prompt = prompt(&[1, 99, 99, 2, 99, 99, 3], &[(0, 1, 3), (0, 4, 6)]);
        assert_eq!(check(&prompt, &SPEC), Ok(()));
        assert_eq!(text(&prompt).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_prompt_that_would_break_a_step_is_refused_with_its_reason() {
        let four = [1, 2, 3, 4];
        for (tokens, spans, reason) in [
            (&[][..], &[][..], "it has no tokens"),
            (
                &[1, 10],
                &[],
                "its token id 10 is not below the vocabulary's 10",
            ),
            (
                &four,
                &[(0, 3, 5)],
                "its image span 3..5 is out of order or beyond its 4 tokens",
            ),
            (
                &four,
                &[(0, 2, 4), (0, 0, 2)],
                "its image span 0..2 is out of order or beyond its 4 tokens",
            ),
            (
                &four,
                &[(0, 0, 2), (0, 1, 3)],
                "its image span 1..3 is out of order or beyond its 4 tokens",
            ),
            (
                &four,
                &[(0, 3, 1)],
                "its image span 3..1 is out of order or beyond its 4 tokens",
            ),
            (&four, &[(1, 0, 2)], "its image span names image 1 of 1"),
            (
                &four,
                &[(0, 0, 3)],
                "its image span has 3 tokens for 2 features",
            ),
        ] {
            let error = check(&prompt(tokens, spans), &SPEC).unwrap_err();
            assert_eq!(error, reason);
        }
    }
}
