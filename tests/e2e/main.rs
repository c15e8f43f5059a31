//! End to end: a real HTTP client against the real binary with real files.
//!
//! Checkpoints are the tiny ones of `tests/golden/` and the embedded default model; everything
//! stays on loopback.
//!
//! The modules are marked as tests, although the whole program is one, for clippy to allow
//! `unwrap` in their helpers.

#[cfg(test)]
mod assets;
#[cfg(test)]
mod attacks;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod caches;
#[cfg(test)]
mod check;
#[cfg(test)]
mod dialects;
#[cfg(test)]
mod embedded;
#[cfg(test)]
mod goldens;
#[cfg(test)]
mod hub;
#[cfg(test)]
mod kosmos2;
// Programs take another's place on Unix alone, and only those that have no kernels for cards do.
#[cfg(test)]
#[cfg(all(unix, not(feature = "cuda")))]
mod launch;
#[cfg(test)]
mod legacy;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod mllama;
#[cfg(test)]
mod nim_environment;
#[cfg(test)]
mod pictures;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod published;
#[cfg(test)]
mod routes;
#[cfg(test)]
mod running;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod structured;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tls_and_cors;
#[cfg(test)]
mod tools;
#[cfg(all(test, feature = "otlp"))]
mod traces;
