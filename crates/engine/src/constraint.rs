//! What an answer may say at all.

use std::fmt;

/// A language that an answer must belong to, at the place that the answer has reached.
///
/// The engine asks it before it chooses a token and tells it afterwards which one it was. Calls
/// are made on the worker's thread, between steps: each must be short.
pub trait Constraint: Send + fmt::Debug {
    /// Sets the logits, `[vocab]`, of tokens that must not come next to negative infinity. Tokens
    /// that end an answer may come exactly where the language allows an end.
    ///
    /// # Errors
    /// When the constraint cannot go on. The request then fails.
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstraintError>;

    /// Notes the next token of the answer.
    ///
    /// # Errors
    /// When the language does not allow it here.
    fn accept(&mut self, id: u32) -> Result<(), ConstraintError>;

    /// The tokens that must come next in any case, in order; empty where there is a choice. They
    /// are told to [`Constraint::accept`] like any others.
    ///
    /// # Errors
    /// As [`Constraint::mask`].
    fn forced(&mut self) -> Result<Vec<u32>, ConstraintError>;

    /// Whether nothing may follow any more: the answer ends here.
    fn is_complete(&self) -> bool;

    /// Another one at the same place, for an answer that goes on by itself from here.
    fn fork(&self) -> Box<dyn Constraint>;
}

/// Why a constraint cannot go on. For the log: it may quote the answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConstraintError(pub String);

impl Clone for Box<dyn Constraint> {
    fn clone(&self) -> Self {
        self.as_ref().fork()
    }
}
