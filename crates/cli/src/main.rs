//! `vlmd`: serves vision-language models over HTTP, measures servers, checks machines, lists models,
//! and fetches them.

mod access_args;
mod args;
mod asset_args;
mod bench;
mod check;
mod checkpoint;
mod device;
mod hub;
mod kv_choice;
mod launch;
mod list;
mod logging;
mod nim;
mod nim_cache;
#[cfg(feature = "otlp")]
mod otlp;
mod plan;
mod resolve;
mod response_args;
mod serve;
mod settings;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;

use crate::args::{Command, DownloadArgs, ServeArgs};
use crate::nim::Program;
use crate::resolve::Wanted;

// glibc gives large buffers back to the kernel and faults them in again for every step, which
// costs up to six times the arithmetic of an element-wise operation. mimalloc keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            // The sentence first, then what it was caused by, on one line: it ends up in logs.
            writeln!(std::io::stderr(), "vlmd: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[OsString]) -> Result<ExitCode> {
    let environment = settings::environment();
    let program = arguments.first().and_then(|name| Program::called(name));
    let (line, idle) = match program {
        None => (arguments.to_owned(), Vec::new()),
        Some(Program::Serve) => nim::engine_command_line(arguments)?,
        Some(other) => {
            other.run(arguments, &environment)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let mut settings = settings::read(&line, &environment)?;
    if !idle.is_empty() {
        let warning = format!("without effect here: {}", idle.join(" "));
        settings.notes.warnings.push(warning);
    }
    if let Some(format) = settings.printed() {
        settings::print(&settings, format)?;
        return Ok(ExitCode::SUCCESS);
    }
    let stated = |args: &ServeArgs| args.plan.gpu_memory.is_some();
    if let Some(args) = settings.serving().filter(|args| !stated(args)) {
        // What was called goes on as another program with what it was called with.
        let note = launch::hand_over(args.into(), arguments)?;
        settings.notes.warnings.extend(note);
    }
    if let Some((format, args)) = settings.planned() {
        return plan::print(args, format);
    }
    match settings.cli.command {
        None => serve::run(settings.cli.serve, &settings.notes)?,
        Some(Command::Serve(args)) => serve::run(*args, &settings.notes)?,
        Some(Command::Bench(args)) => return bench::run(&args),
        Some(Command::Check(args)) => {
            launch::hand_over((&args).into(), arguments)?;
            return check::run(&args);
        }
        Some(Command::Models) => list::run()?,
        Some(Command::Download(args)) => download(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Fetches a model and prints its folder.
fn download(args: &DownloadArgs) -> Result<()> {
    let wanted = Wanted {
        model: &args.model,
        revision: args.revision.as_deref(),
        vision_tower: None,
        cache_path: args.cache_path.as_deref(),
        offline: args.offline,
    };
    let folder = resolve::download(wanted)?;
    writeln!(std::io::stdout(), "{}", folder.display())?;
    Ok(())
}
