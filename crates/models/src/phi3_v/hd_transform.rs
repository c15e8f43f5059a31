//! "HD transform": a picture of any size becomes square crops and a view of the whole, as
//! `image_processing_phi3_v.py` does it.

use candle_core::{Device, Tensor};
use serde::Deserialize;
use vlmd_backend::Pixels;
use vlmd_media::Picture;
use vlmd_media::resample::{Filter, pil, torch_bicubic};

use crate::common::fields::PREPROCESSOR;
use crate::common::levels::{COLOURS, Levels, Normalisation};
use crate::common::tiles::Canvas;
use crate::{LoadError, ModelFiles};

/// Bound on `num_crops`. A picture of this many crops takes 88 MB of pixels.
const MAX_CROPS: usize = 256;

/// Fills what scaling leaves of the last row of crops.
const WHITE: u8 = 255;

/// `preprocessor_config.json`. Defaults are those of `Phi3VImageProcessor`.
#[derive(Debug, Deserialize)]
struct Settings {
    /// Most crops that a picture is cut into, the view of the whole not counted.
    #[serde(default = "default_crops")]
    num_crops: usize,
    #[serde(flatten)]
    normalisation: Normalisation,
}

fn default_crops() -> usize {
    1
}

/// The transform with its settings.
#[derive(Debug, Clone)]
pub(super) struct HdTransform {
    /// Pixels per side of a crop, which is what the tower takes.
    crop: usize,
    /// Most crops, the view of the whole not counted.
    num_crops: usize,
    levels: Levels,
}

/// Sizes that a picture goes through, `(width, height)` in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    /// The picture is taller than wide and is transposed while scaled and padded.
    transposed: bool,
    /// Size after scaling, of the transposed picture.
    scaled: (usize, usize),
    /// Size after padding, of the picture as it came; multiples of the crop's side.
    padded: (usize, usize),
}

/// The crops of a picture.
pub(super) struct Crops {
    /// The view of the whole, then `rows * columns` crops, row by row.
    ///
    /// The whole is scaled after it was normalised, as in the reference, and has values that are
    /// no level's. Crops have 8 bits a colour.
    pub(super) pixels: Vec<Pixels>,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl HdTransform {
    /// Reads and checks the settings; `crop` is what the tower takes.
    pub(super) fn read(files: &ModelFiles, crop: usize) -> Result<Self, LoadError> {
        let settings: Settings = files.json(PREPROCESSOR.0)?;
        PREPROCESSOR.within("num_crops", settings.num_crops, 1..=MAX_CROPS)?;
        settings.normalisation.check()?;
        let levels = Levels::to_tensor(&settings.normalisation);
        Ok(Self::new(crop, settings.num_crops, levels))
    }

    /// `crop` and `num_crops` are at least 1.
    fn new(crop: usize, num_crops: usize, levels: Levels) -> Self {
        Self {
            crop,
            num_crops,
            levels,
        }
    }

    /// Most crops of a picture, the view of the whole not counted.
    pub(super) fn most(&self) -> usize {
        self.num_crops
    }

    /// Pixels per side of a crop.
    pub(super) fn crop(&self) -> usize {
        self.crop
    }

    /// What becomes of a picture of `width` by `height` pixels, both at least 1.
    ///
    /// The longer side takes as many crops as `num_crops` allows in all. The reference fails on
    /// pictures so long that their shorter side comes out as nothing; here it is one pixel then.
    fn plan(&self, width: usize, height: usize) -> Plan {
        let transposed = width < height;
        let (long, short) = if transposed {
            (height, width)
        } else {
            (width, height)
        };
        let ratio = long as f64 / short as f64;
        let fits =
            |&scale: &usize| scale as f64 * (scale as f64 / ratio).ceil() <= self.num_crops as f64;
        // One crop always fits, and more do not from the first that does not on.
        let scale = (1..).take_while(fits).last().unwrap_or(1);
        let scaled_long = scale * self.crop;
        let scaled_short = ((scaled_long as f64 / ratio) as usize).max(1);
        let padded_short = scaled_short.next_multiple_of(self.crop);
        Plan {
            transposed,
            scaled: (scaled_long, scaled_short),
            padded: if transposed {
                (padded_short, scaled_long)
            } else {
                (scaled_long, padded_short)
            },
        }
    }

    /// Crops of a picture.
    pub(super) fn apply(&self, picture: &Picture) -> candle_core::Result<Crops> {
        let plan = self.plan(picture.width() as usize, picture.height() as usize);
        let padded = padded(picture, plan);
        let (width, height) = plan.padded;
        let side = self.crop;
        let (rows, columns) = (height / side, width / side);
        // Its ratio is not kept.
        let values = self.levels.values(&padded);
        let whole = torch_bicubic(&values, COLOURS, height, width, side, side);
        let whole = Tensor::from_vec(whole, (1, COLOURS, side, side), &Device::Cpu)?;
        let mut levels = Vec::with_capacity(padded.rgb().len());
        let canvas = Canvas {
            picture: &padded,
            at: (0, 0),
            background: WHITE,
        };
        for y in (0..height).step_by(side) {
            for x in (0..width).step_by(side) {
                if let Some(crop) = canvas.part((x, y), (side, side)) {
                    levels.extend_from_slice(crop.rgb());
                }
            }
        }
        let crops = self.levels.pixels(levels, (side, side))?;
        Ok(Crops {
            pixels: vec![Pixels::Values(whole), crops],
            rows,
            columns,
        })
    }
}

/// Scales and pads: a picture of the padded size.
fn padded(picture: &Picture, plan: Plan) -> Picture {
    let (long, short) = plan.scaled;
    // Sides are at most `num_crops` times the crop's.
    let scale = |picture: &Picture| pil(picture, long as u32, short as u32, Filter::Bilinear);
    // As much white before as behind the picture, the odd pixel behind.
    let (width, height) = plan.padded;
    // Scaling goes in two passes with rounding between them, so whether the picture is transposed
    // before or after shows in the result.
    let (scaled, at) = if plan.transposed {
        let upright = transpose(&scale(&transpose(picture)));
        (upright, ((width - short) / 2, 0))
    } else {
        (scale(picture), (0, (height - short) / 2))
    };
    let canvas = Canvas {
        picture: &scaled,
        at,
        background: WHITE,
    };
    canvas.part((0, 0), plan.padded).unwrap_or(scaled)
}

/// Rows become columns, as PIL's `TRANSPOSE`.
fn transpose(picture: &Picture) -> Picture {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let source = picture.rgb();
    let mut rgb = Vec::with_capacity(source.len());
    for column in 0..width {
        for row in 0..height {
            rgb.extend_from_slice(&source[(row * width + column) * COLOURS..][..COLOURS]);
        }
    }
    // A picture's sides fit its bytes, and exchanging them changes neither.
    Picture::from_rgb(picture.height(), picture.width(), rgb).unwrap_or_else(|| picture.clone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::vision;
    use super::*;

    fn transform(crop: usize, num_crops: usize) -> HdTransform {
        let normalisation = Normalisation {
            image_mean: [0.5; 3],
            image_std: [0.5; 3],
        };
        HdTransform::new(crop, num_crops, Levels::to_tensor(&normalisation))
    }

    fn plain(width: u32, height: u32, level: u8) -> Picture {
        let bytes = (width * height * 3) as usize;
        Picture::from_rgb(width, height, vec![level; bytes]).unwrap()
    }

    fn values(pixels: &Pixels) -> Vec<f32> {
        let values = pixels.values().unwrap().flatten_all().unwrap();
        values.to_vec1().unwrap()
    }

    #[test]
    fn white_is_split_around_the_picture_with_the_odd_row_behind() {
        let transform = transform(4, 1);
        let upright = padded(&plain(4, 1, 0), transform.plan(4, 1));
        let rows: Vec<u8> = upright.rgb().iter().step_by(4 * 3).copied().collect();
        assert_eq!(rows, [255, 0, 255, 255]);
        let lying = padded(&plain(1, 4, 0), transform.plan(1, 4));
        let columns: Vec<u8> = lying.rgb()[..4 * 3].iter().step_by(3).copied().collect();
        assert_eq!(columns, [255, 0, 255, 255]);
    }

    #[test]
    fn crops_are_read_row_by_row() {
        // Four quarters of different grey, two by two crops of two by two pixels.
        let grey = [[10u8, 20], [30, 40]];
        let rgb = (0..16)
            .flat_map(|i| [grey[i / 4 / 2][i % 4 / 2]; 3])
            .collect();
        let picture = Picture::from_rgb(4, 4, rgb).unwrap();
        let normalisation = Normalisation {
            image_mean: [0.0; 3],
            image_std: [1.0 / 255.0; 3],
        };
        let transform = HdTransform::new(2, 4, Levels::to_tensor(&normalisation));
        let crops = transform.apply(&picture).unwrap();
        assert_eq!((crops.rows, crops.columns), (2, 2));
        let levels = values(&crops.pixels[1]);
        let levels: Vec<f32> = levels.iter().map(|x| x.round()).collect();
        for (crop, level) in levels.chunks(12).zip([10.0, 20.0, 30.0, 40.0]) {
            assert_eq!(crop, [level; 12]);
        }
    }

    proptest! {
        #[test]
        fn any_size_gives_whole_crops_within_the_bound(
            width in 1usize..=2000, height in 1usize..=2000, num_crops in 1usize..=17,
        ) {
            let plan = transform(336, num_crops).plan(width, height);
            let (padded_width, padded_height) = plan.padded;
            prop_assert!(padded_width.is_multiple_of(336) && padded_height.is_multiple_of(336));
            let (rows, columns) = (padded_height / 336, padded_width / 336);
            prop_assert!((1..=num_crops).contains(&(rows * columns)));
            prop_assert!(plan.scaled.0 >= plan.scaled.1 && plan.scaled.1 >= 1);
            prop_assert_eq!(plan.transposed, width < height);
        }

        #[test]
        fn pixels_features_and_placeholders_agree(
            width in 1u32..=300, height in 1u32..=300, num_crops in 1usize..=6,
        ) {
            let transform = transform(8, num_crops);
            let crops = transform.apply(&plain(width, height, 7)).unwrap();
            let count = 1 + crops.rows * crops.columns;
            let pixels: Vec<f32> = crops.pixels.iter().flat_map(values).collect();
            prop_assert_eq!(pixels.len(), count * 3 * 8 * 8);
            prop_assert!(pixels.iter().all(|x| x.is_finite()));
            // A cell per 2 x 2 pixels here; separators end each row and stand before the whole.
            let expected = count * 16 + (crops.rows + 1) * 4 + 1;
            prop_assert_eq!(vision::features(crops.rows, crops.columns, 4), expected);
        }
    }
}
