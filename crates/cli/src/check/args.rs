//! Flags of `vlmd check`.

use std::path::PathBuf;

use clap::Args;

use crate::args::DeviceChoice;
use crate::launch::Wanted;

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// What to check; `auto` is the first CUDA device if there is one, else the CPU
    #[arg(
        long,
        env = "VLMD_DEVICE",
        default_value = "auto",
        value_name = "auto|cpu|cuda[:N]"
    )]
    pub(crate) device: DeviceChoice,
    /// Program to check in place of the one that is compiled for this host's cards
    #[arg(long, env = "VLMD_BINARY", value_name = "FILE")]
    pub(crate) binary: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Small tensors, and each but once: says whether results are right and nothing about speed
    #[arg(long)]
    pub(crate) quick: bool,
}

impl<'a> From<&'a CheckArgs> for Wanted<'a> {
    fn from(args: &'a CheckArgs) -> Self {
        Self {
            device: args.device,
            binary: args.binary.as_deref(),
        }
    }
}
