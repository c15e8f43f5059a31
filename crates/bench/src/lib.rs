//! `vlmd bench`: measures any endpoint that speaks the OpenAI chat API, or two of them side by side.
//!
//! # The way of a run
//!
//! 1. [`BenchArgs`] is what the command line says; `target` and `workload` make endpoints and
//!    requests of it, and refuse what `hosted` knows NVIDIA's endpoint would not take.
//! 2. `endpoint` looks for the model, and a few requests warm everything up. What does not work
//!    there would not work a thousand times either: the run ends with what the server says.
//! 3. `load` sends requests, in closed or open loops. With two endpoints each loop is cut into
//!    rounds in which they take turns, the one and the other first, asked the same.
//! 4. `sse` and `answer` read what comes and when; `summary` makes figures of it, `report` tables,
//!    JSON and a page.
//!
//! Keys come from the environment or a file, and go into one header only: no report, message or
//! debug form shows them.

mod answer;
mod args;
mod arrivals;
mod endpoint;
mod error;
mod failure;
mod files;
mod hosted;
mod key;
mod load;
mod report;
mod run;
mod sse;
mod statistics;
mod summary;
mod target;
mod workload;

pub use args::BenchArgs;
pub use error::BenchError;
pub use run::{Ending, run};
