//! Numbers without a pattern, the same on every machine.

use candle_core::{Device, Result, Tensor};

/// Marsaglia's xorshift: what numbers they are is of no interest, only that they are the same.
#[derive(Debug)]
pub(super) struct Noise(u64);

impl Noise {
    pub(super) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number from -1 to 1.
    fn number(&mut self) -> f32 {
        // The upper 24 bits, which an f32 holds exactly.
        let bits = (self.next() >> 40) as f32;
        bits / (1 << 23) as f32 - 1.0
    }

    /// A whole number below `bound`, which is at least 1.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or_default()
    }

    /// Numbers from -1 to 1, f32 on the CPU.
    pub(super) fn tensor(&mut self, shape: &[usize]) -> Result<Tensor> {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| self.number()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_again_and_fill_their_range() {
        let values = |mut noise: Noise| {
            let tensor = noise.tensor(&[1000]).unwrap();
            tensor.to_vec1::<f32>().unwrap()
        };
        let numbers = values(Noise::new());
        assert_eq!(numbers, values(Noise::new()));
        assert!(numbers.iter().all(|number| (-1.0..=1.0).contains(number)));
        let mean = numbers.iter().sum::<f32>() / 1000.0;
        assert!(mean.abs() < 0.1, "{mean}");
        assert!(numbers.iter().any(|&number| number < -0.9));
        let mut noise = Noise::new();
        assert!((0..100).all(|_| noise.below(7) < 7));
    }
}
