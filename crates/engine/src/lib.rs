//! Continuous batching over a paged KV cache.
//!
//! One worker thread owns the model and its device. [`Engine::submit`] hands it a request and
//! gives back a stream of [`Event`]s; dropping the stream cancels the request and frees its
//! blocks within one step.
//!
//! # The phases of a request
//!
//! ```text
//! submit ─▶ waiting ─▶ running: pictures, prompt, answer ─▶ ended
//!    │       │   ▲        │                │
//! refused    │   └────────┘ steps back     encode or step fails, logits unusable,
//!            │                             cancelled, out of time
//!        cancelled, out of time
//! ```
//!
//! 1. **Submit**, on the caller's thread: the prompt is checked, its maximum length fixed and its
//!    samplers built. What can never run is refused here ([`SubmitError`]); everything else joins
//!    the line, which is bounded in answers and in tokens.
//! 2. **Waiting**, in order of arrival, moved by priority. The head of the line enters as soon as
//!    a seat and the blocks of its prompt are free, and nobody overtakes it: a large request is
//!    never starved by small ones. Blocks of its prompt that earlier requests have left in the
//!    cache are found again and not computed.
//! 3. **Pictures** are encoded once each, several in one call, in pieces between steps; features
//!    are kept for pictures that come again. If a call fails, each picture is tried alone, so
//!    that a bad one fails its own request only.
//! 4. **Prompt**: it enters the cache in chunks beside the decodes of others, up to the first
//!    picture that is not encoded yet. How large chunks and pieces are is measured out so that
//!    answers beside them are not held up. Once a prompt is cached, further answers to it (`n`)
//!    split off and share its blocks.
//! 5. **Answer**: one token a step, in every step; more where they are guessed rightly, or where a
//!    constraint leaves no choice.
//! 6. **Stepping back**: blocks are taken as tokens come. When there are none left the youngest
//!    give theirs back, return to the line, and are computed again when it is their turn. What
//!    they have said stays said.
//! 7. **Ended**: blocks and seat are given back first, then the stream gets its one `Finished` or
//!    `Failed`. Whoever sees that event sees the counters settled.
//!
//! # Who ends what
//!
//! - The **client** cancels by dropping its [`EventStream`], in any phase. The worker looks
//!   between steps; there is no message that could be lost.
//! - The **worker** ends a request at a stop token, at its length, or when its logits are no
//!   numbers. A forward pass that fails or panics ends the requests that were part of it and no
//!   others. Then the model must answer a probe; if it cannot, the device is gone, the worker
//!   stops for good, every stream fails and [`Engine::is_ready`] turns false.
//! - [`Engine::shutdown`] refuses newcomers, lets everything taken run until the deadline, and
//!   fails the rest.
//! - If the worker's thread dies in any other way, its ends of the streams are dropped and each
//!   stream closes itself with `Failed`: no client waits for ever.
//!
//! # Slow readers
//!
//! The stream is unbounded, so a reader that does not read never delays a step. It cannot grow
//! without bound either: a request sends at most its answer's length of events and one more, and
//! that length was fixed when it was submitted.

mod batch;
mod beam;
mod block_pool;
mod byte_budget;
mod config;
mod constraint;
mod engine;
#[cfg(fuzzing)]
pub mod fuzzing;
mod histogram;
mod pacer;
mod prefix;
mod prompt;
mod request;
mod rows;
mod sampler;
mod scheduler;
mod sequence;
mod speculation;
mod stats;
mod stream;
mod worker;

pub use beam::BeamSearch;
pub use config::{EngineConfig, StartError};
pub use constraint::{Constraint, ConstraintError};
pub use engine::Engine;
pub use histogram::Distribution;
pub use request::{
    Event, FinishReason, GenerateRequest, Limits, Logprobs, PromptScore, RequestError, Sampling,
    Service, SubmitError,
};
pub use speculation::Speculation;
pub use stats::{Distributions, SPEC_POSITIONS, Stats, Timings};
pub use stream::EventStream;
