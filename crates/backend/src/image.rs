//! A picture on its way into a model, and the key under which caches know it.

use std::fmt;

use candle_core::{Result, bail};

use crate::pixels::Pixels;

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
    /// What it consists of, in order: at least one part, and all of one height and width. What
    /// the parts are is the architecture's business: crops, tiles, a single view.
    pub pixels: Vec<Pixels>,
    /// `(height, width)` in pixels of the picture that the parts were cut from.
    pub size: (usize, usize),
    /// Feature rows that the encoder gives for it.
    pub features: usize,
    /// `(height, width)` of a part in pixels.
    sides: (usize, usize),
    key: ImageKey,
}

impl ImageInput {
    /// Takes the picture's digest, which reads all of its pixels: not for an async worker.
    ///
    /// # Errors
    /// When there are no pixels, or they are not what [`Pixels`] says, or not of one size.
    pub fn new(pixels: Vec<Pixels>, size: (usize, usize), features: usize) -> Result<Self> {
        let mut sides = None;
        for parts in &pixels {
            let (_, found) = parts.check()?;
            if let Some(known) = sides.replace(found)
                && known != found
            {
                bail!("parts of a picture are of {known:?} and of {found:?} pixels");
            }
        }
        let Some(sides) = sides else {
            bail!("a picture has no pixels");
        };
        Ok(Self {
            key: digest(&pixels, size, features)?,
            pixels,
            size,
            features,
            sides,
        })
    }

    /// How many parts it consists of.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.pixels.iter().map(Pixels::count).sum()
    }

    /// `(height, width)` of each of them, in pixels.
    #[must_use]
    pub fn sides(&self) -> (usize, usize) {
        self.sides
    }

    /// Pixels of all of them, which is what encoding costs.
    #[must_use]
    pub fn area(&self) -> usize {
        let (height, width) = self.sides;
        self.parts().saturating_mul(height).saturating_mul(width)
    }

    /// Bytes that its pixels take in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let bytes = self.pixels.iter().map(Pixels::bytes);
        bytes.fold(0, usize::saturating_add)
    }

    /// The same for equal pictures, and for no others.
    #[must_use]
    pub fn key(&self) -> ImageKey {
        self.key
    }
}

/// Every field goes in with its length, so that no two pictures give the same bytes
/// (CVE-2025-46722 was a key that left out the shape).
fn digest(pixels: &[Pixels], size: (usize, usize), features: usize) -> Result<ImageKey> {
    let mut hasher = blake3::Hasher::new_derive_key("vlmd 2026 image input");
    for number in [size.0, size.1, features, pixels.len()] {
        hasher.update(&(number as u64).to_le_bytes());
    }
    for parts in pixels {
        parts.digest(&mut hasher)?;
    }
    Ok(ImageKey(*hasher.finalize().as_bytes()))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::LevelTable;

    fn values(dims: &[usize], first: f32) -> Pixels {
        let mut values = vec![0f32; dims.iter().product()];
        values[0] = first;
        Pixels::Values(Tensor::from_vec(values, dims, &Device::Cpu).unwrap())
    }

    /// Black but for the first level, in a table whose last entry is this.
    fn levels(dims: &[usize], first: u8, last: f32) -> Pixels {
        let mut levels = vec![0; dims.iter().product()];
        levels[0] = first;
        let mut rows = [[0.; 256]; 3];
        rows[2][255] = last;
        Pixels::Levels {
            levels: Tensor::from_vec(levels, dims, &Device::Cpu).unwrap(),
            table: LevelTable::new(rows),
        }
    }

    #[test]
    fn keys_tell_content_form_shape_size_and_features_apart() {
        let one = |pixels| (vec![pixels], (2, 4), 5);
        let inputs = [
            one(values(&[1, 3, 2, 4], 0.0)),
            one(values(&[1, 3, 4, 2], 0.0)),
            one(values(&[2, 3, 2, 2], 0.0)),
            one(values(&[1, 3, 2, 4], 1.0)),
            one(values(&[1, 3, 2, 4], -0.0)),
            (vec![values(&[1, 3, 2, 4], 0.0)], (4, 2), 5),
            (vec![values(&[1, 3, 2, 4], 0.0)], (2, 4), 6),
            // The same numbers in other parts.
            one(values(&[2, 3, 2, 4], 0.0)),
            (vec![values(&[1, 3, 2, 4], 0.0); 2], (2, 4), 5),
            // Levels that become the same values.
            one(levels(&[1, 2, 4, 3], 0, 0.0)),
            one(levels(&[1, 4, 2, 3], 0, 0.0)),
            one(levels(&[1, 2, 4, 3], 1, 0.0)),
            // A level that the picture does not have becomes something else.
            one(levels(&[1, 2, 4, 3], 0, 1.0)),
            (
                vec![values(&[1, 3, 2, 4], 0.0), levels(&[1, 2, 4, 3], 0, 0.0)],
                (2, 4),
                5,
            ),
            (
                vec![levels(&[1, 2, 4, 3], 0, 0.0), values(&[1, 3, 2, 4], 0.0)],
                (2, 4),
                5,
            ),
        ];
        let key = |(pixels, size, features): &(Vec<Pixels>, _, _)| {
            ImageInput::new(pixels.clone(), *size, *features)
                .unwrap()
                .key()
        };
        let keys: std::collections::BTreeSet<_> = inputs.iter().map(key).collect();
        assert_eq!(keys.len(), inputs.len());
        for input in &inputs {
            assert_eq!(key(input), key(&input.clone()));
        }
        // Equal tables that are not the same one.
        let again = one(levels(&[1, 2, 4, 3], 0, 0.0));
        assert!(keys.contains(&key(&again)));
    }

    #[test]
    fn a_view_of_a_tensor_has_the_key_of_its_values() {
        let whole = Tensor::arange(0f32, 72., &Device::Cpu).unwrap();
        let view = whole
            .reshape((2, 3, 3, 4))
            .unwrap()
            .narrow(0, 1, 1)
            .unwrap();
        let same = view.force_contiguous().unwrap();
        let key = |pixels| {
            let pixels = vec![Pixels::Values(pixels)];
            ImageInput::new(pixels, (3, 4), 1).unwrap().key()
        };
        assert_eq!(key(view), key(same));
    }

    #[test]
    fn parts_are_counted_over_all_forms_and_have_one_size() {
        let pixels = vec![values(&[1, 3, 2, 4], 0.0), levels(&[3, 2, 4, 3], 9, 0.0)];
        let image = ImageInput::new(pixels, (7, 7), 1).unwrap();
        assert_eq!(
            (image.parts(), image.sides(), image.area()),
            (4, (2, 4), 32)
        );
        assert_eq!(image.bytes(), 24 * 4 + 3 * 24);
        let refused = |pixels| ImageInput::new(pixels, (7, 7), 1).unwrap_err().to_string();
        let error = refused(vec![
            values(&[1, 3, 2, 4], 0.0),
            levels(&[1, 4, 2, 3], 0, 0.0),
        ]);
        assert!(error.contains("(2, 4) and of (4, 2)"), "{error}");
        assert!(refused(Vec::new()).contains("no pixels"));
        let double = Tensor::zeros((1, 3, 2, 4), DType::F64, &Device::Cpu).unwrap();
        assert!(refused(vec![Pixels::Values(double)]).contains("must be F32"));
    }
}
