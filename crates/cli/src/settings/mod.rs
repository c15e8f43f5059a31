//! From the command line and the environment to settings, each with where it came from.
//!
//! What is said on the command line goes before `VLMD_*`, that before NIM's variables, that before
//! what the catalog says of the model, and that before the default. Flags and `VLMD_*` are clap's
//! own. NIM's variables and the catalog are put below them, as defaults: they are checked by the
//! same parsers, and nothing else in the program knows of them.

mod engine_args;
mod flags;
mod nim;
mod print;
mod tls;
mod values;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::OsString;

use anyhow::{Result, bail};
use clap::builder::{BoolishValueParser, Resettable};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory as _, FromArgMatches as _};
use vlmd_models::catalog;

use crate::args::{Cli, Command as Subcommand, ServeArgs};

pub(crate) use engine_args::EngineArguments;
pub(crate) use flags::{DeploymentArgs, PrintFormat, Tracing};
pub(crate) use print::print;

/// The variables of the environment, by name.
pub(crate) type Environment = BTreeMap<String, String>;

/// The process's own. Values that are no Unicode are left out: none of NIM's may be such.
pub(crate) fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) cli: Cli,
    pub(crate) notes: Notes,
    provenance: Provenance,
}

/// What there is to say about the environment once there is a log.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// What the operator may have meant otherwise.
    pub(crate) warnings: Vec<String>,
    /// Variables that mean nothing here.
    pub(crate) idle: Vec<String>,
}

impl Notes {
    /// Logs them.
    pub(crate) fn log(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
        for idle in &self.idle {
            tracing::debug!("{idle}");
        }
    }
}

/// Where settings came from.
#[derive(Debug)]
struct Provenance {
    /// The arguments of the command that was given, and what was found for them.
    command: Command,
    matches: ArgMatches,
    /// What was put below flags and `VLMD_*`, by the argument's id.
    below: BTreeMap<String, Below>,
}

/// Who put a value below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Below {
    /// A variable of NIM's.
    Nim(&'static str),
    /// The model's card.
    Card,
}

/// A value that NIM's environment has for an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    /// The variable.
    variable: &'static str,
    /// The argument's id.
    argument: String,
    /// What the variable said, for messages.
    said: String,
    /// What the argument is given.
    values: Vec<String>,
}

/// Reads the command line `arguments`, program name included, with `environment` below it. Clap
/// reads `VLMD_*` from the process itself.
///
/// # Errors
/// When NIM's environment says what cannot be followed. Faults of the command line and of `VLMD_*`
/// end the process as clap ends it, as do `--help` and `--version`.
pub(crate) fn read(arguments: &[OsString], environment: &Environment) -> Result<Settings> {
    let command = command();
    let first = match command.clone().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => match of_variable(&error, arguments, &command) {
            Some(message) => bail!(message),
            None => error.exit(),
        },
    };
    let name = first.subcommand_name().map(str::to_owned);
    let (asked, found) = match first.subcommand() {
        Some((name, matches)) => (command.find_subcommand(name).cloned(), matches.clone()),
        None => (Some(command.clone()), first.clone()),
    };
    let Some(asked) = asked.filter(|_| takes_settings(name.as_deref())) else {
        return Ok(Settings {
            cli: Cli::from_arg_matches(&first).unwrap_or_else(|error| error.exit()),
            notes: Notes::default(),
            provenance: Provenance {
                command,
                matches: first,
                below: BTreeMap::new(),
            },
        });
    };
    let mut notes = Notes::default();
    let mut defaults = Defaults::default();
    for wish in nim::wishes(environment, |id| is_given(&found, id), &mut notes)? {
        defaults.take(wish, &asked, &found, &mut notes)?;
    }
    let model = defaults.value("model").or_else(|| raw(&found, "model"));
    defaults.take_card(model.as_deref(), &asked, &found);
    let command = match &name {
        Some(name) => command.mut_subcommand(name, |sub| defaults.put(sub)),
        None => defaults.put(command),
    };
    let matches = command
        .clone()
        .try_get_matches_from(arguments)
        .unwrap_or_else(|error| error.exit());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let matches = match matches.subcommand() {
        Some((_, matches)) => matches.clone(),
        None => matches,
    };
    Ok(Settings {
        cli,
        notes,
        provenance: Provenance {
            command: asked,
            matches,
            below: defaults.below,
        },
    })
}

/// The command line. Not built: clap cannot tell the arguments apart any more if they are changed
/// after that. Switches in the environment may be written as people write them: 1,
/// yes, on, true. And `VLMD_PORT` is not heard where it is Kubernetes that speaks, of a service
/// called `vlmd`.
fn command() -> Command {
    let linked = std::env::var("VLMD_PORT").is_ok_and(|port| values::is_service_link(&port));
    let lenient = |command: Command| {
        command.mut_args(|arg| match arg.get_action() {
            ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
            _ if linked && arg.get_id() == "port" => arg.env(Resettable::Reset),
            _ => arg,
        })
    };
    let mut command = lenient(Cli::command());
    let names: Vec<String> = command
        .get_subcommands()
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for name in names {
        command = command.mut_subcommand(name, lenient);
    }
    command
}

/// Whether NIM's environment says something about a command.
fn takes_settings(subcommand: Option<&str>) -> bool {
    matches!(subcommand, None | Some("serve" | "download"))
}

/// Whether the command line or a `VLMD_*` variable has a value for an argument.
fn is_given(matches: &ArgMatches, id: &str) -> bool {
    let source = matches
        .try_contains_id(id)
        .ok()
        .and_then(|_| matches.value_source(id));
    matches!(
        source,
        Some(ValueSource::CommandLine | ValueSource::EnvVariable)
    )
}

/// The first value of an argument, as it was written.
fn raw(matches: &ArgMatches, id: &str) -> Option<String> {
    let mut values = matches.try_get_raw(id).ok()??;
    Some(values.next()?.to_string_lossy().into_owned())
}

/// What is put below flags and `VLMD_*`.
#[derive(Debug, Default)]
struct Defaults {
    values: BTreeMap<String, Vec<String>>,
    below: BTreeMap<String, Below>,
    /// What the variables said, for comparison.
    said: BTreeMap<String, (&'static str, Vec<String>)>,
}

impl Defaults {
    fn value(&self, id: &str) -> Option<String> {
        self.values.get(id)?.first().cloned()
    }

    /// Takes what a variable says, unless something that goes before it was heard.
    fn take(
        &mut self,
        wish: Wish,
        command: &Command,
        found: &ArgMatches,
        notes: &mut Notes,
    ) -> Result<()> {
        let Wish {
            variable,
            argument,
            said,
            values,
        } = wish;
        let Some(arg) = find(command, &argument) else {
            return Ok(());
        };
        if is_given(found, &argument) {
            return Ok(());
        }
        if let Some((before, others)) = self.said.get(&argument) {
            if *others != values {
                notes.warnings.push(format!(
                    "{before} and {variable} differ, and {before} goes first: {variable}=`{said}` \
                     has no effect"
                ));
            }
            return Ok(());
        }
        if let Err(fault) = check(arg, &values) {
            bail!(
                "{variable} is `{said}`, which `--{}` does not take: {fault}",
                arg.get_long().unwrap_or(&argument)
            );
        }
        self.said
            .insert(argument.clone(), (variable, values.clone()));
        self.below.insert(argument.clone(), Below::Nim(variable));
        self.values.insert(argument, values);
        Ok(())
    }

    /// Takes what the catalog says of `model`, where nobody else says anything.
    fn take_card(&mut self, model: Option<&str>, command: &Command, found: &ArgMatches) {
        let id = "max_images";
        let Some(card) = model.and_then(catalog::find) else {
            return;
        };
        if find(command, id).is_some() && !is_given(found, id) && !self.values.contains_key(id) {
            let images = card.images_per_request.to_string();
            self.values.insert(id.to_owned(), vec![images]);
            self.below.insert(id.to_owned(), Below::Card);
        }
    }

    /// Makes them the defaults of `command`.
    fn put(&self, mut command: Command) -> Command {
        for (id, values) in &self.values {
            command = command.mut_arg(id, |arg| arg.default_values(values.clone()));
        }
        command
    }
}

fn find<'a>(command: &'a Command, id: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| arg.get_id() == id)
}

/// Has an argument's own parser look at values.
fn check(arg: &Arg, values: &[String]) -> Result<(), String> {
    if !arg.get_action().takes_values() {
        return Ok(());
    }
    let Some(long) = arg.get_long() else {
        return Ok(());
    };
    let alone = Command::new("check").no_binary_name(true).arg(
        // Without what ties it to others.
        Arg::new("value")
            .long(long.to_owned())
            .action(ArgAction::Append)
            .value_parser(arg.get_value_parser().clone()),
    );
    let given = values.iter().map(|value| format!("--{long}={value}"));
    alone
        .try_get_matches_from(given)
        .map(drop)
        .map_err(|error| fault(&error))
}

/// What a value's parser said, without clap's frame.
fn fault(error: &clap::Error) -> String {
    if let Some(source) = error.source() {
        return source.to_string();
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
            format!("expected one of {}", valid.join(", "))
        }
        _ => error.kind().to_string(),
    }
}

/// A message that names the variable, if that and not a flag is what clap stumbled over.
fn of_variable(error: &clap::Error, arguments: &[OsString], command: &Command) -> Option<String> {
    if !matches!(
        error.kind(),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue
    ) {
        return None;
    }
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) else {
        return None;
    };
    // Arguments know how they are shown once they are built.
    let mut command = command.clone();
    command.build();
    let named = arguments.iter().filter_map(|argument| argument.to_str());
    let sub = named.clone().find_map(|name| command.find_subcommand(name));
    let arguments_of = sub.unwrap_or(&command).get_arguments();
    let arg = arguments_of
        .into_iter()
        .find(|arg| arg.to_string() == *shown)?;
    let long = format!("--{}", arg.get_long()?);
    if named
        .clone()
        .any(|word| word.split('=').next() == Some(&long))
    {
        return None;
    }
    let variable = arg.get_env()?.to_str()?;
    let value = if arg.is_hide_env_values_set() {
        "set to something"
    } else {
        value
    };
    Some(format!(
        "{variable} is `{value}`, which `{long}` does not take: {}",
        fault(error)
    ))
}

/// The arguments of `vlmd serve` with nothing but the environment, for commands that want to know
/// which model is meant.
///
/// # Errors
/// As [`read`].
pub(crate) fn of_environment(environment: &Environment) -> Result<Settings> {
    read(&["vlmd".into(), "serve".into()], environment)
}

impl Settings {
    /// In which form the settings are to be printed, if that is what was asked for.
    pub(crate) fn printed(&self) -> Option<PrintFormat> {
        self.serving()?.deployment.print_config
    }

    /// The settings of the server, where it is one that was asked for.
    pub(crate) fn serving(&self) -> Option<&ServeArgs> {
        match &self.cli.command {
            None => Some(&self.cli.serve),
            Some(Subcommand::Serve(args)) => Some(args),
            Some(_) => None,
        }
    }

    /// In which form the memory is to be planned, if that is what was asked for, and for whom.
    pub(crate) fn planned(&self) -> Option<(PrintFormat, &ServeArgs)> {
        let args = self.serving()?;
        args.plan.plan_only.map(|format| (format, args))
    }

    /// The same, to keep.
    pub(crate) fn serve(self) -> Option<ServeArgs> {
        match self.cli.command {
            None => Some(self.cli.serve),
            Some(Subcommand::Serve(args)) => Some(*args),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
