//! Scaling a picture that stands in the middle of a square, without the square.
//!
//! The square of a picture of 1 by 65535 pixels has 13 GB. But each pass leaves what is of one
//! colour as it is, so the first need only look where the picture is, and the second at a strip.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::taps::Span;
use super::{CHANNELS, Filter, Passes, Picture, Taps, pil};

/// Rows of the picture that are laid out at a time.
const BAND_ROWS: usize = 256;

/// [`pil`] to `side` by `side` pixels, of `picture` in the middle of a square of its longer side
/// that is of the colour `fill` elsewhere. Where the middle is between two pixels, it is the upper
/// or left one.
#[must_use]
pub fn pil_on_square(
    picture: &Picture,
    fill: [u8; CHANNELS],
    side: u32,
    filter: Filter,
) -> Picture {
    let side = side.max(1);
    let across = across(picture, fill, side, filter);
    let width = picture.width();
    let height = picture.height();
    if height >= width {
        return pil(&across, side, side, filter);
    }
    let row_bytes = side as usize * CHANNELS;
    let above = ((width - height) / 2) as usize * row_bytes;
    let mut rgb = fill.repeat(side as usize * width as usize);
    rgb[above..above + across.rgb.len()].copy_from_slice(&across.rgb);
    let strip = Picture {
        width: side,
        height: width,
        rgb,
    };
    pil(&strip, side, side, filter)
}

/// A call of [`Passes::horizontal`] on the first rows, compiled for each instruction set.
struct Across<'a> {
    passes: &'a Passes<'a>,
    rows: usize,
    out: &'a mut [u8],
    row_bytes: usize,
}

impl WithSimd for Across<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { rows, out, .. } = self;
        self.passes.horizontal(0..rows, out, self.row_bytes);
    }
}

/// The first pass: the picture's rows of the square, scaled to `side` pixels.
fn across(picture: &Picture, fill: [u8; CHANNELS], side: u32, filter: Filter) -> Picture {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    if width >= height {
        return pil(picture, side, picture.height(), filter);
    }
    let left = (height - width) / 2;
    let mut taps = Taps::new(height, side as usize, 0..side as usize, filter);
    let sees = |span: &Span| span.from < left + width && span.from + span.len > left;
    let before = taps.spans.iter().take_while(|span| !sees(span)).count();
    taps.spans.drain(..before);
    let seeing = taps.spans.iter().take_while(|span| sees(span)).count();
    taps.spans.truncate(seeing);
    let row_bytes = side as usize * CHANNELS;
    let mut rgb = fill.repeat(side as usize * height);
    if seeing > 0 {
        // The columns that those outputs look at, and the picture's, which may reach further.
        let seen = taps.inputs(0..seeing);
        let columns = seen.start.min(left)..seen.end.max(left + width);
        for span in &mut taps.spans {
            span.from -= columns.start;
        }
        let stride = columns.len() * CHANNELS;
        let source = picture.rgb.par_chunks(width * CHANNELS * BAND_ROWS);
        let bands = rgb.par_chunks_mut(row_bytes * BAND_ROWS).zip(source);
        bands.for_each(|(out, source)| {
            let rows = out.len() / row_bytes;
            let mut band = fill.repeat(columns.len() * rows);
            let lines = band.chunks_exact_mut(stride);
            for (line, pixels) in lines.zip(source.chunks_exact(width * CHANNELS)) {
                line[(left - columns.start) * CHANNELS..][..pixels.len()].copy_from_slice(pixels);
            }
            let mut scaled = vec![0; seeing * CHANNELS * rows];
            if taps.identity {
                for (scaled, line) in scaled
                    .chunks_exact_mut(seeing * CHANNELS)
                    .zip(band.chunks_exact(stride))
                {
                    let from = taps.spans[0].from * CHANNELS;
                    scaled.copy_from_slice(&line[from..][..seeing * CHANNELS]);
                }
            } else {
                let passes = Passes {
                    source: &band,
                    stride,
                    across: &taps,
                    spread: None,
                    down: &Taps::new(rows, rows, 0..rows, filter),
                };
                pulp::Arch::new().dispatch(Across {
                    passes: &passes,
                    rows,
                    out: &mut scaled,
                    row_bytes: seeing * CHANNELS,
                });
            }
            let lines = out.chunks_exact_mut(row_bytes);
            for (line, scaled) in lines.zip(scaled.chunks_exact(seeing * CHANNELS)) {
                line[before * CHANNELS..][..scaled.len()].copy_from_slice(scaled);
            }
        });
    }
    Picture {
        width: side,
        height: picture.height(),
        rgb,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by way of the square.
    fn whole(picture: &Picture, fill: [u8; CHANNELS], side: u32, filter: Filter) -> Picture {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let longer = width.max(height);
        let mut rgb = fill.repeat(longer * longer);
        let (left, top) = ((longer - width) / 2, (longer - height) / 2);
        for (row, pixels) in picture.rgb().chunks_exact(width * CHANNELS).enumerate() {
            let at = ((top + row) * longer + left) * CHANNELS;
            rgb[at..at + pixels.len()].copy_from_slice(pixels);
        }
        let square = Picture::from_rgb(longer as u32, longer as u32, rgb).unwrap();
        pil(&square, side, side, filter)
    }

    proptest! {
        #[test]
        fn it_equals_the_scaled_square(
            (width, height) in (1_u32..70, 1_u32..70),
            side in 1_u32..60,
            bicubic in any::<bool>(),
            seed in any::<u32>(),
        ) {
            let mut state = seed;
            let rgb = (0..width * height * 3).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            });
            let picture = Picture::from_rgb(width, height, rgb.collect()).unwrap();
            let filter = if bicubic { Filter::Bicubic } else { Filter::Bilinear };
            let fill = [122, 116, 104];
            let found = pil_on_square(&picture, fill, side, filter);
            let expected = whole(&picture, fill, side, filter);
            prop_assert_eq!(found.rgb(), expected.rgb());
        }
    }

    #[test]
    fn rows_beyond_a_band_and_no_scaling_are_equal_too() {
        let noise = |width: u32, height: u32| {
            let rgb = (0..width * height * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8);
            Picture::from_rgb(width, height, rgb.collect()).unwrap()
        };
        for (width, height, side) in [(3, 600, 56), (600, 3, 56), (5, 300, 300), (300, 5, 300)] {
            let picture = noise(width, height);
            let found = pil_on_square(&picture, [1, 2, 3], side, Filter::Bicubic);
            let expected = whole(&picture, [1, 2, 3], side, Filter::Bicubic);
            assert_eq!(found.rgb(), expected.rgb(), "{width} x {height} to {side}");
        }
    }

    #[test]
    fn a_line_of_any_length_is_quick_and_small() {
        for (width, height) in [(1, 65_535), (65_535, 1)] {
            let picture = Picture::from_rgb(width, height, vec![9; 3 * 65_535]).unwrap();
            let scaled = pil_on_square(&picture, [9; 3], 336, Filter::Bicubic);
            assert!(scaled.rgb().iter().all(|&byte| byte == 9));
        }
    }
}
