//! Pictures of newcomers, together where they fit.

use std::ops::Range;

use candle_core::Tensor;
use vlmd_backend::{ImageInput, Model};

use super::guard::guarded;

/// Pixels of one call to the encoder, in bytes: about forty crops of 336 x 336. The activations
/// of a vision tower are several times as large. One request's pictures are never divided.
const CALL_BYTES: usize = 64 << 20;

/// Features of each request's pictures. Where a joint call fails each of its requests is tried
/// alone, so that one bad picture fails one request.
pub(super) fn encode(
    model: &dyn Model,
    requests: &[&[ImageInput]],
) -> Vec<Result<Vec<Tensor>, String>> {
    let bytes = |images: &&[ImageInput]| images.iter().map(pixel_bytes).sum();
    let sizes: Vec<usize> = requests.iter().map(bytes).collect();
    let mut features = Vec::with_capacity(requests.len());
    for group in groups(&sizes, CALL_BYTES) {
        let group = &requests[group];
        match call(model, &flat(group)) {
            Ok(mut all) => features.extend(group.iter().map(|images| {
                let rest = all.split_off(images.len());
                Ok(std::mem::replace(&mut all, rest))
            })),
            Err(error) if group.len() == 1 => features.push(Err(error)),
            Err(_) => {
                let alone = |images| call(model, &flat(&[images]));
                features.extend(group.iter().copied().map(alone));
            }
        }
    }
    features
}

fn flat<'a>(requests: &[&'a [ImageInput]]) -> Vec<&'a ImageInput> {
    requests.iter().copied().flatten().collect()
}

fn pixel_bytes(image: &ImageInput) -> usize {
    image.pixels.elem_count() * image.pixels.dtype().size_in_bytes()
}

/// Neighbours that share a call: as many as stay within `bound`, at least one.
fn groups(sizes: &[usize], bound: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut total = 0_usize;
    for (at, &size) in sizes.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if total.saturating_add(size) <= bound => {
                group.end = at + 1;
                total += size;
            }
            _ => {
                groups.push(at..at + 1);
                total = size;
            }
        }
    }
    groups
}

/// One call to the encoder, whose answer must have the shapes that were promised.
fn call(model: &dyn Model, images: &[&ImageInput]) -> Result<Vec<Tensor>, String> {
    if images.is_empty() {
        return Ok(Vec::new());
    }
    let features = guarded(|| model.encode(images))?;
    let spec = model.spec();
    let as_promised = |(given, image): (&Tensor, &&ImageInput)| match spec.cross_feature_bytes {
        0 => given.dims() == [image.features, spec.hidden_size],
        // What is kept for cross-attention has the model's own shape, and a size.
        each => given.elem_count() * given.dtype().size_in_bytes() <= image.features * each,
    };
    if features.len() == images.len() && features.iter().zip(images).all(as_promised) {
        return Ok(features);
    }
    let shapes: Vec<_> = features.iter().map(Tensor::dims).collect();
    Err(format!(
        "the encoder gave features of shapes {shapes:?} for {} pictures",
        images.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_call_within_the_bound() {
        assert!(groups(&[], 10).is_empty());
        assert_eq!(
            groups(&[4, 6, 1, 9, 10, 11, 0, 3], 10),
            [0..2, 2..4, 4..5, 5..6, 6..8]
        );
        assert_eq!(groups(&[20, 1], 10), [0..1, 1..2]);
    }
}
