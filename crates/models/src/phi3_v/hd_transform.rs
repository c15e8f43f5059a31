//! "HD transform": a picture of any size becomes square crops and a view of the whole, as
//! `image_processing_phi3_v.py` does it.

use vlmd_media::Picture;
use vlmd_media::resample::{Filter, pil, torch_bicubic};

use crate::common::levels::{COLOURS, Levels};

/// Fills what scaling leaves of the last row of crops.
const WHITE: u8 = 255;

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
pub(super) struct Plan {
    /// The picture is taller than wide and is transposed while scaled and padded.
    transposed: bool,
    /// Size after scaling, of the transposed picture.
    scaled: (usize, usize),
    /// Size after padding, of the picture as it came; multiples of the crop's side.
    padded: (usize, usize),
}

/// The crops of a picture.
pub(super) struct Crops {
    /// `[1 + rows * columns, 3, crop, crop]`, the view of the whole first, then row by row.
    pub(super) pixels: Vec<f32>,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl HdTransform {
    /// `crop` and `num_crops` are at least 1.
    pub(super) fn new(crop: usize, num_crops: usize, levels: Levels) -> Self {
        Self {
            crop,
            num_crops,
            levels,
        }
    }

    /// Pixels per side of a crop.
    pub(super) fn crop(&self) -> usize {
        self.crop
    }

    /// What becomes of a picture of `width` by `height` pixels, both at least 1.
    ///
    /// The longer side takes as many crops as `num_crops` allows in all. The reference fails on
    /// pictures so long that their shorter side comes out as nothing; here it is one pixel then.
    pub(super) fn plan(&self, width: usize, height: usize) -> Plan {
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
    pub(super) fn apply(&self, picture: &Picture) -> Crops {
        let plan = self.plan(picture.width() as usize, picture.height() as usize);
        let padded = self.normalise(picture, plan);
        let (width, height) = plan.padded;
        let side = self.crop;
        // The view of the whole is made of normalised floats; its ratio is not kept.
        let mut pixels = torch_bicubic(&padded, COLOURS, height, width, side, side);
        let (rows, columns) = (height / side, width / side);
        pixels.reserve_exact(rows * columns * COLOURS * side * side);
        for row in 0..rows {
            for column in 0..columns {
                for plane in padded.chunks_exact(width * height) {
                    for line in plane.chunks_exact(width).skip(row * side).take(side) {
                        pixels.extend_from_slice(&line[column * side..][..side]);
                    }
                }
            }
        }
        Crops {
            pixels,
            rows,
            columns,
        }
    }

    /// Scales, pads and normalises: `[3, height, width]` of the padded size.
    fn normalise(&self, picture: &Picture, plan: Plan) -> Vec<f32> {
        let (scaled_width, scaled_height) = plan.scaled;
        let scale = |picture: &Picture| {
            // Sides are at most `num_crops` times the crop's.
            pil(
                picture,
                scaled_width as u32,
                scaled_height as u32,
                Filter::Bilinear,
            )
        };
        // Scaling goes in two passes with rounding between them, so whether the picture is
        // transposed before or after shows in the result.
        let scaled = if plan.transposed {
            scale(&transpose(picture))
        } else {
            scale(picture)
        };

        let (width, height) = plan.padded;
        let short = if plan.transposed { width } else { height };
        // As much white before as behind the picture, the odd pixel behind.
        let before = (short - scaled_height) / 2;
        let mut padded = Vec::with_capacity(COLOURS * width * height);
        for colour in 0..COLOURS {
            padded.resize(padded.len() + width * height, self.levels.at(colour, WHITE));
        }
        for colour in 0..COLOURS {
            let plane = &mut padded[colour * width * height..][..width * height];
            for (index, pixel) in scaled.rgb().chunks_exact(COLOURS).enumerate() {
                let (along, across) = (index % scaled_width, before + index / scaled_width);
                let target = if plan.transposed {
                    along * width + across
                } else {
                    across * width + along
                };
                plane[target] = self.levels.at(colour, pixel[colour]);
            }
        }
        padded
    }
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
    use crate::common::levels::Normalisation;

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

    #[test]
    fn sizes_are_the_references() {
        // Width, height, num_crops and the padded size that `calc_hd_transform_size` gives.
        let cases = [
            ((336, 336), 4, (672, 672)),
            ((97, 41), 4, (672, 336)),
            ((333, 500), 4, (672, 672)),
            ((640, 100), 4, (1344, 336)),
            ((1, 1000), 4, (336, 1344)),
            ((1000, 1), 4, (1344, 336)),
            ((1, 1), 16, (1344, 1344)),
            ((1920, 1080), 16, (1680, 1008)),
            ((1080, 1920), 16, (1008, 1680)),
            ((800, 600), 1, (336, 336)),
        ];
        for ((width, height), num_crops, padded) in cases {
            let plan = transform(336, num_crops).plan(width, height);
            assert_eq!(plan.padded, padded, "{width}x{height} in {num_crops}");
        }
    }

    #[test]
    fn a_picture_too_flat_for_a_whole_pixel_keeps_one() {
        let plan = transform(336, 4).plan(65_535, 1);
        assert_eq!(plan.scaled, (1344, 1));
        assert_eq!(plan.padded, (1344, 336));
    }

    #[test]
    fn white_is_split_around_the_picture_with_the_odd_row_behind() {
        let transform = transform(4, 1);
        let upright = transform.normalise(&plain(4, 1, 0), transform.plan(4, 1));
        let rows: Vec<f32> = upright[..16].iter().step_by(4).copied().collect();
        assert_eq!(rows, [1.0, -1.0, 1.0, 1.0]);
        let lying = transform.normalise(&plain(1, 4, 0), transform.plan(1, 4));
        assert_eq!(lying[..4], [1.0, -1.0, 1.0, 1.0]);
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
        let crops = transform.apply(&picture);
        assert_eq!((crops.rows, crops.columns), (2, 2));
        let levels: Vec<f32> = crops.pixels[12..].iter().map(|x| x.round()).collect();
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
            let crops = transform.apply(&plain(width, height, 7));
            let count = 1 + crops.rows * crops.columns;
            prop_assert_eq!(crops.pixels.len(), count * 3 * 8 * 8);
            prop_assert!(crops.pixels.iter().all(|x| x.is_finite()));
            // A cell per 2 x 2 pixels here; separators end each row and stand before the whole.
            let expected = count * 16 + (crops.rows + 1) * 4 + 1;
            prop_assert_eq!(vision::features(crops.rows, crops.columns, 4), expected);
        }
    }
}
