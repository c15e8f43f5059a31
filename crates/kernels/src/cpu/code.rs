//! Keys and values of 8 bits: how rows become codes, and codes numbers. The format is that of
//! [`crate::pages`].

#![expect(
    unsafe_code,
    reason = "codes are bytes by another name, and vectors of them are loaded through pointers"
)]

use rayon::prelude::*;

use super::simd::{Element, Kernel, Level, Simd, dispatch};
use crate::pages::{CODE_OF_ZERO, LARGEST_CODE};

/// Values that one task makes codes of.
const TASK_VALUES: usize = 1 << 14;

/// A value as a multiple of its row's scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Code(u8);

impl Default for Code {
    fn default() -> Self {
        Self(CODE_OF_ZERO)
    }
}

impl Code {
    /// Bytes that are codes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> &[Self] {
        // SAFETY: a `Code` is laid out as the byte inside, and any byte may be inside.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
    }
}

impl Element for Code {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::V {
        // SAFETY: the same contract; a `Code` is laid out as a byte.
        let codes = unsafe { simd.load_u8(from.cast()) };
        simd.sub(codes, simd.splat(f32::from(CODE_OF_ZERO)))
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from(self.0) - f32::from(CODE_OF_ZERO)
    }
}

/// Codes of rows of `width` values, and a scale for each.
pub(crate) fn quantised(level: Level, values: &[f32], width: usize) -> (Vec<u8>, Vec<f32>) {
    let mut codes = vec![CODE_OF_ZERO; values.len()];
    let mut scales = vec![0.; values.len() / width];
    let run = |(values, (codes, scales))| {
        let rows = Rows {
            values,
            width,
            codes,
            scales,
        };
        dispatch(level, rows);
    };
    let rows_each = (TASK_VALUES / width).max(1);
    if scales.len() <= rows_each {
        run((values, (&mut codes, &mut scales)));
    } else {
        let codes = codes.par_chunks_mut(rows_each * width);
        let places = codes.zip(scales.par_chunks_mut(rows_each));
        let values = values.par_chunks(rows_each * width);
        values.zip(places).for_each(run);
    }
    (codes, scales)
}

/// Some rows, and where their codes and scales go.
struct Rows<'a> {
    values: &'a [f32],
    width: usize,
    codes: &'a mut [u8],
    scales: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    /// Plain loops, which the compiler makes vectors of.
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let rows = self.values.chunks_exact(self.width);
        let places = self.codes.chunks_exact_mut(self.width).zip(self.scales);
        for (row, (codes, scale)) in rows.zip(places) {
            *scale = scale_of(row);
            for (code, value) in codes.iter_mut().zip(row) {
                // The cast cuts fractions off, which above 0 is `floor`.
                *code = (value / *scale + (f32::from(CODE_OF_ZERO) + 0.5)) as u8;
            }
        }
    }
}

#[inline(always)]
fn scale_of(row: &[f32]) -> f32 {
    // Sizes are ordered as their bits are, those of infinity and NaN above all others.
    let sizes = row.iter().map(|value| value.to_bits() & (u32::MAX >> 1));
    let largest = f32::from_bits(sizes.fold(0, u32::max));
    if largest.is_finite() {
        largest * LARGEST_CODE.recip() + f32::MIN_POSITIVE
    } else {
        f32::NAN
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::MAX_LANES;
    use super::*;

    struct Widened<'a>(&'a [Code]);

    impl Kernel for Widened<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Vec<f32> {
            let vectors = self.0.chunks_exact(S::LANES).flat_map(|codes| {
                let mut lanes = [0.; MAX_LANES];
                // SAFETY: a chunk is as long as a vector.
                simd.write(&mut lanes, unsafe { Code::load(simd, codes.as_ptr()) });
                lanes.into_iter().take(S::LANES)
            });
            vectors.collect()
        }
    }

    #[test]
    fn every_code_is_widened_to_its_number_by_all_instruction_sets() {
        let bytes: Vec<u8> = (0..=u8::MAX).collect();
        let codes = Code::from_bytes(&bytes);
        let expected: Vec<f32> = (-128i16..128).map(f32::from).collect();
        for level in Level::all() {
            assert_eq!(dispatch(level, Widened(codes)), expected, "{level:?}");
        }
        let alone: Vec<f32> = codes.iter().map(|code| code.to_f32()).collect();
        assert_eq!(alone, expected);
        assert_eq!(Code::default().to_f32(), 0.);
    }

    #[test]
    fn rows_are_read_as_what_they_were_within_half_a_scale() {
        let mut noise = crate::parity::Noise::new(21);
        for (size, width) in [(1., 96), (3e38, 40), (1e-3, 7), (1e-36, 64), (1e-44, 20)] {
            let values: Vec<f32> = noise.vec(50 * width).iter().map(|x| x * size).collect();
            for level in Level::all() {
                let (codes, scales) = quantised(level, &values, width);
                for (row, scale) in scales.iter().enumerate() {
                    let values = &values[row * width..][..width];
                    let largest = values.iter().fold(0f32, |most, x| most.max(x.abs()));
                    let exact = f64::from(largest) / 127. + f64::from(f32::MIN_POSITIVE);
                    assert!((f64::from(*scale) / exact - 1.).abs() < 2e-7, "{scale}");
                    for (value, code) in values.iter().zip(&codes[row * width..]) {
                        let read = Code(*code).to_f32() * scale;
                        let error = (f64::from(read) - f64::from(*value)).abs();
                        let bound = f64::from(*scale) * 0.500_02;
                        assert!(error <= bound, "{level:?}: {value} is read as {read}");
                    }
                }
            }
        }
    }

    #[test]
    fn ties_go_upwards_and_the_largest_sizes_to_the_ends() {
        // A scale of 2^-126 more than 1 is 1.
        let row = [127., -127., 0.5, -0.5, 1.5, -1.5, 0.49, -0.51, 0., -0.];
        let expected = [255, 1, 129, 128, 130, 127, 128, 127, 128, 128];
        for level in Level::all() {
            let (codes, scales) = quantised(level, &row, row.len());
            assert_eq!((codes.as_slice(), scales[0]), (&expected[..], 1.));
        }
    }

    #[test]
    fn zeros_are_read_as_zeros_and_broken_rows_as_nan() {
        let row = |first: f32| [[first, 1., -2.], [0., 0., -0.]].concat();
        for level in Level::all() {
            for broken in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let (codes, scales) = quantised(level, &row(broken), 3);
                assert!(scales[0].is_nan(), "{level:?} {broken}");
                assert_eq!((&codes[3..], scales[1]), (&[128; 3][..], f32::MIN_POSITIVE));
            }
        }
        assert_eq!(quantised(Level::get(), &[], 8), (Vec::new(), Vec::new()));
    }
}
