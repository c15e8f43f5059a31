//! Time, and what a device can do at best.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use serde_json::{Map, Value, json};
use vlmd_kernels::Place;

use super::cases::{Work, activations};
use super::sizes::Sizes;

/// What the device did at best in this very run: other programs on it show here as in the
/// kernels' times.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Bytes read and written a second by a large copy.
    pub(super) copy: f64,
    /// Multiplications and additions a second of a large matrix product, by type.
    pub(super) matmul: Vec<(DType, f64)>,
}

impl Limits {
    pub(super) fn measure(device: &Device, sizes: &Sizes) -> Result<Self> {
        let numbers = sizes.copied / size_of::<f32>();
        let block = Tensor::zeros(numbers, DType::F32, device)?;
        let seconds = time(device, sizes.runs, || block.copy())?;
        let copy = 2.0 * sizes.copied as f64 / seconds;
        let dtypes: &[DType] = match Place::of(device) {
            Place::Cpu => &[DType::F32],
            Place::Cuda => &[DType::F32, DType::F16, DType::BF16],
        };
        let side = sizes.matrix;
        let matmul = |&dtype: &DType| {
            let matrix = Tensor::ones((side, side), dtype, device)?;
            let seconds = time(device, sizes.runs, || matrix.matmul(&matrix))?;
            Ok((dtype, 2.0 * (side as f64).powi(3) / seconds))
        };
        Ok(Self {
            copy,
            matmul: dtypes.iter().map(matmul).collect::<Result<_>>()?,
        })
    }

    /// The share of the device's best, 0 to about 1, that `work` of activations and weights of `dtype`
    /// in so many seconds is: of whichever bounds it, memory or arithmetic. Tensors that fit into a
    /// processor's own cache are read faster than memory is, and their share is above 1.
    pub(super) fn share(&self, work: Work, dtype: DType, place: Place, seconds: f64) -> f64 {
        let dtype = activations(place, dtype);
        let rate = self.matmul.iter().find(|(of, _)| *of == dtype);
        let arithmetic = rate.map_or(0.0, |(_, rate)| work.flops as f64 / rate);
        arithmetic.max(work.bytes as f64 / self.copy) / seconds
    }

    pub(super) fn json(&self) -> Value {
        let matmul = self.matmul.iter();
        let matmul: Map<String, Value> = matmul
            .map(|(dtype, rate)| (dtype.as_str().to_owned(), json!(rate)))
            .collect();
        json!({"copy_bytes_per_second": self.copy, "matmul_flops_per_second": matmul})
    }
}

/// Seconds that `work` takes: the middle one of up to `runs` runs, after one that is not counted
/// where there are several.
pub(super) fn time<T>(device: &Device, runs: usize, work: impl Fn() -> Result<T>) -> Result<f64> {
    if runs > 1 {
        work()?;
    }
    let mut seconds = Vec::with_capacity(runs);
    for _ in 0..runs.max(1) {
        device.synchronize()?;
        let begin = Instant::now();
        let result = work()?;
        device.synchronize()?;
        seconds.push(begin.elapsed().as_secs_f64());
        drop(result);
    }
    seconds.sort_by(f64::total_cmp);
    let middle = seconds.get(seconds.len() / 2).copied();
    // Clocks are coarse, and nothing takes no time.
    Ok(middle.unwrap_or_default().max(1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_bounds_the_work() {
        let limits = Limits {
            copy: 100.0,
            matmul: vec![(DType::F32, 1000.0)],
        };
        let share = |bytes, flops| {
            let work = Work { bytes, flops };
            limits.share(work, DType::BF16, Place::Cpu, 2.0)
        };
        assert!((share(100, 10) - 0.5).abs() < 1e-9, "memory");
        assert!((share(1, 1000) - 0.5).abs() < 1e-9, "arithmetic");
    }
}
