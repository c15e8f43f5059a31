//! Responses: writing them, keeping them, and going on from them.

mod background;
mod references;
mod refusal;
mod store;
mod stream;
mod truncation;
mod writer;

pub(crate) use background::run;
pub(crate) use references::find;
pub(crate) use refusal::ResponseRefusal;
pub use store::ResponseMemory;
pub(crate) use store::ResponseStore;
pub(crate) use store::{Kept, Run};
pub(crate) use stream::respond;
pub(crate) use truncation::Shortening;
pub(crate) use writer::Writer;
