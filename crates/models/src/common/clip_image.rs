//! Pictures for CLIP towers, as transformers' `CLIPImageProcessor` makes them.

use vlmd_backend::ImageInput;
use vlmd_media::Picture;
use vlmd_media::resample::{Filter, Window, pil, pil_on_square, pil_window};

use super::fields::PREPROCESSOR;
use super::levels::{COLOURS, Levels, Normalisation};
use super::preprocessor::{BICUBIC, BILINEAR, Settings, Size};
use crate::{ImageError, LoadError, ModelFiles};

/// Scales, keeps the middle, and normalises.
#[derive(Debug, Clone)]
pub(crate) struct ClipImage {
    /// Pixels per side of what the tower takes.
    side: usize,
    /// The shorter side is scaled to it, and not both.
    keeps_ratio: bool,
    filter: Filter,
    /// What lies around a picture that is not square.
    mean_colour: [u8; COLOURS],
    levels: Levels,
}

impl ClipImage {
    /// Pictures of `side` pixels, which is what the tower takes, with OpenAI's settings.
    pub(crate) fn openai(side: usize) -> Self {
        Self {
            side,
            keeps_ratio: true,
            filter: Filter::Bicubic,
            mean_colour: Normalisation::default().mean_colour(),
            levels: Levels::rescaled(&Normalisation::default()),
        }
    }

    /// Reads the settings; `side` is what the tower takes.
    pub(crate) fn read(files: &ModelFiles, side: usize) -> Result<Self, LoadError> {
        let settings = Settings::read(files)?;
        for (field, size) in [("size", settings.size), ("crop_size", settings.crop_size)] {
            let found = size.map_or(Some(side), Size::side);
            if found != Some(side) {
                return Err(PREPROCESSOR.must(
                    field,
                    format!("be {side} pixels, which is what the tower takes"),
                    size.map_or_else(String::new, |size| size.to_string()),
                ));
            }
        }
        PREPROCESSOR.all_true(&[("do_center_crop", settings.do_center_crop)])?;
        let filter = match settings.resample {
            None | Some(BICUBIC) => Filter::Bicubic,
            Some(BILINEAR) => Filter::Bilinear,
            Some(other) => {
                return Err(PREPROCESSOR.must("resample", "be 2 (bilinear) or 3 (bicubic)", other));
            }
        };
        Ok(Self {
            side,
            keeps_ratio: !settings.use_square_size
                && !matches!(settings.size, Some(Size::Sides { .. })),
            filter,
            mean_colour: settings.normalisation.mean_colour(),
            levels: Levels::rescaled(&settings.normalisation),
        })
    }

    /// Pixels per side.
    pub(crate) fn side(&self) -> usize {
        self.side
    }

    /// The middle of a picture; all of it where its ratio is not kept.
    ///
    /// # Errors
    /// For a picture that is too long to be scaled.
    pub(crate) fn middle(&self, picture: &Picture) -> Result<Picture, ImageError> {
        if !self.keeps_ratio {
            return Ok(self.squeezed(picture));
        }
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let side = self.side;
        let long = |long: usize, short: usize| ((side * long) as f64 / short as f64) as usize;
        let (wide, high) = if width <= height {
            (side, long(height, width))
        } else {
            (long(width, height), side)
        };
        let window = Window {
            left: ((wide - side) / 2) as u32,
            top: ((high - side) / 2) as u32,
            width: side as u32,
            height: side as u32,
        };
        let size = (fit(wide), fit(high));
        // The window lies within: both sides are at least `side`.
        let middle = if (wide, high) == (width, height) && (wide, high) == (side, side) {
            Some(picture.clone())
        } else {
            pil_window(picture, size, window, self.filter)
        };
        middle.ok_or_else(|| {
            ImageError::Refused(format!(
                "a picture of {width} x {height} pixels is too long"
            ))
        })
    }

    /// The whole picture in the middle of a square of the mean colour, as LLaVA's `expand2square`
    /// makes it.
    pub(crate) fn padded(&self, picture: &Picture) -> Picture {
        let side = fit(self.side);
        pil_on_square(picture, self.mean_colour, side, self.filter)
    }

    /// The whole picture on a square, its ratio not kept.
    pub(crate) fn squeezed(&self, picture: &Picture) -> Picture {
        let side = fit(self.side);
        pil(picture, side, side, self.filter)
    }

    /// A picture that is seen in these views, each of what the tower takes, and becomes this
    /// number of features.
    pub(crate) fn input(
        &self,
        picture: &Picture,
        views: impl IntoIterator<Item = Picture>,
        features: usize,
    ) -> Result<ImageInput, ImageError> {
        let mut views = views.into_iter().map(Picture::into_rgb);
        // Most pictures have one, which is not copied.
        let mut levels = views.next().unwrap_or_default();
        views.for_each(|view| levels.extend_from_slice(&view));
        let pixels = self.levels.pixels(levels, (self.side, self.side))?;
        let size = (picture.height() as usize, picture.width() as usize);
        Ok(ImageInput::new(vec![pixels], size, features)?)
    }

    /// What resizes.
    pub(crate) fn filter(&self) -> Filter {
        self.filter
    }
}

/// A side for the resampler. Decoded pictures have sides of at most 65535 pixels, so only a tower
/// of absurd size could exceed it; that is then refused as too long.
fn fit(side: usize) -> u32 {
    u32::try_from(side).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_picture_has_a_middle(width in 1_u32..3000, height in 1_u32..3000) {
            // Pixels are never looked at: only sizes are at stake, so keep the long side thin.
            let (width, height) = if width * height > 100_000 { (width, 1) } else { (width, height) };
            let rgb = vec![7; (width * height * 3) as usize];
            let picture = Picture::from_rgb(width, height, rgb).unwrap();
            let middle = ClipImage::openai(8).middle(&picture).unwrap();
            prop_assert_eq!((middle.width(), middle.height()), (8, 8));
        }
    }
}
