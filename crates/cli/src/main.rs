//! `vlmd`: serves vision-language models over HTTP, lists them, and fetches them.

mod args;
mod hub;
mod kv_choice;
mod list;
mod logging;
mod nim_cache;
#[cfg(feature = "otlp")]
mod otlp;
mod plan;
mod resolve;
mod serve;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::args::{Cli, Command, DownloadArgs};

// glibc gives large buffers back to the kernel and faults them in again for every step, which
// costs up to six times the arithmetic of an element-wise operation. mimalloc keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The sentence first, then what it was caused by, on one line: it ends up in logs.
            writeln!(std::io::stderr(), "vlmd: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        None => serve::run(cli.serve),
        Some(Command::Serve(args)) => serve::run(*args),
        Some(Command::Models) => list::run(),
        Some(Command::Download(args)) => download(&args),
    }
}

/// Fetches a model and prints its folder.
fn download(args: &DownloadArgs) -> Result<()> {
    let source = resolve::hub_source(&args.model, args.revision.as_deref())?;
    let folder = hub::download(&source)?;
    writeln!(std::io::stdout(), "{}", folder.display())?;
    Ok(())
}
