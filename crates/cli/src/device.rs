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
        DeviceChoice::Cuda(ordinal) => card(ordinal),
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
        bail!("cannot use CUDA device {ordinal}: this vlmd is built without CUDA");
    }
    // Asked first: candle would say an error's number.
    let cards =
        vlmd_kernels::cards().with_context(|| format!("cannot use CUDA device {ordinal}"))?;
    if ordinal >= cards.len() {
        bail!("{}", no_such_card(ordinal, cards.len()));
    }
    Device::new_cuda(ordinal).with_context(|| format!("cannot open CUDA device {ordinal}"))
}

/// What to say of a card that is not there.
pub(crate) fn no_such_card(ordinal: usize, count: usize) -> String {
    format!("there is no CUDA device {ordinal}: the driver shows {count}, counted from 0")
}

/// What to call a device when telling what runs where.
pub(crate) fn describe(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("CUDA device {gpu_id}"),
        _ => format!("{} CPU threads", rayon::current_num_threads()),
    }
}
