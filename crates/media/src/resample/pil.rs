//! Pillow's `Image.resize` on 8-bit RGB, bit for bit, as every Pillow before 13 computes it.
//!
//! A separable convolution in fixed point (Pillow's `src/libImaging/Resample.c`): horizontal
//! pass, rounding to 8 bits, vertical pass, rounding to 8 bits. On downscaling the kernel is
//! widened by the scale, which is the antialiasing. Weights are computed in double precision and
//! rounded to 22 fractional bits.
//!
//! The horizontal pass costs output width times *input* height, so the input's sides must be
//! bounded by the caller ([`DecodeLimits::max_side`](crate::DecodeLimits)). Output rows are
//! computed in strips, so that of the intermediate rows only those of one strip per thread are in
//! memory.

mod spread;
mod square;
mod taps;

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::picture::Picture;

use spread::{Spread, join};
pub use square::pil_on_square;
use taps::Taps;

/// Fractional bits of a weight: 32 less 8 for the pixel and 2 for sums that overshoot.
const WEIGHT_BITS: u32 = 22;

/// One half, in a weight's fixed point: accumulators start from it to round to the nearest.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// Bytes of a pixel.
const CHANNELS: usize = 3;

/// Sums accumulated side by side: two 256-bit registers of 32-bit lanes.
const SIDE: usize = 16;

/// Sums accumulated in one go: as many for each channel.
const LANES: usize = SIDE * CHANNELS;

/// Rows that the horizontal pass takes at a time, lane beside lane.
const BLOCK_ROWS: usize = LANES / CHANNELS;

/// Output rows of a strip. Strips overlap by the kernel's width in the input, so shorter ones
/// would compute more rows twice.
const STRIP_ROWS: usize = 32;

/// Output bytes below which waking other threads costs more than it saves.
const PARALLEL_BYTES: usize = 1 << 16;

/// The kernel of a resampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// Triangle of radius 1.
    Bilinear,
    /// Keys' cubic convolution with a = -0.5, of radius 2.
    Bicubic,
}

impl Filter {
    fn radius(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// The kernel at distance `x`. Written in the very order of operations of the reference:
    /// another order may round differently.
    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// A part of a resized picture, in pixels of the resized picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Columns, at least 1.
    pub width: u32,
    /// Rows, at least 1.
    pub height: u32,
}

/// Scales `picture` to `width` by `height` pixels as `Image.resize` does. A side of 0 is taken
/// as 1.
#[must_use]
pub fn pil(picture: &Picture, width: u32, height: u32, filter: Filter) -> Picture {
    let (width, height) = (width.max(1), height.max(1));
    if (width, height) == (picture.width(), picture.height()) {
        return picture.clone();
    }
    let window = Window {
        left: 0,
        top: 0,
        width,
        height,
    };
    resize(picture, (width, height), window, filter)
}

/// The part of [`pil`]'s result that lies in `window`, without computing the rest.
///
/// For recipes that scale the shorter side and crop the middle: scaling a picture of 1 by 1000
/// pixels to a width of 336 would take 336 by 336000 pixels of which 336 by 336 are looked at.
///
/// `None` if the window is empty or reaches beyond `width` by `height`.
#[must_use]
pub fn pil_window(
    picture: &Picture,
    (width, height): (u32, u32),
    window: Window,
    filter: Filter,
) -> Option<Picture> {
    let right = window.left.checked_add(window.width)?;
    let bottom = window.top.checked_add(window.height)?;
    let inside = right <= width && bottom <= height && window.width > 0 && window.height > 0;
    inside.then(|| resize(picture, (width, height), window, filter))
}

/// `window` must lie within `size` and not be empty.
fn resize(picture: &Picture, size: (u32, u32), window: Window, filter: Filter) -> Picture {
    let columns = window.left as usize..(window.left + window.width) as usize;
    let rows = window.top as usize..(window.top + window.height) as usize;
    let across = Taps::new(picture.width() as usize, size.0 as usize, columns, filter);
    let passes = Passes {
        source: picture.rgb(),
        stride: picture.width() as usize * CHANNELS,
        spread: Spread::new(&across),
        across: &across,
        down: &Taps::new(picture.height() as usize, size.1 as usize, rows, filter),
    };
    let row_bytes = window.width as usize * CHANNELS;
    let mut rgb = vec![0; row_bytes * window.height as usize];
    let strip = |(index, out): (usize, &mut [u8])| {
        let first = index * STRIP_ROWS;
        pulp::Arch::new().dispatch(Strip {
            passes: &passes,
            first,
            out,
            row_bytes,
        });
    };
    if rgb.len() < PARALLEL_BYTES {
        rgb.chunks_mut(row_bytes * STRIP_ROWS)
            .enumerate()
            .for_each(strip);
    } else {
        rgb.par_chunks_mut(row_bytes * STRIP_ROWS)
            .enumerate()
            .for_each(strip);
    }
    Picture {
        width: window.width,
        height: window.height,
        rgb,
    }
}

/// A call of [`Passes::strip`], compiled for each instruction set that there may be. A closure
/// would not do: the compiler need not inline it, and then compiles it for the least.
struct Strip<'a> {
    passes: &'a Passes<'a>,
    first: usize,
    out: &'a mut [u8],
    row_bytes: usize,
}

impl WithSimd for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.passes.strip(self.first, self.out, self.row_bytes);
    }
}

/// Both passes over one picture.
struct Passes<'a> {
    source: &'a [u8],
    /// Bytes of a row of `source`.
    stride: usize,
    across: &'a Taps,
    /// `across`, where rows become much wider.
    spread: Option<Spread>,
    down: &'a Taps,
}

impl Passes<'_> {
    /// Computes the output rows from `first` on that `out` has room for.
    // Inlined into the caller that is compiled once per instruction set, as is all it calls.
    #[inline(always)]
    fn strip(&self, first: usize, out: &mut [u8], row_bytes: usize) {
        let rows = first..first + out.len() / row_bytes;
        let needed = self.down.inputs(rows.clone());
        if let Some(spread) = &self.spread {
            return self.spread_strip(spread, rows, needed, out, row_bytes);
        }
        // A pass at scale 1 has one weight of exactly 1 per pixel: leaving it out changes nothing.
        if self.down.identity {
            return self.horizontal(needed, out, row_bytes);
        }
        let intermediate;
        let (mut input, stride) = if self.across.identity {
            let left = self.across.spans[0].from * CHANNELS;
            (
                &self.source[needed.start * self.stride + left..],
                self.stride,
            )
        } else {
            let mut computed = vec![0; needed.len() * row_bytes];
            self.horizontal(needed.clone(), &mut computed, row_bytes);
            intermediate = computed;
            (&intermediate[..], row_bytes)
        };
        let mut at = needed.start;
        for (row, out) in rows.zip(out.chunks_exact_mut(row_bytes)) {
            let (from, weights) = self.down.of(row);
            // Rows before the first that this and all later output rows need are done with.
            input = &input[(from - at) * stride..];
            at = from;
            vertical(weights, input, stride, out);
        }
    }

    /// [`Passes::strip`] where the rows become much wider. What is between the passes has a row's
    /// channels one after the other.
    #[inline(always)]
    fn spread_strip(
        &self,
        spread: &Spread,
        rows: Range<usize>,
        needed: Range<usize>,
        out: &mut [u8],
        row_bytes: usize,
    ) {
        let mut wide = vec![0; needed.len() * row_bytes];
        let source = self.source[needed.start * self.stride..].chunks_exact(self.stride);
        for (planes, row) in wide.chunks_exact_mut(row_bytes).zip(source) {
            spread.row(row, planes);
        }
        let mut planes = vec![0; row_bytes];
        for (row, out) in rows.zip(out.chunks_exact_mut(row_bytes)) {
            let (from, weights) = self.down.of(row);
            let wide = &wide[(from - needed.start) * row_bytes..];
            if self.down.identity {
                join(&wide[..row_bytes], out);
            } else {
                vertical(weights, wide, row_bytes, &mut planes);
                join(&planes, out);
            }
        }
    }

    /// Resamples the source rows `rows` across, into rows of `row_bytes` bytes.
    ///
    /// The block of rows is first turned so that a column's bytes lie side by side; then the same
    /// weight applies to all lanes, which is what vector units are for.
    #[inline(always)]
    fn horizontal(&self, rows: Range<usize>, out: &mut [u8], row_bytes: usize) {
        let columns = self.across.inputs(0..self.across.spans.len());
        let mut turned = vec![0; columns.len() * LANES];
        let mut sums = [0; LANES];
        for (block, out) in out.chunks_mut(row_bytes * BLOCK_ROWS).enumerate() {
            let first = rows.start + block * BLOCK_ROWS;
            let height = out.len() / row_bytes;
            for lane in 0..height {
                let row = &self.source[(first + lane) * self.stride..][..self.stride];
                let row = &row[columns.start * CHANNELS..columns.end * CHANNELS];
                let pixels = row.chunks_exact(CHANNELS);
                for (pixel, column) in pixels.zip(turned.chunks_exact_mut(LANES)) {
                    column[lane * CHANNELS..][..CHANNELS].copy_from_slice(pixel);
                }
            }
            for column in 0..row_bytes / CHANNELS {
                let (from, weights) = self.across.of(column);
                let from = (from - columns.start) * LANES;
                weigh(weights, &turned[from..], LANES, &mut sums);
                let pixels = sums.chunks_exact(CHANNELS);
                for (pixel, row) in pixels.zip(out.chunks_exact_mut(row_bytes)) {
                    row[column * CHANNELS..][..CHANNELS].copy_from_slice(pixel);
                }
            }
        }
    }
}

/// One output row as the weighted sum of the rows at the front of `input`.
#[inline(always)]
fn vertical(weights: &[i32], input: &[u8], stride: usize, out: &mut [u8]) {
    let (blocks, rest) = out.as_chunks_mut::<LANES>();
    let mut at = 0;
    for block in blocks {
        weigh(weights, &input[at..], stride, block);
        at += LANES;
    }
    for (byte, at) in rest.iter_mut().zip(at..) {
        let column = input[at..].iter().step_by(stride);
        let weighed = weights.iter().zip(column);
        let sum = weighed.fold(HALF, |sum, (weight, byte)| {
            sum.wrapping_add(weight.wrapping_mul(i32::from(*byte)))
        });
        *byte = to_byte(sum);
    }
}

/// [`LANES`] weighted sums over bytes that lie `stride` apart, rounded and clamped to 8 bits.
///
/// The sums fit into an `i32`: a pixel is at most 255, and the magnitudes of the weights of one
/// output sum to at most 2 in either kernel (1 but for the cubic's negative lobes), so no partial
/// sum exceeds 255 * 2 * 2^22 + 2^21 < 2^31. Wrapping operations spare checked builds the branch
/// per lane.
#[inline(always)]
fn weigh(weights: &[i32], input: &[u8], stride: usize, out: &mut [u8; LANES]) {
    // Three of them, because the compiler keeps only small arrays in registers.
    let (mut first, mut second, mut third) = ([HALF; SIDE], [HALF; SIDE], [HALF; SIDE]);
    for (weight, bytes) in weights.iter().zip(input.chunks(stride)) {
        let (bytes, _) = bytes.as_chunks();
        let [a, b, c, ..] = bytes else { break };
        add(&mut first, *weight, a);
        add(&mut second, *weight, b);
        add(&mut third, *weight, c);
    }
    let (out, _) = out.as_chunks_mut();
    for (out, sums) in out.iter_mut().zip([first, second, third]) {
        *out = to_bytes(&sums);
    }
}

#[inline(always)]
fn add(sums: &mut [i32; SIDE], weight: i32, bytes: &[u8; SIDE]) {
    for side in 0..SIDE {
        sums[side] = sums[side].wrapping_add(weight.wrapping_mul(i32::from(bytes[side])));
    }
}

#[inline(always)]
fn to_bytes(sums: &[i32; SIDE]) -> [u8; SIDE] {
    let mut bytes = [0; SIDE];
    for side in 0..SIDE {
        bytes[side] = to_byte(sums[side]);
    }
    bytes
}

/// A sum in a weight's fixed point as 8 bits.
#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERS: [Filter; 2] = [Filter::Bilinear, Filter::Bicubic];

    fn noise(width: u32, height: u32) -> Picture {
        let bytes = width as usize * height as usize * CHANNELS;
        let mut state = 1_u32;
        let rgb = (0..bytes)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        Picture::from_rgb(width, height, rgb).unwrap()
    }

    #[test]
    fn a_window_is_the_same_part_of_the_whole() {
        let picture = noise(61, 83);
        for filter in FILTERS {
            for (width, height) in [(61, 200), (122, 83), (30, 40), (150, 170), (61, 83)] {
                let whole = pil(&picture, width, height, filter);
                let window = Window {
                    left: 7,
                    top: 11,
                    width: 20,
                    height: 25,
                };
                let part = pil_window(&picture, (width, height), window, filter).unwrap();
                for y in 0..25 {
                    let at = ((y + 11) * width as usize + 7) * CHANNELS;
                    let expected = &whole.rgb()[at..at + 20 * CHANNELS];
                    let found = &part.rgb()[y * 20 * CHANNELS..(y + 1) * 20 * CHANNELS];
                    assert_eq!(found, expected, "{filter:?} {width}x{height} row {y}");
                }
            }
        }
    }

    #[test]
    fn rows_that_are_spread_are_the_same_as_turned_ones() {
        for (width, height) in [(1, 40), (3, 90), (15, 1000), (40, 64)] {
            let picture = noise(width, height);
            for filter in FILTERS {
                for (to_width, to_height) in [(97, 40), (224, 31), (600, height)] {
                    let spread = pil(&picture, to_width, to_height, filter);
                    let across = Taps::new(
                        width as usize,
                        to_width as usize,
                        0..to_width as usize,
                        filter,
                    );
                    assert!(Spread::new(&across).is_some());
                    let down = Taps::new(
                        height as usize,
                        to_height as usize,
                        0..to_height as usize,
                        filter,
                    );
                    let passes = Passes {
                        source: picture.rgb(),
                        stride: width as usize * CHANNELS,
                        across: &across,
                        spread: None,
                        down: &down,
                    };
                    let mut turned = vec![0; spread.rgb().len()];
                    passes.strip(0, &mut turned, to_width as usize * CHANNELS);
                    assert_eq!(
                        spread.rgb(),
                        turned,
                        "{width}x{height} {to_width}x{to_height}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_window_outside_is_refused() {
        let picture = noise(4, 4);
        for (left, top, width, height) in [
            (0, 0, 0, 1),
            (0, 0, 1, 0),
            (8, 0, 1, 1),
            (0, 8, 1, 1),
            (0, 0, 9, 1),
            (u32::MAX, 0, 1, 1),
        ] {
            let window = Window {
                left,
                top,
                width,
                height,
            };
            assert!(pil_window(&picture, (8, 8), window, Filter::Bilinear).is_none());
        }
    }

    #[test]
    fn a_flat_picture_stays_flat() {
        let picture = Picture::from_rgb(37, 11, [9, 130, 255].repeat(37 * 11)).unwrap();
        for filter in FILTERS {
            for (width, height) in [(1, 1), (400, 3), (3, 400), (336, 336)] {
                let scaled = pil(&picture, width, height, filter);
                assert!(scaled.rgb().chunks(3).all(|pixel| pixel == [9, 130, 255]));
            }
        }
    }

    #[test]
    fn a_side_of_zero_is_taken_as_one() {
        let scaled = pil(&noise(5, 5), 0, 0, Filter::Bicubic);
        assert_eq!((scaled.width(), scaled.height()), (1, 1));
    }
}
