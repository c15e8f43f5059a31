//! Flags of the plan.

use clap::Args;

use crate::args::ByteSize;
use crate::settings::PrintFormat;

/// How memory is planned.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Print what the device's memory would be for, part by part, and end: with 0 if the model fits
    /// and 1 if not. Fetches nothing
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "text"
    )]
    pub(crate) plan_only: Option<PrintFormat>,
    /// Plan for a CUDA device with so much free memory, such as 80GB, that need not be there
    #[arg(long, value_name = "SIZE", requires = "plan_only")]
    pub(crate) gpu_memory: Option<ByteSize>,
    /// On a CUDA device, trust the formulas of the plan: do not run the largest step and the
    /// largest picture once at the start to see what they take
    #[arg(long, env = "VLMD_NO_MEMORY_PROFILE")]
    pub(crate) no_memory_profile: bool,
}
