//! Transcendental functions over vectors, to about the last bit of f32.

use super::simd::Simd;

/// `c[0] + c[1] x + c[2] x^2 + ..`
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::V, c: [f32; N]) -> S::V {
    let mut sum = simd.splat(c[N - 1]);
    for i in (0..N - 1).rev() {
        sum = simd.mul_add(sum, x, simd.splat(c[i]));
    }
    sum
}

/// `e^x`, within 2 units of the last place. 0 below -87.3, where f32 would be subnormal;
/// `e^88` above 88. NaN stays NaN, so that a broken score is not taken for a small one.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::V) -> S::V {
    const LOWEST: f32 = -87.3;
    // ln 2 in two parts, the first short enough for its multiples to be exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Taylor's series: the rest after x^7 is below 1e-8 for |x| <= ln(2) / 2.
    const SERIES: [f32; 8] = [
        1.,
        1.,
        1. / 2.,
        1. / 6.,
        1. / 24.,
        1. / 120.,
        1. / 720.,
        1. / 5040.,
    ];
    let lowest = simd.splat(LOWEST);
    // Of two operands one of which is NaN, `min` and `max` give the second.
    let within = simd.min(simd.splat(88.), simd.max(lowest, x));
    let n = simd.round(simd.mul(within, simd.splat(std::f32::consts::LOG2_E)));
    let rest = simd.mul_add(n, simd.splat(-LN_2_HIGH), within);
    let rest = simd.mul_add(n, simd.splat(-LN_2_LOW), rest);
    let value = simd.mul(polynomial(simd, rest, SERIES), simd.exp2i(n));
    simd.if_less(x, lowest, simd.splat(0.), value)
}

/// The error function, within 1.2e-7, the distance of 1 to the next f32.
///
/// Below 1 it is `x P(x^2)`, from there on `1 - e^Q(|x|)`. Both polynomials were fitted to the
/// function by weighted least squares, reweighted until the largest error was smallest.
#[inline(always)]
pub(crate) fn erf<S: Simd>(simd: S, x: S::V) -> S::V {
    // P - 1, so that the last step adds a small part to an exact one.
    const NEAR: [f32; 7] = [
        0.128_379_1,
        -0.376_126_26,
        0.112_836,
        -0.026_854_444,
        0.005_189_535_7,
        -0.000_802_084_2,
        0.000_078_891_23,
    ];
    const FAR: [f32; 7] = [
        -0.000_353_719_3,
        -1.127_04,
        -0.638_225_7,
        -0.103_037_37,
        0.021_805_318,
        -0.002_939_607_5,
        0.000_185_574_03,
    ];
    let zero = simd.splat(0.);
    let size = simd.max(x, simd.sub(zero, x));
    let near = polynomial(simd, simd.mul(x, x), NEAR);
    let near = simd.mul_add(x, near, x);
    // From 4 on the result is 1 in f32; the fit ends there.
    let far = polynomial(simd, simd.min(size, simd.splat(4.)), FAR);
    let far = simd.sub(simd.splat(1.), exp(simd, far));
    let far = simd.if_less(x, zero, simd.sub(zero, far), far);
    simd.if_less(size, simd.splat(1.), near, far)
}

/// `1 / (1 + e^-x)`
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(simd: S, x: S::V) -> S::V {
    let one = simd.splat(1.);
    simd.div(one, simd.add(one, exp(simd, simd.sub(simd.splat(0.), x))))
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Kernel, Level, MAX_LANES, dispatch};
    use super::*;

    struct Both([f32; MAX_LANES]);

    impl Kernel for Both {
        type Output = Vec<(f32, f32, f32)>;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let x = simd.read(&self.0);
            let (mut e, mut f) = ([0.; MAX_LANES], [0.; MAX_LANES]);
            simd.write(&mut e, exp(simd, x));
            simd.write(&mut f, erf(simd, x));
            (0..S::LANES).map(|i| (self.0[i], e[i], f[i])).collect()
        }
    }

    fn each(mut check: impl FnMut(Level, f32, f32, f32)) {
        for level in Level::all() {
            for step in -100_000..100_000 {
                let x = step as f32 * 0.001;
                let lanes = std::array::from_fn(|i| x + i as f32 * 6e-5);
                for (x, e, f) in dispatch(level, Both(lanes)) {
                    check(level, x, e, f);
                }
            }
        }
    }

    #[test]
    fn exp_is_right_to_the_last_bits_zero_where_f32_ends_and_nan_for_nan() {
        each(|level, x, exp, _| {
            let exact = f64::from(x).exp();
            if x < -87.3 {
                assert_eq!(exp, 0., "{level:?} {x}");
            } else if x < 88. {
                let error = (f64::from(exp) - exact).abs() / exact;
                assert!(error < 2e-7, "{level:?} {x}: {error}");
            }
        });
        let special = [f32::NEG_INFINITY; MAX_LANES];
        for level in Level::all() {
            let broken = dispatch(level, Both([f32::NAN; MAX_LANES]));
            assert!(broken.iter().all(|v| v.1.is_nan()), "{level:?}");
            assert!(
                dispatch(level, Both(special))
                    .iter()
                    .all(|v| v.1 == 0. && v.2 == -1.)
            );
        }
    }

    #[test]
    fn erf_is_within_the_last_bit_of_1() {
        each(|level, x, _, erf| {
            let exact = candle_core::cpu::erf::erf_f64(f64::from(x));
            let error = (f64::from(erf) - exact).abs();
            assert!(error < f64::from(f32::EPSILON), "{level:?} {x}: {error}");
        });
    }
}
