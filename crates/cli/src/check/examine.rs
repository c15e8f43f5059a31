//! One kernel's results against its twin's.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use vlmd_kernels::Place;

use super::cases::{Case, Route, activations};
use super::measure::{Limits, time};
use super::sizes::Sizes;

/// What was found of a kernel.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) name: &'static str,
    /// Type of weights or cache, and on a card of activations.
    pub(super) dtype: &'static str,
    /// In words.
    pub(super) shape: String,
    /// Largest difference to the twin, over the largest size among the twin's numbers; infinite
    /// where a number is none.
    pub(super) error: f64,
    /// What it may be at most.
    pub(super) bound: f64,
    /// Of one run.
    pub(super) seconds: f64,
    /// See [`Limits::share`].
    pub(super) share: f64,
}

impl Finding {
    pub(super) fn ok(&self) -> bool {
        self.error <= self.bound
    }
}

/// Runs a case on `device` and on its twin.
///
/// # Errors
/// When a kernel fails instead of being wrong.
pub(super) fn examine(
    name: &'static str,
    case: &Case,
    device: &Device,
    limits: &Limits,
    sizes: &Sizes,
) -> Result<Finding> {
    let place = Place::of(device);
    let compute = || {
        let kernel = (case.prepare)(&case.inputs_on(device)?, device, Route::Kernel)?;
        let route = match place {
            Place::Cpu => Route::Twin,
            Place::Cuda => Route::Kernel,
        };
        let twin = (case.prepare)(&case.inputs_on(&Device::Cpu)?, &Device::Cpu, route)?;
        let error = largest_error(&kernel()?, &twin()?)?;
        let seconds = time(device, sizes.runs, &kernel)?;
        candle_core::Result::Ok((error, seconds))
    };
    let (error, seconds) =
        compute().with_context(|| format!("{name} with {}", case.dtype_name()))?;
    Ok(Finding {
        name,
        dtype: case.dtype_name(),
        shape: case.shape.clone(),
        error,
        bound: case
            .bound
            .unwrap_or_else(|| bound(activations(place, case.dtype))),
        seconds,
        share: limits.share(case.work, case.dtype, place, seconds),
    })
}

/// What a result in this type may be off, relative to the largest number: in 16 bits sixteen times
/// what a single rounding may be, since what a kernel is made of is rounded, too; in f32 as much
/// as two orders of summing thousands of terms differ.
fn bound(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 16.0 / 256.0,
        DType::F16 => 16.0 / 2048.0,
        _ => 1e-4,
    }
}

/// The largest error among results.
fn largest_error(results: &[Tensor], twins: &[Tensor]) -> candle_core::Result<f64> {
    if results.len() != twins.len() || results.is_empty() {
        return Ok(f64::INFINITY);
    }
    let pairs = results.iter().zip(twins);
    let errors: Vec<f64> = pairs
        .map(|(result, twin)| error(result, twin))
        .collect::<candle_core::Result<_>>()?;
    Ok(errors.into_iter().fold(0.0, f64::max))
}

/// See [`Finding::error`].
pub(super) fn error(result: &Tensor, twin: &Tensor) -> candle_core::Result<f64> {
    let numbers = |tensor: &Tensor| {
        let wide = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        wide.flatten_all()?.to_vec1::<f32>()
    };
    let (result, twin) = (numbers(result)?, numbers(twin)?);
    let all_are = |numbers: &[f32]| numbers.iter().all(|number| number.is_finite());
    if result.len() != twin.len() || !all_are(&result) || !all_are(&twin) {
        return Ok(f64::INFINITY);
    }
    let largest = |numbers: &mut dyn Iterator<Item = f64>| numbers.fold(0.0, f64::max);
    let size = largest(&mut twin.iter().map(|&number| f64::from(number).abs()));
    let pairs = result.iter().zip(&twin);
    let off = largest(&mut pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs()));
    Ok(if off == 0.0 { 0.0 } else { off / size })
}
