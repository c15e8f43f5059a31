//! Normalised colours, by table.
//!
//! Pictures are 8 bits a colour, so what a level becomes is computed once for each of the 256.

use candle_core::{Device, Tensor};
use serde::Deserialize;
use vlmd_backend::{LevelTable, Pixels};
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
#[derive(Debug, Clone)]
pub(crate) struct Levels(LevelTable);

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
        Self(LevelTable::new(std::array::from_fn(|colour| {
            std::array::from_fn(|level| {
                (unit(level as u8) - by.image_mean[colour]) / by.image_std[colour]
            })
        })))
    }

    /// A picture as values, `[3, height, width]`.
    pub(crate) fn values(&self, picture: &Picture) -> Vec<f32> {
        let mut values = Vec::with_capacity(picture.rgb().len());
        for (colour, becomes) in self.0.rows().iter().enumerate() {
            let of_colour = picture.rgb().iter().skip(colour).step_by(COLOURS);
            values.extend(of_colour.map(|&level| becomes[usize::from(level)]));
        }
        values
    }

    /// Pictures of `width` by `height` pixels, of which these are the levels one after the other:
    /// they become values where they are encoded.
    pub(crate) fn pixels(
        &self,
        levels: Vec<u8>,
        (width, height): (usize, usize),
    ) -> candle_core::Result<Pixels> {
        Ok(Pixels::Levels {
            levels: Tensor::from_vec(levels, ((), height, width, COLOURS), &Device::Cpu)?,
            table: self.0.clone(),
        })
    }
}
