//! Pickles, read without executing anything.
//!
//! A pickle is a program for a machine with a stack. Python's machine imports and calls what the
//! program names; this one has a closed set of values ([`Value`], [`Node`]) and a closed set of
//! names ([`Global`]). A call becomes a node that says what would have been called with what, and
//! the reader of the checkpoint makes of it what it knows.
//!
//! Everything is bounded before it is allocated: no text or number reaches beyond the pickle,
//! there are at most [`MAX_INSTRUCTIONS`](machine::MAX_INSTRUCTIONS), and each adds a bounded
//! amount of memory. Values live in one list and refer to each other by index, so that a deep or
//! circular pickle is dropped like any list. Nobody may walk the values without a bound: forty
//! lists that each hold the one before twice unfold to a trillion.
//!
//! All instructions of the protocols 1 to 5 that Python's pickler emits are understood.
//! Protocol 0 cannot express a storage of torch.

mod machine;
#[cfg(test)]
mod tests;

use super::globals::Global;
use machine::Machine;

/// Most characters of a foreign name that a message repeats.
const MAX_SHOWN: usize = 100;

/// Why a pickle is not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PickleError {
    /// It ends within an instruction, or without the last one.
    #[error("the pickle is cut off")]
    Cut,
    /// It mentions a function or class that is not in [`Global`].
    #[error("the pickle calls `{0}`, which is not read")]
    Global(String),
    /// An instruction that no checkpoint needs.
    #[error("the pickle has the instruction {0:#04x}, which is not read")]
    Instruction(u8),
    /// A protocol that is newer than this code.
    #[error("the pickle has the protocol {0}, which is not known")]
    Protocol(u8),
    /// More instructions or values than are read.
    #[error("the pickle has more than {0}")]
    TooLarge(String),
    /// An instruction that cannot be followed.
    #[error("the pickle is damaged at byte {at}: {reason}")]
    Damaged {
        /// Just behind the instruction.
        at: usize,
        /// What it lacks.
        reason: &'static str,
    },
}

/// A value of the pickle. It borrows its texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Int(i64),
    Text(&'a str),
    Global(Global),
    Node(NodeId),
    /// `None`, a boolean, a fraction, bytes, or a number beyond 64 bits: nothing that says where
    /// a tensor is.
    Opaque,
}

/// A node of one [`Pickle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeId(u32);

/// A value that holds others.
#[derive(Debug)]
pub(crate) enum Node<'a> {
    Tuple(Box<[Value<'a>]>),
    /// A list or a set.
    List(Vec<Value<'a>>),
    /// In the order of the pickle. Keys may repeat.
    Dict(Vec<(Value<'a>, Value<'a>)>),
    /// What `of` would have returned for `arguments`, a tuple.
    Made {
        of: Global,
        arguments: Value<'a>,
        /// What its attributes were set from afterwards, mostly a dictionary.
        state: Value<'a>,
    },
    /// Something outside of the pickle, which this value identifies.
    Persistent(Value<'a>),
}

/// The value of a whole pickle.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: Value<'a>,
}

impl<'a> Pickle<'a> {
    /// Runs a pickle to its end. What follows the end is not read.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, PickleError> {
        let (nodes, root) = Machine::new(bytes).run()?;
        Ok(Self { nodes, root })
    }

    /// What the pickle stands for.
    pub(crate) fn root(&self) -> Value<'a> {
        self.root
    }

    /// The node that a value refers to.
    pub(crate) fn node(&self, value: Value<'a>) -> Option<&Node<'a>> {
        find(&self.nodes, value)
    }

    /// The entries of a dictionary.
    pub(crate) fn dict(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        match self.node(value)? {
            Node::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    /// The values of a tuple.
    pub(crate) fn tuple(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match self.node(value)? {
            Node::Tuple(values) => Some(values),
            _ => None,
        }
    }
}

/// A foreign name for a message: without control characters, and not without end.
pub(crate) fn shown(name: &str) -> String {
    let mut shown: String = name
        .chars()
        .take(MAX_SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    if name.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

fn find<'n, 'a>(nodes: &'n [Node<'a>], value: Value<'_>) -> Option<&'n Node<'a>> {
    match value {
        Value::Node(NodeId(id)) => nodes.get(usize::try_from(id).ok()?),
        _ => None,
    }
}
