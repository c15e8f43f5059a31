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

mod square;

use std::ops::Range;

use rayon::prelude::*;

use crate::picture::Picture;

pub use square::pil_on_square;

/// Fractional bits of a weight: 32 less 8 for the pixel and 2 for sums that overshoot.
const WEIGHT_BITS: u32 = 22;

/// One half, in a weight's fixed point: accumulators start from it to round to the nearest.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// Bytes of a pixel.
const CHANNELS: usize = 3;

/// Rows that the horizontal pass takes at a time, lane beside lane.
const BLOCK_ROWS: usize = 16;

/// Sums accumulated side by side: six 256-bit registers of 32-bit lanes.
const LANES: usize = BLOCK_ROWS * CHANNELS;

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
    let passes = Passes {
        source: picture.rgb(),
        stride: picture.width() as usize * CHANNELS,
        across: &Taps::new(picture.width() as usize, size.0 as usize, columns, filter),
        down: &Taps::new(picture.height() as usize, size.1 as usize, rows, filter),
    };
    let row_bytes = window.width as usize * CHANNELS;
    let mut rgb = vec![0; row_bytes * window.height as usize];
    let strip = |(index, out): (usize, &mut [u8])| {
        pulp::Arch::new().dispatch(|| passes.strip(index * STRIP_ROWS, out, row_bytes));
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

/// Both passes over one picture.
struct Passes<'a> {
    source: &'a [u8],
    /// Bytes of a row of `source`.
    stride: usize,
    across: &'a Taps,
    down: &'a Taps,
}

impl Passes<'_> {
    /// Computes the output rows from `first` on that `out` has room for.
    // Inlined into the caller that is compiled once per instruction set, as is all it calls.
    #[inline(always)]
    fn strip(&self, first: usize, out: &mut [u8], row_bytes: usize) {
        let rows = first..first + out.len() / row_bytes;
        let needed = self.down.inputs(rows.clone());
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
                weigh::<LANES>(
                    weights,
                    &turned[(from - columns.start) * LANES..],
                    LANES,
                    &mut sums,
                );
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
    let mut blocks = out.chunks_exact_mut(LANES);
    let mut at = 0;
    for block in &mut blocks {
        weigh::<LANES>(weights, &input[at..], stride, block);
        at += LANES;
    }
    for byte in blocks.into_remainder() {
        weigh::<1>(weights, &input[at..], stride, std::slice::from_mut(byte));
        at += 1;
    }
}

/// `N` weighted sums over bytes that lie `stride` apart, rounded and clamped to 8 bits.
///
/// The sums fit into an `i32`: a pixel is at most 255, and the magnitudes of the weights of one
/// output sum to at most 2 in either kernel (1 but for the cubic's negative lobes), so no partial
/// sum exceeds 255 * 2 * 2^22 + 2^21 < 2^31. Wrapping operations spare checked builds the branch
/// per lane.
#[inline(always)]
fn weigh<const N: usize>(weights: &[i32], input: &[u8], stride: usize, out: &mut [u8]) {
    let mut sums = [HALF; N];
    for (weight, bytes) in weights.iter().zip(input.chunks(stride)) {
        for (sum, byte) in sums.iter_mut().zip(&bytes[..N]) {
            *sum = sum.wrapping_add(weight.wrapping_mul(i32::from(*byte)));
        }
    }
    for (byte, sum) in out.iter_mut().zip(sums) {
        *byte = (sum >> WEIGHT_BITS).clamp(0, 255) as u8;
    }
}

/// The inputs and weights of each output along one axis.
#[derive(Debug)]
struct Taps {
    /// One per output, with inputs that never move backwards.
    spans: Vec<Span>,
    weights: Vec<i32>,
    /// The axis keeps its length, so every output is its own input.
    identity: bool,
}

#[derive(Debug)]
struct Span {
    /// First input.
    from: usize,
    /// First weight in [`Taps::weights`].
    start: usize,
    /// Inputs, and as many weights.
    len: usize,
}

impl Taps {
    /// Weights for the outputs `window` of scaling an axis from `input` to `output` pixels.
    fn new(input: usize, output: usize, window: Range<usize>, filter: Filter) -> Self {
        let identity = input == output;
        if identity {
            // What the computation below comes to, less the weights that are exactly 0.
            let span = |from| Span {
                from,
                start: 0,
                len: 1,
            };
            return Self {
                spans: window.map(span).collect(),
                weights: vec![1 << WEIGHT_BITS],
                identity,
            };
        }
        let scale = input as f64 / output as f64;
        let widened = scale.max(1.0);
        let radius = filter.radius() * widened;
        let mut spans = Vec::with_capacity(window.len());
        let mut weights = Vec::new();
        let mut exact = Vec::new();
        for index in window {
            let centre = (index as f64 + 0.5) * scale;
            // Float to integer conversion saturates, so a negative bound becomes 0.
            let from = (centre - radius + 0.5) as usize;
            let end = ((centre + radius + 0.5) as usize).min(input);
            exact.clear();
            exact.extend((from..end).map(|x| {
                let distance = x as f64 - centre + 0.5;
                filter.at(distance * (1.0 / widened))
            }));
            let sum: f64 = exact.iter().sum();
            spans.push(Span {
                from,
                start: weights.len(),
                len: exact.len(),
            });
            weights.extend(exact.iter().map(|weight| {
                let weight = if sum == 0.0 { *weight } else { weight / sum };
                let half = if weight < 0.0 { -0.5 } else { 0.5 };
                (weight * f64::from(1 << WEIGHT_BITS) + half) as i32
            }));
        }
        Self {
            spans,
            weights,
            identity,
        }
    }

    /// First input and weights of the `index`-th output of the window.
    #[inline(always)]
    fn of(&self, index: usize) -> (usize, &[i32]) {
        let span = &self.spans[index];
        (span.from, &self.weights[span.start..][..span.len])
    }

    /// The inputs that a range of outputs needs. `outputs` must not be empty.
    #[inline(always)]
    fn inputs(&self, outputs: Range<usize>) -> Range<usize> {
        let (first, last) = (&self.spans[outputs.start], &self.spans[outputs.end - 1]);
        first.from..last.from + last.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERS: [Filter; 2] = [Filter::Bilinear, Filter::Bicubic];
    const LENGTHS: [usize; 10] = [1, 2, 3, 5, 7, 64, 97, 336, 1000, 65_535];

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
    fn sums_of_weights_cannot_overflow() {
        for filter in FILTERS {
            for input in LENGTHS {
                for output in LENGTHS {
                    let taps = Taps::new(input, output, 0..output, filter);
                    for index in 0..output {
                        let (_, weights) = taps.of(index);
                        let magnitude: i64 = weights.iter().map(|w| i64::from(w.abs())).sum();
                        assert!(
                            magnitude <= 2 << WEIGHT_BITS,
                            "{filter:?} {input} -> {output}: {magnitude}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn inputs_lie_in_the_picture_and_never_move_backwards() {
        for filter in FILTERS {
            for input in LENGTHS {
                for output in LENGTHS {
                    let taps = Taps::new(input, output, 0..output, filter);
                    let mut last = 0;
                    for index in 0..output {
                        let (from, weights) = taps.of(index);
                        assert!(from >= last && !weights.is_empty());
                        assert!(from + weights.len() <= input);
                        last = from;
                    }
                }
            }
        }
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
