//! The engine from outside, over a model whose answers depend on every key and value it wrote:
//! a wrong block, slot, position or feature row gives another answer.

mod batching;
mod failures;
mod formats;
mod images;
mod lifecycle;
mod sampling;
mod service;
mod sharing;
mod soak;
mod support;
