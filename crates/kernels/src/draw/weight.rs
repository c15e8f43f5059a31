//! What a token weighs: a whole number, the same on every device.
//!
//! The weight of a token is `exp((logit - highest) / temperature)` in units of 2^-43, rounded to the
//! nearest, ties to even. The best token weighs 2^43 and no other weighs more, so that the weights
//! of 2^20 tokens sum up to at most 2^63.
//!
//! Each operation below is a single one of IEEE 754, rounded by itself: there is none that
//! multiplies and adds at once, since not every CPU has it, and `cuda/draw.cu` forbids the compiler
//! to make one. The logarithm's error in `x` aside, which is that of one subtraction and one
//! division in f32, the exponential is off by less than 2e-7 of itself.
//!
//! A token that is 2^44 times less probable than the best weighs nothing. All such tokens of the
//! largest vocabulary together have less than one part in 2^24 of the best one's probability, as
//! much as f32 is rounded by.

/// What the best token weighs.
pub(crate) const ONE: u64 = 1 << UNIT;

const UNIT: u32 = 43;

/// `e^x` below here is no weight: 2^44 is e^30.5.
const LOWEST: f32 = -31.0;

/// Added to a number between -2^22 and 2^22 it leaves the nearest whole number in the lowest bits.
const MAGIC: f32 = 12_582_912.0;

/// ln 2 in two parts, the first short enough for its multiples to be exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// Taylor's series: the rest after x^7 is below 1e-8 for |x| <= ln(2) / 2.
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

/// How a row's logits become weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// The highest logit, which is finite.
    pub(crate) highest: f32,
    /// Above 0.
    pub(crate) temperature: f32,
}

impl Scale {
    /// Of a logit that is at most the highest. Without a branch, for loops of it to become
    /// vectors.
    #[inline(always)]
    pub(crate) fn weight(self, logit: f32) -> u64 {
        let x = (logit - self.highest) / self.temperature;
        // What is NaN, an infinity by another, is impossible, too.
        let x = if x > LOWEST { x } else { LOWEST };
        let shifted = x * std::f32::consts::LOG2_E + MAGIC;
        let n = shifted - MAGIC;
        let rest = x - n * LN_2_HIGH;
        let rest = rest - n * LN_2_LOW;
        let mut sum = SERIES[7];
        for i in (0..7).rev() {
            sum = sum * rest + SERIES[i];
        }
        // 2^(n + UNIT): of the bits of `shifted` only those of `n` stay.
        let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add((127 + UNIT) << 23));
        // In f64 numbers from 2^52 on are whole, and the lowest bits count them.
        let whole = f64::from(sum * power) + (1u64 << 52) as f64;
        whole.to_bits() - ((1u64 << 52) as f64).to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(x: f32) -> u64 {
        let scale = Scale {
            highest: 0.0,
            temperature: 1.0,
        };
        scale.weight(x)
    }

    #[test]
    fn weights_are_the_exponential_to_the_last_bits_of_f32() {
        for step in 0..4_000_000 {
            let x = step as f32 * -1e-5;
            let exact = f64::from(x).exp() * ONE as f64;
            let found = weight(x);
            assert!(found <= ONE, "{x}");
            let off = (found as f64 - exact).abs();
            // Half a unit, and a little of itself.
            assert!(off <= 0.5 + 2e-7 * exact, "{x}: {found} for {exact}");
        }
    }

    #[test]
    fn the_best_weighs_one_and_what_is_impossible_nothing() {
        assert_eq!(weight(0.0), ONE);
        assert_eq!(weight(-0.0), ONE);
        assert_eq!(weight(-30.0), 1);
        for x in [-30.6, -31.0, -87.0, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(weight(x), 0, "{x}");
        }
    }

    #[test]
    fn the_ends_of_the_temperatures_are_no_trouble() {
        let at = |temperature, logit| {
            let highest = 3.0;
            Scale {
                highest,
                temperature,
            }
            .weight(logit)
        };
        for temperature in [
            f32::from_bits(1),
            f32::MIN_POSITIVE,
            1.0,
            f32::MAX,
            f32::INFINITY,
        ] {
            assert_eq!(at(temperature, 3.0), ONE, "{temperature}");
            assert_eq!(at(temperature, f32::NEG_INFINITY), 0, "{temperature}");
        }
        assert_eq!(at(f32::from_bits(1), 2.999_999_8), 0);
        assert_eq!(at(f32::MAX, -1000.0), ONE);
    }
}
