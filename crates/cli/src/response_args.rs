//! What the command line says about responses that are kept.

use std::time::Duration;

use clap::Args;
use vlmd_server::ResponseMemory;

use crate::args::{ByteSize, positive, seconds};

#[derive(Debug, Args)]
pub(crate) struct ResponseArgs {
    /// Memory for responses that may be asked for again, or gone on from by
    /// `previous_response_id`, such as 256MiB; 0 keeps none
    #[arg(
        long,
        env = "VLMD_RESPONSES_STORE",
        value_name = "SIZE",
        default_value = "64MiB"
    )]
    responses_store: ByteSize,
    /// Responses that are kept at a time
    #[arg(long, env = "VLMD_RESPONSES_MAX", default_value_t = ResponseMemory::DEFAULT_COUNT, value_parser = positive)]
    responses_max: usize,
    /// Seconds for which a response is kept
    #[arg(long, env = "VLMD_RESPONSES_KEEP", default_value = "3600", value_parser = seconds)]
    responses_keep: Duration,
}

impl ResponseArgs {
    /// How long and how much is kept.
    pub(crate) fn memory(&self) -> ResponseMemory {
        ResponseMemory {
            bytes: usize::try_from(self.responses_store.0).unwrap_or(usize::MAX),
            count: self.responses_max,
            keep: self.responses_keep,
        }
    }
}
