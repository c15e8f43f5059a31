//! Continuous batching over a paged KV cache.
//!
//! One worker thread owns the model and its device. [`Engine::submit`] hands it a request and
//! gives back a stream of [`Event`]s; dropping the stream cancels the request and frees its
//! blocks within one step.

mod request;

pub use request::{
    Event, FinishReason, GenerateRequest, Limits, Logprobs, RequestError, Sampling, SubmitError,
};
