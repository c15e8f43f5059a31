//! Answers and errors in Anthropic's Messages dialect.

mod errors;
mod stream;
mod whole;

pub(crate) use errors::{envelope, is_at_home};
pub(crate) use stream::respond;
pub(crate) use whole::message;
