//! Normalised colours, by table.
//!
//! Pictures are 8 bits a colour, so what a level becomes is computed once for each of the 256.

use std::fmt;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use vlmd_media::Picture;

use super::fields::PREPROCESSOR;
use crate::LoadError;

/// Colours of a pixel.
pub(crate) const COLOURS: usize = 3;

/// Mean and standard deviation per colour, of values between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(crate) struct Normalisation {
    #[serde(default = "clip_mean")]
    pub(crate) image_mean: [f32; COLOURS],
    #[serde(default = "clip_std")]
    pub(crate) image_std: [f32; COLOURS],
}

/// OpenAI's, which all CLIP towers have.
pub(crate) fn clip_mean() -> [f32; COLOURS] {
    [0.481_454_66, 0.457_827_5, 0.408_210_73]
}

/// OpenAI's, which all CLIP towers have.
pub(crate) fn clip_std() -> [f32; COLOURS] {
    [0.268_629_54, 0.261_302_6, 0.275_777_1]
}

impl Default for Normalisation {
    fn default() -> Self {
        Self {
            image_mean: clip_mean(),
            image_std: clip_std(),
        }
    }
}

impl Normalisation {
    /// The mean as a colour, cut off as LLaVA and NeMo do it for what lies around a picture.
    pub(crate) fn mean_colour(&self) -> [u8; COLOURS] {
        self.image_mean.map(|mean| (mean * 255.0) as u8)
    }

    /// Checks that pixels stay finite.
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        let must = |field, bound, found: &[f32]| {
            Err(LoadError::invalid(
                PREPROCESSOR.0,
                format!("`{field}` must be {bound} for each colour, but is {found:?}"),
            ))
        };
        if !self.image_mean.iter().all(|value| value.is_finite()) {
            return must("image_mean", "finite", &self.image_mean);
        }
        let usable = |value: &f32| value.is_finite() && *value > 0.0;
        if !self.image_std.iter().all(usable) {
            return must("image_std", "above 0 and finite", &self.image_std);
        }
        Ok(())
    }
}

/// Checks `rescale_factor`: levels are made shares of 255 and nothing else.
pub(crate) fn check_rescale_factor(factor: Option<f64>) -> Result<(), LoadError> {
    match factor {
        Some(factor) if (factor * 255.0 - 1.0).abs() > 1e-9 || factor.is_nan() => {
            Err(PREPROCESSOR.must("rescale_factor", "be 1/255", factor))
        }
        _ => Ok(()),
    }
}

/// What each level of each colour becomes.
#[derive(Clone)]
pub(crate) struct Levels([[f32; 256]; COLOURS]);

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Levels").finish_non_exhaustive()
    }
}

impl Levels {
    /// transformers' image processors: `x * (1 / 255)` in f64, rounded to f32, then normalised
    /// in f32.
    pub(crate) fn rescaled(by: &Normalisation) -> Self {
        Self::new(by, |level| (f64::from(level) * (1.0 / 255.0)) as f32)
    }

    /// torchvision's `ToTensor` and `Normalize`: `x / 255` in f32, then normalised in f32.
    pub(crate) fn to_tensor(by: &Normalisation) -> Self {
        Self::new(by, |level| f32::from(level) / 255.0)
    }

    fn new(by: &Normalisation, unit: impl Fn(u8) -> f32) -> Self {
        Self(std::array::from_fn(|colour| {
            std::array::from_fn(|level| {
                (unit(level as u8) - by.image_mean[colour]) / by.image_std[colour]
            })
        }))
    }

    /// Appends a picture to `pixels`: `[3, height, width]`.
    pub(crate) fn extend(&self, pixels: &mut Vec<f32>, picture: &Picture) {
        for (colour, levels) in self.0.iter().enumerate() {
            let of_colour = picture.rgb().iter().skip(colour).step_by(COLOURS);
            pixels.extend(of_colour.map(|&level| levels[usize::from(level)]));
        }
    }

    /// A picture as one part, `[1, 3, height, width]`.
    pub(crate) fn tensor(&self, picture: &Picture) -> candle_core::Result<Tensor> {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let mut pixels = Vec::with_capacity(COLOURS * width * height);
        self.extend(&mut pixels, picture);
        Tensor::from_vec(pixels, (1, COLOURS, height, width), &Device::Cpu)
    }
}
