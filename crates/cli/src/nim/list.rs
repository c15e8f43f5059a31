//! `list-model-profiles`: what can be run here, in the form in which NIM prints it.

use std::ffi::OsString;
use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use candle_core::Device;
use clap::Parser;
use vlmd_models::catalog::{self, EMBEDDED_MODEL};

use super::profiles::Profile;
use crate::args::{Precision, ServeArgs};
use crate::device;
use crate::launch;
use crate::plan::{Machine, Wishes, admit_card, readable};
use crate::settings::{self, Environment};

/// List the profiles of the model that the environment names, or of all models.
///
/// A line holds the profile's id, which NIM_MODEL_PROFILE and download-to-cache take, its name in
/// brackets, and where it is not clear the model.
#[derive(Debug, Parser)]
#[command(name = "list-model-profiles", version)]
struct Arguments {}

/// Prints the profiles.
pub(super) fn run(arguments: &[OsString], environment: &Environment) -> Result<()> {
    let Arguments {} = Arguments::parse_from(arguments);
    let args = settings::of_environment(environment)?
        .serve()
        .context("there are no settings")?;
    // What is not said here is in the list itself: no free GPUs.
    launch::hand_over((&args).into(), arguments)?;
    let device = device::open(args.device)?;
    let text = listing(&args, &device, Machine::of(&device)?);
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn listing(args: &ServeArgs, device: &Device, machine: Machine) -> String {
    let (free, wishes) = (machine.free, Wishes::of(args, machine.place));
    // The model that is served by default is asked for by nobody.
    let models: Vec<&str> = if args.model == EMBEDDED_MODEL {
        catalog::cards()
            .iter()
            .map(|card| card.id.as_str())
            .collect()
    } else {
        vec![&args.model]
    };
    let mut runnable = String::new();
    let mut low = String::new();
    for profile in models.iter().copied().flat_map(Profile::of) {
        let card = catalog::find(&profile.model);
        // Of others nothing is known before they are loaded.
        let fits = card.is_none_or(|card| {
            let dtype = match profile.dtype {
                "f32" => Precision::F32,
                "f16" => Precision::F16,
                _ => Precision::Bf16,
            };
            admit_card(card, dtype.dtype(), machine, &wishes).is_ok()
        });
        let mut line = format!("  - {} ({})", profile.id(), profile.name());
        if models.len() > 1 {
            line = format!("{line} {}", profile.model);
        }
        let list = if fits { &mut runnable } else { &mut low };
        list.push_str(&line);
        list.push('\n');
    }
    let gpus = match device.location() {
        candle_core::DeviceLocation::Cuda { gpu_id } => {
            format!("\n  - CUDA device {gpu_id} [{} free]", readable(free))
        }
        _ => format!(" <None>\n- Free memory: {}", readable(free)),
    };
    let group = |title: &str, lines: String| {
        let lines = if lines.is_empty() {
            " <None>\n".to_owned()
        } else {
            format!("\n{lines}")
        };
        format!("- {title}:{lines}")
    };
    format!(
        "SYSTEM INFO\n- Free GPUs:{gpus}\nMODEL PROFILES\n{}{}{}",
        group("Compatible with system and runnable", runnable),
        group("Compatible with system but low memory", low),
        group("Incompatible with system", String::new()),
    )
}
