//! Rotary position embedding: plain, LongRoPE, and Llama 3's.
//!
//! Angles are computed for the positions of a step and not looked up: a table for 131072
//! positions would take 50 MB for each set of factors, and sines for the few rows of a step cost
//! nothing beside its matrix products.

use candle_core::{DType, Device, Result, Tensor};
use vlmd_backend::Step;

/// LongRoPE's parameters ("su" in the first Phi-3 releases; Ding et al. 2024).
#[derive(Debug, Clone)]
pub(crate) struct LongRope {
    /// Divide each pair's frequency within the original context; `head_dim / 2` of them.
    pub(crate) short_factor: Vec<f32>,
    /// The same for sequences that may grow beyond it.
    pub(crate) long_factor: Vec<f32>,
    /// Positions that the model was first trained on.
    pub(crate) original_max_positions: usize,
    /// Positions that it was extended to.
    pub(crate) max_positions: usize,
}

/// Llama 3's parameters (`rope_type: "llama3"`): slow pairs are slowed down further.
#[derive(Debug, Clone)]
pub(crate) struct Llama3Rope {
    /// Divides the frequency of pairs whose wave is longer than the original context.
    pub(crate) factor: f64,
    /// Waves longer than `original_max_positions / low_freq_factor` are slowed down wholly,
    pub(crate) low_freq_factor: f64,
    /// those shorter than `original_max_positions / high_freq_factor` not at all.
    pub(crate) high_freq_factor: f64,
    /// Positions that the model was first trained on.
    pub(crate) original_max_positions: usize,
}

/// Rotation angles of a decoder's heads.
#[derive(Debug, PartialEq)]
pub(crate) struct Rope {
    /// Per pair of dimensions, radians per position.
    frequencies: Vec<f32>,
    /// The same for long sequences, and the longest sequence that is not long.
    long: Option<(Vec<f32>, usize)>,
    /// Multiplies cosines and sines alike.
    scale: f32,
}

impl Rope {
    /// Frequencies `theta^(-2i/d)` for heads of width `head_dim`.
    pub(crate) fn plain(head_dim: usize, theta: f64) -> Self {
        Self {
            frequencies: frequencies(head_dim, theta, &vec![1.0; head_dim / 2]),
            long: None,
            scale: 1.0,
        }
    }

    /// Positions divided by `factor` (Chen et al. 2023).
    pub(crate) fn linear(head_dim: usize, theta: f64, factor: f64) -> Self {
        let mut rope = Self::plain(head_dim, theta);
        for frequency in &mut rope.frequencies {
            *frequency /= factor as f32;
        }
        rope
    }

    /// Llama 3's, as `_compute_llama3_parameters` of transformers has it.
    pub(crate) fn llama3(head_dim: usize, theta: f64, config: &Llama3Rope) -> Self {
        let mut rope = Self::plain(head_dim, theta);
        let original = config.original_max_positions as f32;
        let (low, high) = (
            config.low_freq_factor as f32,
            config.high_freq_factor as f32,
        );
        for frequency in &mut rope.frequencies {
            let wave = 2.0 * std::f32::consts::PI / *frequency;
            let slowed = *frequency / config.factor as f32;
            if wave > original / low {
                *frequency = slowed;
            } else if wave >= original / high {
                let smooth = (original / wave - low) / (high - low);
                *frequency = (1.0 - smooth) * slowed + smooth * *frequency;
            }
        }
        rope
    }

    /// LongRoPE as `Phi3SuScaledRotaryEmbedding` has it, except for one thing.
    ///
    /// The reference chooses between short and long factors anew in each forward pass, so that a
    /// sequence that grows beyond the original context is continued with long factors over keys
    /// that were rotated with short ones. Here the choice is made once, from the longest that the
    /// sequence may grow to ([`Step::max_len`]).
    pub(crate) fn long(head_dim: usize, theta: f64, config: &LongRope) -> Self {
        let ratio = config.max_positions as f64 / config.original_max_positions as f64;
        let scale = if ratio <= 1.0 {
            1.0
        } else {
            (1.0 + ratio.ln() / (config.original_max_positions as f64).ln()).sqrt()
        };
        Self {
            frequencies: frequencies(head_dim, theta, &config.short_factor),
            long: Some((
                frequencies(head_dim, theta, &config.long_factor),
                config.original_max_positions,
            )),
            scale: scale as f32,
        }
    }

    /// The longest sequence that is not long, where there are factors for those.
    pub(crate) fn long_beyond(&self) -> Option<usize> {
        self.long.as_ref().map(|(_, original)| *original)
    }

    /// Cosines and sines, each `[T, head_dim / 2]`, for the tokens of a step.
    pub(crate) fn tables(
        &self,
        step: &Step,
        dtype: DType,
        device: &Device,
    ) -> Result<(Tensor, Tensor)> {
        let pairs = self.frequencies.len();
        let rows = step.positions.len();
        let mut cos = Vec::with_capacity(rows * pairs);
        let mut sin = Vec::with_capacity(rows * pairs);
        for (bounds, &max_len) in step.cu_q.windows(2).zip(&step.max_len) {
            let frequencies = match &self.long {
                Some((long, original)) if max_len as usize > *original => long,
                _ => &self.frequencies,
            };
            let tokens = bounds[0] as usize..bounds[1] as usize;
            for &position in step.positions.get(tokens).unwrap_or_default() {
                for &frequency in frequencies {
                    // The product is rounded to f32 as in the reference; at 100k positions that
                    // decides the third decimal.
                    let angle = f64::from(frequency * position as f32);
                    cos.push(angle.cos() as f32 * self.scale);
                    sin.push(angle.sin() as f32 * self.scale);
                }
            }
        }
        let table = |values| Tensor::from_vec(values, (rows, pairs), device)?.to_dtype(dtype);
        Ok((table(cos)?, table(sin)?))
    }
}

/// `1 / (factor * theta^(2i/d))`, each operation rounded to f32 as the reference does.
fn frequencies(head_dim: usize, theta: f64, factors: &[f32]) -> Vec<f32> {
    let frequency = |(pair, factor): (usize, &f32)| {
        let exponent = (2 * pair) as f32 / head_dim as f32;
        let power = theta.powf(f64::from(exponent)) as f32;
        1.0 / (factor * power)
    };
    factors.iter().enumerate().map(frequency).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LongRope {
        LongRope {
            short_factor: vec![1.0, 2.0],
            long_factor: vec![4.0, 8.0],
            original_max_positions: 4096,
            max_positions: 131_072,
        }
    }

    /// Two sequences: positions 0 and 1 of one, position 3 of another.
    fn step(max_len: [u32; 2]) -> Step {
        Step {
            tokens: vec![0; 3],
            positions: vec![0, 1, 3],
            cu_q: vec![0, 2, 3],
            max_len: max_len.to_vec(),
            ..Step::default()
        }
    }

    fn sines(rope: &Rope, step: &Step) -> Vec<Vec<f32>> {
        let (_, sin) = rope.tables(step, DType::F32, &Device::Cpu).unwrap();
        sin.to_vec2().unwrap()
    }

    #[test]
    fn plain_angles_are_position_times_frequency() {
        let rope = Rope::plain(4, 10_000.0);
        let (cos, _) = rope
            .tables(&step([8, 8]), DType::F32, &Device::Cpu)
            .unwrap();
        let expected = [
            [1.0, 1.0],
            [1f32.cos(), 0.01f32.cos()],
            [3f32.cos(), 0.03f32.cos()],
        ];
        assert_eq!(cos.to_vec2::<f32>().unwrap(), expected);
    }

    #[test]
    fn factors_follow_each_sequences_own_longest_length() {
        let rope = Rope::long(4, 10_000.0, &config());
        let scale = (1.0 + 32f64.ln() / 4096f64.ln()).sqrt() as f32;
        assert!((scale - 1.190_238).abs() < 1e-6);
        let short = sines(&rope, &step([4096, 4096]));
        let mixed = sines(&rope, &step([4096, 4097]));
        assert_eq!(short[..2], mixed[..2]);
        assert_eq!(short[2][0], f64::from(3f32).sin() as f32 * scale);
        assert_eq!(mixed[2][0], f64::from(0.75f32).sin() as f32 * scale);
    }

    #[test]
    fn a_model_that_was_never_extended_is_not_scaled() {
        let config = LongRope {
            max_positions: 4096,
            ..config()
        };
        let rope = Rope::long(4, 10_000.0, &config);
        assert_eq!(rope.scale, 1.0);
    }
}
