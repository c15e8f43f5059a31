//! The architectures, and the registry that picks one for a checkpoint.

mod processor;

pub use processor::{Chat, Message, Part, PrepareError, Processor};
