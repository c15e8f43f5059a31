//! Flags of `vlmd check`.

use clap::Args;

use crate::args::DeviceChoice;

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
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Small tensors, and each but once: says whether results are right and nothing about speed
    #[arg(long)]
    pub(crate) quick: bool,
}
