//! What devices, driver and kernels there are.

use candle_core::{Device, DeviceLocation};
use serde_json::{Value, json};
use vlmd_kernels::{CudaBuild, CudaCard, CudaDriver, cuda_build, cuda_driver};

use crate::args::DeviceChoice;
use crate::plan::readable;

/// What there is of CUDA.
#[derive(Debug, Clone)]
pub(super) struct Cuda {
    /// What this binary's kernels are for; `None` without any.
    pub(super) build: Option<CudaBuild>,
    /// The driver and its cards.
    pub(super) driver: Option<CudaDriver>,
    /// Why there is none.
    pub(super) problem: Option<String>,
}

impl Cuda {
    /// Looks for all of it.
    pub(super) fn find() -> Self {
        let build = cuda_build();
        let (driver, problem) = match cuda_driver() {
            Ok(Some(driver)) if driver.cards.is_empty() => {
                (Some(driver), Some("the CUDA driver has no card".to_owned()))
            }
            Ok(Some(driver)) => (Some(driver), None),
            Ok(None) => (None, Some("this binary was built without CUDA".to_owned())),
            Err(error) => (
                None,
                Some(format!("the CUDA driver does not answer: {error}")),
            ),
        };
        Self {
            build,
            driver,
            problem,
        }
    }

    /// The device to check.
    ///
    /// # Errors
    /// When CUDA was asked for and is not to be had.
    pub(super) fn device(&self, choice: DeviceChoice) -> Result<Device, String> {
        let ordinal = match choice {
            DeviceChoice::Cpu => return Ok(Device::Cpu),
            DeviceChoice::Auto if self.problem.is_some() => return Ok(Device::Cpu),
            DeviceChoice::Auto => 0,
            DeviceChoice::Cuda(ordinal) => ordinal,
        };
        if let Some(problem) = &self.problem {
            return Err(format!(
                "{problem}, and `--device` asks for CUDA device {ordinal}"
            ));
        }
        Device::new_cuda(ordinal)
            .map_err(|error| format!("CUDA device {ordinal} cannot be opened: {error}"))
    }

    /// Whether the kernels are for the card that `device` is; `None` on a CPU, and where they do
    /// not say what they are for.
    pub(super) fn runs_kernels(&self, device: &Device) -> Option<bool> {
        let DeviceLocation::Cuda { gpu_id } = device.location() else {
            return None;
        };
        let cards = &self.driver.as_ref()?.cards;
        let card = cards.iter().find(|card| card.ordinal == gpu_id)?;
        self.runs_on(card)
    }

    fn runs_on(&self, card: &CudaCard) -> Option<bool> {
        self.build.as_ref()?.runs_on(card.compute_capability)
    }

    /// For people: what there is, a line each.
    pub(super) fn text(&self) -> String {
        let said = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        let mut text = match &self.build {
            None => "kernels: for CPUs alone\n".to_owned(),
            Some(build) => format!(
                "kernels: for CPUs, and for CUDA as PTX {} for {}, by toolkit {}\n",
                said(&build.ptx),
                said(&build.target),
                said(&build.toolkit)
            ),
        };
        if let Some(driver) = &self.driver {
            let (major, minor) = driver.version;
            text += &format!("CUDA driver: knows CUDA {major}.{minor}\n");
            for card in &driver.cards {
                let (major, minor) = card.compute_capability;
                let fit = match self.runs_on(card) {
                    Some(true) => "the kernels are for it",
                    Some(false) => "the kernels are NOT for it",
                    None => "whether the kernels are for it is unknown",
                };
                text += &format!(
                    "  {}: {}, compute capability {major}.{minor}, {} of {} free, {fit}\n",
                    card.ordinal,
                    card.name,
                    readable(card.free),
                    readable(card.total),
                );
            }
        }
        if let Some(problem) = &self.problem {
            text += &format!("CUDA: {problem}\n");
        }
        text
    }

    /// The same as JSON.
    pub(super) fn json(&self) -> Value {
        let build = self.build.as_ref().map(
            |build| json!({"toolkit": build.toolkit, "ptx": build.ptx, "target": build.target}),
        );
        let driver = self.driver.as_ref();
        let cards = driver.iter().flat_map(|driver| &driver.cards);
        let card = |card: &CudaCard| {
            json!({
                "ordinal": card.ordinal,
                "name": card.name,
                "compute_capability": version(card.compute_capability),
                "total_bytes": card.total,
                "free_bytes": card.free,
                "kernels_are_for_it": self.runs_on(card),
            })
        };
        json!({
            "build": build,
            "driver_version": driver.map(|driver| version(driver.version)),
            "cards": cards.map(card).collect::<Vec<_>>(),
            "problem": self.problem,
        })
    }
}

fn version((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

/// A device's name.
pub(super) fn describe(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => format!("CUDA device {gpu_id}"),
        _ => format!("the CPU, {} threads", rayon::current_num_threads()),
    }
}
