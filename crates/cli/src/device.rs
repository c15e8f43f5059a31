//! The device that a model runs on: a card of this host's, or its CPU.

use anyhow::{Context as _, Result, bail};
use candle_core::Device;

use crate::args::DeviceChoice;

/// Opens the device that was asked for. `auto` takes the first card if there is one that can be
/// used, else the CPU.
///
/// # Errors
/// When a card was asked for by name and cannot be used: one sentence that says why.
pub(crate) fn open(choice: DeviceChoice) -> Result<Device> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(ordinal) => card(ordinal).with_context(|| unusable(ordinal)),
        DeviceChoice::Auto if cfg!(feature = "cuda") => Ok(card(0).unwrap_or_else(|error| {
            tracing::info!("serving on the CPU: {error:#}");
            Device::Cpu
        })),
        DeviceChoice::Auto => Ok(Device::Cpu),
    }
}

/// A card, by its place in the driver's order.
fn card(ordinal: usize) -> Result<Device> {
    if !cfg!(feature = "cuda") {
        bail!("this vlmd is built without CUDA");
    }
    // Asked first: candle would say an error's number.
    let count = vlmd_kernels::cards()?.len();
    if ordinal >= count {
        bail!(not_among(count));
    }
    Ok(Device::new_cuda(ordinal)?)
}

/// What to say of a card that was asked for in vain, before the reason.
pub(crate) fn unusable(ordinal: usize) -> String {
    format!("cannot use CUDA device {ordinal}")
}

/// The reason, where there are other cards but not that one.
pub(crate) fn not_among(count: usize) -> String {
    format!("the driver shows {count}, counted from 0")
}

/// What to call a device when telling what runs where.
pub(crate) fn describe(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("CUDA device {gpu_id}"),
        _ => format!("{} CPU threads", rayon::current_num_threads()),
    }
}
