//! `vlmd bench`: the load generator, with its report on stdout.

use std::process::ExitCode;

use anyhow::Result;
use vlmd_bench::{BenchArgs, Ending};

/// What shells report for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Runs it. Its exit code tells scripts a run that was cut short from a whole one.
pub(crate) fn run(args: &BenchArgs) -> Result<ExitCode> {
    Ok(match vlmd_bench::run(args, &mut std::io::stdout())? {
        Ending::Complete => ExitCode::SUCCESS,
        Ending::Interrupted => ExitCode::from(INTERRUPTED),
    })
}
