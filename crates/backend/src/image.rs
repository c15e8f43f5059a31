//! A picture on its way into a model, and the key under which caches know it.

use std::fmt;

use candle_core::{DType, Result, Tensor};

/// What a picture is, to every cache: a keyed digest of all that an encoder sees of it.
///
/// Pictures with equal keys have equal features under the same model. A cryptographic digest,
/// because a collision would show a user somebody else's picture.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageKey([u8; 32]);

impl ImageKey {
    /// The digest.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "ImageKey({a:02x}{b:02x}{c:02x}{d:02x}..)")
    }
}

/// A picture as the model's encoder takes it.
#[derive(Debug, Clone)]
pub struct ImageInput {
    /// `[n, channels, height, width]`, f32, on the CPU. What the `n` are is the architecture's
    /// business: crops, tiles, a single view.
    pub pixels: Tensor,
    /// `(height, width)` in pixels of the picture that the `n` parts were cut from.
    pub size: (usize, usize),
    /// Feature rows that the encoder gives for it.
    pub features: usize,
    key: ImageKey,
}

impl ImageInput {
    /// Takes the picture's digest, which reads all of its pixels: not for an async worker.
    ///
    /// # Errors
    /// When the pixels are no f32 on the CPU.
    pub fn new(pixels: Tensor, size: (usize, usize), features: usize) -> Result<Self> {
        let key = digest(&pixels, size, features)?;
        Ok(Self {
            pixels,
            size,
            features,
            key,
        })
    }

    /// The same for equal pictures, and for no others.
    #[must_use]
    pub fn key(&self) -> ImageKey {
        self.key
    }
}

/// Every field goes in with its length, so that no two pictures give the same bytes
/// (CVE-2025-46722 was a key that left out the shape).
fn digest(pixels: &Tensor, size: (usize, usize), features: usize) -> Result<ImageKey> {
    if pixels.dtype() != DType::F32 {
        candle_core::bail!("pixels must be f32, not {}", pixels.dtype().as_str());
    }
    let mut hasher = blake3::Hasher::new_derive_key("vlmd 2026 image input");
    let mut number = |n: usize| {
        hasher.update(&(n as u64).to_le_bytes());
    };
    number(pixels.rank());
    pixels.dims().iter().copied().for_each(&mut number);
    number(size.0);
    number(size.1);
    number(features);
    let values = pixels.flatten_all()?.to_vec1::<f32>()?;
    hasher.update(bytemuck::cast_slice(&values));
    Ok(ImageKey(*hasher.finalize().as_bytes()))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn keys_tell_content_shape_size_and_features_apart() {
        let pixels = |dims: &[usize], first: f32| {
            let mut values = vec![0f32; dims.iter().product()];
            values[0] = first;
            Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
        };
        let inputs = [
            (pixels(&[1, 3, 2, 4], 0.0), (2, 4), 5),
            (pixels(&[1, 3, 4, 2], 0.0), (2, 4), 5),
            (pixels(&[2, 3, 2, 2], 0.0), (2, 4), 5),
            (pixels(&[1, 3, 2, 4], 1.0), (2, 4), 5),
            (pixels(&[1, 3, 2, 4], -0.0), (2, 4), 5),
            (pixels(&[1, 3, 2, 4], 0.0), (4, 2), 5),
            (pixels(&[1, 3, 2, 4], 0.0), (2, 4), 6),
        ];
        let key = |(pixels, size, features): &(Tensor, _, _)| {
            ImageInput::new(pixels.clone(), *size, *features)
                .unwrap()
                .key()
        };
        let keys: std::collections::BTreeSet<_> = inputs.iter().map(key).collect();
        assert_eq!(keys.len(), inputs.len());
        assert_eq!(key(&inputs[0]), key(&inputs[0].clone()));
    }

    #[test]
    fn a_view_of_a_tensor_has_the_key_of_its_values() {
        let whole = Tensor::arange(0f32, 24., &Device::Cpu).unwrap();
        let view = whole
            .reshape((2, 1, 3, 4))
            .unwrap()
            .narrow(0, 1, 1)
            .unwrap();
        let same = view.force_contiguous().unwrap();
        let key = |pixels| ImageInput::new(pixels, (3, 4), 1).unwrap().key();
        assert_eq!(key(view), key(same));
        let other = whole.to_dtype(DType::F64).unwrap();
        assert!(ImageInput::new(other, (3, 4), 1).is_err());
    }
}
