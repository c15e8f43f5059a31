//! `vlmd check`: whether this machine computes what it should, and how fast.
//!
//! Says what devices, driver and kernels there are ([`machine`]); runs each kernel on tensors that
//! are the same everywhere ([`cases`]) and holds the results against its twin's, and its time
//! against what the device has just shown that it can do ([`measure`]); and lets the embedded
//! model answer questions whose answers are known ([`goldens`]). The verdict is the exit code.
//!
//! On a CUDA device the twin is the same function on the CPU, which the tests hold against a
//! third route; on a CPU it is that route itself ([`vlmd_kernels::twin`]).

mod args;
mod cases;
mod examine;
mod goldens;
mod machine;
mod measure;
mod noise;
mod report;
mod sizes;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use candle_core::Device;
use serde_json::json;
use vlmd_kernels::Place;

pub(crate) use args::CheckArgs;

use machine::Cuda;
use measure::Limits;
use noise::Noise;
use report::{Report, VERSION};
use sizes::Sizes;

/// Checks, prints what was found, and gives the verdict.
///
/// # Errors
/// When the device fails in a way that leaves nothing to report.
pub(crate) fn run(args: &CheckArgs) -> Result<ExitCode> {
    let cuda = Cuda::find();
    let device = match cuda.device(args.device) {
        Ok(device) => device,
        Err(reason) => {
            // Nothing was checked, and above all no GPU.
            let sentence = format!("nothing was checked: {reason}");
            let value = json!({"version": VERSION, "ok": false, "sentence": sentence});
            let text = if args.json {
                format!("{value:#}\n")
            } else {
                cuda.text() + &sentence + "\n"
            };
            io::stdout().lock().write_all(text.as_bytes())?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let report = check(cuda, &device, args.quick)?;
    let text = if args.json {
        format!("{:#}\n", report.json())
    } else {
        report.text()
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(if report.ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn check(cuda: Cuda, device: &Device, quick: bool) -> Result<Report> {
    let place = Place::of(device);
    let sizes = Sizes::of(place, quick);
    let limits = Limits::measure(device, &sizes)?;
    let mut noise = Noise::new();
    let kernels = cases::TABLE
        .iter()
        .flat_map(|kernel| cases::dtypes(kernel, place).map(move |dtype| (kernel, dtype)))
        .map(|(kernel, dtype)| {
            let case = (kernel.make)(&sizes, dtype, &mut noise)?;
            examine::examine(kernel.name, &case, device, &limits, &sizes)
        })
        .collect::<Result<_>>()?;
    Ok(Report {
        device: machine::describe(device),
        place,
        quick,
        runs_kernels: cuda.runs_kernels(device),
        cuda,
        limits,
        kernels,
        goldens: goldens::answers(device)?,
    })
}

#[cfg(test)]
mod tests;
