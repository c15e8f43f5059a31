//! How a decoder tells its tokens apart by place.

use candle_core::{DType, Device, Result, Tensor};
use vlmd_backend::Step;

use super::rope::Rope;

/// The kinds of position that decoders know.
#[derive(Debug)]
pub(crate) enum Positions {
    /// Queries and keys are rotated in each layer.
    Rotary(Rope),
    /// Waves are added to the embeddings.
    Sinusoidal(Sinusoidal),
}

impl Positions {
    /// See [`ModelSpec::long_beyond`](vlmd_backend::ModelSpec::long_beyond).
    pub(crate) fn long_beyond(&self) -> Option<usize> {
        match self {
            Self::Rotary(rope) => rope.long_beyond(),
            Self::Sinusoidal(_) => None,
        }
    }
}

/// Sines and cosines of the position (Vaswani et al. 2017), in fairseq's layout: all sines, then
/// all cosines.
#[derive(Debug)]
pub(crate) struct Sinusoidal {
    frequencies: Vec<f32>,
    /// Position of a sequence's first token; fairseq keeps the ones before it for padding.
    first: u32,
}

impl Sinusoidal {
    /// Frequencies `10000^(-i / (width / 2 - 1))` for rows of `width`, which is even and above 2.
    pub(crate) fn new(width: usize, first: u32) -> Self {
        let half = width / 2;
        // Each operation rounded to f32 as the reference does.
        let step = (10_000f64.ln() / (half - 1) as f64) as f32;
        Self {
            frequencies: (0..half).map(|i| (i as f32 * -step).exp()).collect(),
            first,
        }
    }

    /// `[T, width]` for the tokens of a step.
    pub(crate) fn rows(&self, step: &Step, dtype: DType, device: &Device) -> Result<Tensor> {
        let width = 2 * self.frequencies.len();
        let mut rows = Vec::with_capacity(step.positions.len() * width);
        for &position in &step.positions {
            let position = (position + self.first) as f32;
            let angle = |frequency: &f32| f64::from(position * frequency);
            rows.extend(self.frequencies.iter().map(|f| angle(f).sin() as f32));
            rows.extend(self.frequencies.iter().map(|f| angle(f).cos() as f32));
        }
        Tensor::from_vec(rows, (step.positions.len(), width), device)?.to_dtype(dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_stands_at_its_offset() {
        let step = Step {
            positions: vec![0, 3],
            ..Step::default()
        };
        let rows = Sinusoidal::new(4, 2)
            .rows(&step, DType::F32, &Device::Cpu)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        let slow = 10_000f32.recip();
        let expected = |p: f32| [p.sin(), (p * slow).sin(), p.cos(), (p * slow).cos()];
        for (row, position) in rows.iter().zip([2.0, 5.0]) {
            for (found, expected) in row.iter().zip(expected(position)) {
                assert!((found - expected).abs() < 1e-6, "{found} {expected}");
            }
        }
    }
}
