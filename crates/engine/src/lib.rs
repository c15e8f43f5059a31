//! Continuous batching over a paged KV cache.
//!
//! One worker thread owns the model and its device. [`Engine::submit`] hands it a request and
//! gives back a stream of [`Event`]s; dropping the stream cancels the request and frees its
//! blocks within one step.
//!
//! # The phases of a request
//!
//! ```text
//! submit ─▶ waiting ─▶ admitted ─▶ prefill ─▶ decode ─▶ ended
//!    │         │           │           │         │
//! refused  cancelled   encode fails  step fails, logits unusable, cancelled
//! ```
//!
//! 1. **Submit**, on the caller's thread: the prompt is checked, its maximum length fixed and its
//!    sampler built. What can never run is refused here ([`SubmitError`]); everything else joins
//!    the line, which is bounded.
//! 2. **Waiting**: first come, first served. The head of the line enters as soon as a seat and the
//!    blocks of its *whole* maximum length are free, and nobody overtakes it: a large request is
//!    never starved by small ones. All that run hold what they need to finish, so the blocks it
//!    waits for do come free.
//! 3. **Admitted**: pictures are encoded, those of several newcomers in one call. If that fails,
//!    each request is tried alone, so that one bad picture fails one request. Pixels are dropped.
//! 4. **Prefill**: the prompt enters the cache in chunks beside the decodes of others. A chunk may
//!    end anywhere, within a picture too. Once the prompt is cached its features are dropped.
//! 5. **Decode**: one token a step, in every step.
//! 6. **Ended**: blocks and seat are given back first, then the stream gets its one `Finished` or
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
mod block_pool;
mod byte_budget;
mod config;
mod constraint;
mod engine;
mod pacer;
mod prefix;
mod prompt;
mod request;
mod sampler;
mod scheduler;
mod sequence;
mod speculation;
mod stats;
mod stream;
mod worker;

pub use config::{EngineConfig, StartError};
pub use constraint::{Constraint, ConstraintError};
pub use engine::Engine;
pub use request::{
    Event, FinishReason, GenerateRequest, Limits, Logprobs, RequestError, Sampling, Service,
    SubmitError,
};
pub use speculation::Speculation;
pub use stats::{SPEC_POSITIONS, Stats};
pub use stream::EventStream;
