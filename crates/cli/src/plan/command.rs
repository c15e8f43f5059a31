//! `vlmd serve --plan-only`, and the refusal of models that are not fetched yet.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Result, bail};
use candle_core::DType;
use vlmd_kernels::Place;
use vlmd_models::catalog::{self, Card};
use vlmd_models::{Need, survey, survey_card};

use super::show::{Title, plan_json, plan_text, refusal_json, refusal_text};
use super::{Known, Machine, Refusal, Subject, Wishes, readable, solve};
use crate::args::{DeviceChoice, Precision, ServeArgs};
use crate::device;
use crate::resolve::{Wanted, resolve};
use crate::settings::PrintFormat;

/// Prints the plan for what was asked for. Fetches nothing and reads no weight.
///
/// # Errors
/// When the model is not known, or nobody can say what it needs.
pub(crate) fn print(args: &ServeArgs, format: PrintFormat) -> Result<ExitCode> {
    let machine = machine(args)?;
    let (need, weights) = need(args, machine.place)?;
    let title = Title {
        model: &args.model,
        dtype: args.dtype.on(machine.place),
        machine,
        stated: args.plan.gpu_memory.is_some(),
    };
    let subject = Subject {
        need: &need,
        weights,
        profile: None,
    };
    let solved = solve(subject, machine, &Wishes::of(args, machine.place));
    let (text, code) = match (solved, format) {
        (Ok(plan), PrintFormat::Text) => (plan_text(&title, &plan), ExitCode::SUCCESS),
        (Ok(plan), PrintFormat::Json) => (json(&plan_json(&title, &plan)), ExitCode::SUCCESS),
        (Err(refusal), PrintFormat::Text) => {
            let mut text = refusal_text(&title, &refusal) + "It does not fit: ";
            text += &format!("{refusal}\n");
            let others = models_that_fit(args, machine);
            if !others.is_empty() {
                text += &format!("Of the catalog these fit: {}\n", others.join(", "));
            }
            (text, ExitCode::FAILURE)
        }
        (Err(refusal), PrintFormat::Json) => {
            let others = models_that_fit(args, machine);
            let value = refusal_json(&title, &refusal, &others);
            (json(&value), ExitCode::FAILURE)
        }
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(code)
}

fn json(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// The device that is asked about.
fn machine(args: &ServeArgs) -> Result<Machine> {
    let Some(size) = args.plan.gpu_memory else {
        return Machine::of(&device::open(args.device)?);
    };
    if args.device == DeviceChoice::Cpu {
        bail!("`--gpu-memory` is that of a CUDA device, but `--device` is cpu");
    }
    Ok(Machine {
        place: Place::Cuda,
        free: size.0,
    })
}

/// What the model needs: by its files where they are at hand, else by its card.
fn need(args: &ServeArgs, place: Place) -> Result<(Need, Known)> {
    let dtype = args.dtype.dtype();
    let wanted = Wanted {
        offline: true,
        ..Wanted::of(args)
    };
    let missing = match resolve(wanted, |_| Ok(())) {
        Ok(resolved) => return Ok((survey(&resolved.files, place, dtype)?, Known::Headers)),
        Err(missing) => missing,
    };
    let Some(card) = catalog::find(&args.model) else {
        return Err(missing.context("a plan is made without fetching anything"));
    };
    match survey_card(card, place, dtype)? {
        Some(need) => Ok((need, Known::Card)),
        None => Err(missing.context("the catalog does not know what it needs")),
    }
}

/// Models of the catalog that would fit with the same settings.
fn models_that_fit(args: &ServeArgs, machine: Machine) -> Vec<&'static str> {
    let fits = |card: &&Card| {
        let Ok(Some(need)) = survey_card(card, machine.place, args.dtype.dtype()) else {
            return false;
        };
        let subject = Subject {
            need: &need,
            weights: Known::Card,
            profile: None,
        };
        // A length that was asked for is another model's.
        let wishes = Wishes {
            max_model_len: None,
            ..Wishes::of(args, machine.place)
        };
        solve(subject, machine, &wishes).is_ok()
    };
    let cards = catalog::cards().iter().filter(fits);
    cards.map(|card| card.id.as_str()).collect()
}

/// Refuses a model of the catalog that cannot fit, by its card, before it is fetched.
///
/// # Errors
/// When it does not fit; says what would.
pub(crate) fn admit_card(
    card: &Card,
    dtype: Option<DType>,
    machine: Machine,
    wishes: &Wishes,
) -> Result<()> {
    let unfetched = |refusal: &dyn std::fmt::Display| {
        anyhow::anyhow!(
            "`{}` does not fit: {refusal}. Nothing was fetched: `vlmd download` fetches it all the \
             same",
            card.id
        )
    };
    let Some(need) = survey_card(card, machine.place, dtype)? else {
        let weights = card.weight_bytes(dtype.unwrap_or(DType::BF16));
        if weights <= machine.free {
            return Ok(());
        }
        let refusal = Refusal {
            reason: format!(
                "its weights take {}, but {} of memory are free",
                readable(weights),
                readable(machine.free)
            ),
            advice: Vec::new(),
            parts: Vec::new(),
        };
        return Err(unfetched(&refusal));
    };
    let subject = Subject {
        need: &need,
        weights: Known::Card,
        profile: None,
    };
    solve(subject, machine, wishes)
        .map(drop)
        .map_err(|refusal| unfetched(&refusal))
}

impl Precision {
    /// What it means for weights on `place`, for people.
    fn on(self, place: Place) -> &'static str {
        match (self, place) {
            (Self::Auto, Place::Cpu) => "as stored",
            (Self::Auto, Place::Cuda) | (Self::Bf16, _) => "bf16",
            (Self::F16, _) => "f16",
            (Self::F32, _) => "f32",
        }
    }
}
