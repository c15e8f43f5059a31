//! Prompts in which one token stands for a picture until its features take its place.

use vlmd_backend::{ImageInput, ImageSpan, Prepared};

use crate::PrepareError;

/// Stands where a picture's features will. Never looked at.
const FILLER: u32 = 0;

/// Where the `placeholder` is among `tokens`.
///
/// # Errors
/// When that is in more or fewer than `places` places.
pub(crate) fn find(
    tokens: &[u32],
    placeholder: u32,
    places: usize,
) -> Result<Vec<usize>, PrepareError> {
    let tokens = tokens.iter().enumerate();
    let found = tokens.filter(|&(_, &token)| token == placeholder);
    let found: Vec<usize> = found.map(|(at, _)| at).collect();
    if found.len() == places {
        return Ok(found);
    }
    Err(PrepareError::Template(format!(
        "it writes {} image token(s) for {places} picture(s)",
        found.len()
    )))
}

/// Appends the place of a picture's features to a prompt. `image` is an index into its pictures.
pub(crate) fn push(prepared: &mut Prepared, image: usize) {
    let start = prepared.tokens.len();
    let features = prepared.images.get(image).map_or(0, |image| image.features);
    prepared.tokens.resize(start + features, FILLER);
    prepared.spans.push(ImageSpan {
        image,
        tokens: start..start + features,
    });
}

/// Widens the `k`-th `placeholder` to the features of `images[places[k]]`.
///
/// # Errors
/// When there are more or fewer placeholders than places.
pub(crate) fn expand(
    tokens: &[u32],
    placeholder: u32,
    places: &[usize],
    images: Vec<ImageInput>,
) -> Result<Prepared, PrepareError> {
    let found = find(tokens, placeholder, places.len())?;
    let mut prepared = Prepared {
        images,
        ..Prepared::default()
    };
    let mut from = 0;
    for (at, &image) in found.into_iter().zip(places) {
        prepared.tokens.extend_from_slice(&tokens[from..at]);
        push(&mut prepared, image);
        from = at + 1;
    }
    prepared.tokens.extend_from_slice(&tokens[from..]);
    Ok(prepared)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use vlmd_backend::Pixels;

    use super::*;

    #[test]
    fn each_placeholder_becomes_its_pictures_features() {
        let pixels = Tensor::zeros((1, 3, 1, 1), DType::F32, &Device::Cpu).unwrap();
        let pixels = vec![Pixels::Values(pixels)];
        let image = |features| ImageInput::new(pixels.clone(), (1, 1), features).unwrap();
        let images = || vec![image(2), image(1)];
        let prepared = expand(&[5, 9, 6, 9, 9], 9, &[1, 0, 1], images()).unwrap();
        assert_eq!(prepared.tokens, [5, 0, 6, 0, 0, 0]);
        let spans: Vec<_> = prepared
            .spans
            .iter()
            .map(|s| (s.image, s.tokens.clone()))
            .collect();
        assert_eq!(spans, [(1, 1..2), (0, 3..5), (1, 5..6)]);
        let error = expand(&[9], 9, &[], images()).unwrap_err().to_string();
        assert!(
            error.contains("1 image token(s) for 0 picture(s)"),
            "{error}"
        );
    }
}
