//! The variables of NIM containers: `NIM_*`, of all three generations.
//!
//! From the public documentation of NIM for VLMs 1.x and 2.x and of the NIM operator. Each name is
//! in one table, with the setting that it has here, or why it has none.

mod profile;
mod ssl;
mod table;
#[cfg(test)]
mod tests;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::CommandFactory as _;

use super::engine_args::EngineArguments;
use super::{Environment, Notes, Wish, values};
use crate::args::Cli;

use table::{Meaning, TABLE};

const PREFIX: &str = "NIM_";
const PASSTHROUGH: &str = "NIM_PASSTHROUGH_ARGS";

/// What the environment asks for, what goes first in front. `is_given` tells whether an argument
/// has a value that goes before all of them, whose variables are not looked at then.
///
/// # Errors
/// When a variable has a value that cannot be followed.
pub(super) fn wishes(
    environment: &Environment,
    is_given: impl Fn(&str) -> bool,
    notes: &mut Notes,
) -> Result<Vec<Wish>> {
    let mut wishes = passed_through(environment, notes)?;
    for name in TABLE {
        let Some(said) = value(environment, name.variable) else {
            continue;
        };
        match name.meaning {
            Meaning::Sets(argument, _) if is_given(argument) => {}
            Meaning::Sets(argument, read) => {
                let values = read(said)
                    .map_err(|fault| anyhow!("{} is `{said}`: {fault}", name.variable))?;
                wishes.extend(values.map(|values| Wish {
                    variable: name.variable,
                    argument: argument.to_owned(),
                    said: said.to_owned(),
                    values,
                }));
            }
            Meaning::Elsewhere => {}
            Meaning::Idle(why) => {
                let note = format!("{} means nothing here: {why}", name.variable);
                notes.idle.push(note);
            }
            Meaning::Lacking { instead, unless } => {
                if !is_off(said) && !unless.contains(&said) {
                    let note = format!("{}=`{said}` is not followed: {instead}", name.variable);
                    notes.warnings.push(note);
                }
            }
        }
    }
    wishes.extend(ssl::wishes(environment, &is_given)?);
    let models: Vec<&str> = wishes
        .iter()
        .filter(|wish| wish.argument == "model")
        .filter_map(|wish| wish.values.first())
        .chain(environment.get("VLMD_MODEL"))
        .map(String::as_str)
        .collect();
    let profiles = profile::wishes(environment, &models, notes);
    wishes.extend(profiles);
    notes.warnings.extend(unknown(environment));
    Ok(wishes)
}

/// A variable that is set to something. Empty is as good as unset: templates leave such behind.
fn value<'a>(environment: &'a Environment, name: &str) -> Option<&'a str> {
    let value = environment.get(name)?.trim();
    (!value.is_empty()).then_some(value)
}

fn is_off(value: &str) -> bool {
    ["0", "false", "off", "no", "none", "disabled"]
        .iter()
        .any(|off| value.eq_ignore_ascii_case(off))
}

/// Whether a variable is one of those by which Kubernetes tells of a service whose name begins with
/// `nim-`.
fn tells_of_service(name: &str, value: &str) -> bool {
    let of_port = name
        .split_once("_PORT_")
        .is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    name.contains("_SERVICE_") || of_port || values::is_service_link(value)
}

/// One warning that names all variables that nobody knows.
fn unknown(environment: &Environment) -> Option<String> {
    let names: Vec<&str> = environment
        .iter()
        .filter(|(name, value)| name.starts_with(PREFIX) && !tells_of_service(name, value))
        .map(|(name, _)| name.as_str())
        .filter(|name| TABLE.iter().all(|known| known.variable != *name))
        .filter(|name| {
            !table::FAMILIES
                .iter()
                .any(|family| name.starts_with(family))
        })
        .collect();
    (!names.is_empty()).then(|| format!("unknown and without effect: {}", names.join(", ")))
}

/// What engine arguments in the environment ask for.
fn passed_through(environment: &Environment, notes: &mut Notes) -> Result<Vec<Wish>> {
    let Some(said) = value(environment, PASSTHROUGH) else {
        return Ok(Vec::new());
    };
    let Some(words) = shlex::split(said) else {
        bail!("{PASSTHROUGH} is `{said}`, where a quote is not closed");
    };
    let command = Cli::command();
    let Some(serve) = command.find_subcommand("serve") else {
        return Ok(Vec::new());
    };
    let arguments = EngineArguments::read(&words, serve).with_context(|| PASSTHROUGH.to_owned())?;
    if !arguments.unknown.is_empty() {
        notes.warnings.push(format!(
            "{PASSTHROUGH}: without effect here: {}",
            arguments.unknown.join(" ")
        ));
    }
    // Of an argument that is given twice the last one counts, as on a command line.
    let wishes = arguments.given.into_iter().rev().map(|given| Wish {
        variable: PASSTHROUGH,
        argument: given.argument,
        said: given.said,
        values: given.values,
    });
    let mut last: Vec<Wish> = Vec::new();
    for wish in wishes {
        if last.iter().all(|later| later.argument != wish.argument) {
            last.push(wish);
        }
    }
    Ok(last)
}
