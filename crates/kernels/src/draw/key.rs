//! The one order of a row's tokens.

/// A token and its logit, ordered as whole numbers: greater logits are greater, and of equal ones
/// the one with the lower id. Zeros of either sign are equal.
///
/// `cuda/draw.cu` has the same keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(u64);

const SIGN: u32 = 1 << 31;

impl Key {
    /// `logit` is not NaN.
    pub(crate) fn of(logit: f32, id: u32) -> Self {
        // Negative zero becomes the other one.
        let bits = (logit + 0.0).to_bits();
        let ordered = if bits & SIGN == 0 { bits | SIGN } else { !bits };
        Self(u64::from(ordered) << 32 | u64::from(!id))
    }

    pub(crate) fn id(self) -> u32 {
        !(self.0 as u32)
    }

    pub(crate) fn logit(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        f32::from_bits(if ordered & SIGN == 0 {
            !ordered
        } else {
            ordered ^ SIGN
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_ordered_by_logit_and_then_by_id_and_give_both_back() {
        let inf = f32::INFINITY;
        let logits = [
            inf,
            f32::MAX,
            1.5,
            f32::MIN_POSITIVE,
            1e-45,
            0.0,
            -1e-45,
            -2.0,
            f32::MIN,
            -inf,
        ];
        for pair in logits.windows(2) {
            assert!(Key::of(pair[0], u32::MAX) > Key::of(pair[1], 0), "{pair:?}");
        }
        for logit in logits {
            assert!(Key::of(logit, 3) > Key::of(logit, 4));
            let key = Key::of(logit, 7);
            assert_eq!((key.logit(), key.id()), (logit, 7));
        }
        assert_eq!(Key::of(-0.0, 5), Key::of(0.0, 5));
    }
}
