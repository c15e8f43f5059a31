//! Calls of tools in answers.
//!
//! Models write calls as text, each family in its own form: [`ToolFamily`] tells which, by the
//! model's chat template, and [`ToolParser`] takes the calls out of the text as it comes. Its
//! parsers are written by hand: one look at each character, bounded memory, and nothing that a
//! model writes is lost: what turns out to be no call is text.
//!
//! What each family writes was taken from its chat template and from vLLM's tool parsers
//! (`hermes`, `llama3_json`, `mistral`).
//!
//! [`CallGrammar`] is for answers that must be calls.

mod call;
mod grammar;
mod hermes;
mod json;
mod llama3;
mod mistral;
mod prose;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use self::grammar::CallGrammar;
use self::hermes::Hermes;
use self::llama3::Llama3;
use self::mistral::Mistral;

/// A form in which models write calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFamily {
    /// `{"name": ..., "parameters": {...}}`, an answer's beginning: Llama 3.1 and later.
    Llama3Json,
    /// `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen.
    Hermes,
    /// `[TOOL_CALLS][{"name": ..., "arguments": {...}}]`: Mistral, Pixtral.
    Mistral,
}

impl ToolFamily {
    /// The form in which a chat template writes the calls of a conversation; `None` where it takes
    /// no `tools`, or writes calls in another form than these.
    #[must_use]
    pub fn of_template(source: &str) -> Option<Self> {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let takes_tools = source.split(|c| !is_word(c)).any(|word| word == "tools");
        if !takes_tools {
            None
        } else if source.contains(mistral::MARK) {
            Some(Self::Mistral)
        } else if source.contains(hermes::BEGIN) {
            Some(Self::Hermes)
        } else if source.contains("<|start_header_id|>") && source.contains("\"parameters\"") {
            Some(Self::Llama3Json)
        } else {
            None
        }
    }

    /// The mark before a call. Where it is a special token of the model's, an answer's text must
    /// keep it for [`ToolParser`].
    #[must_use]
    pub fn mark(self) -> &'static str {
        match self {
            Self::Llama3Json => llama3::TAG,
            Self::Hermes => hermes::BEGIN,
            Self::Mistral => mistral::MARK,
        }
    }
}

/// What is found in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text, never empty. Whitespace around calls is no text.
    Text(String),
    /// A call begins.
    CallStart {
        /// Name of the function.
        name: String,
    },
    /// More of the arguments of the call that has begun: a JSON object, as the model writes it.
    Arguments(String),
    /// The call is over. Its arguments are a whole object, unless the answer ends within them or
    /// goes on with what is no JSON.
    CallEnd,
}

/// Takes an answer apart while it is written.
#[derive(Debug)]
pub struct ToolParser {
    machine: Machine,
}

#[derive(Debug)]
enum Machine {
    Llama3(Llama3),
    Hermes(Hermes),
    Mistral(Mistral),
}

impl ToolParser {
    /// For one answer. Calls of functions other than `names` are text.
    #[must_use]
    pub fn new(family: ToolFamily, names: Arc<BTreeSet<String>>) -> Self {
        let machine = match family {
            ToolFamily::Llama3Json => Machine::Llama3(Llama3::new(names)),
            ToolFamily::Hermes => Machine::Hermes(Hermes::new(names)),
            ToolFamily::Mistral => Machine::Mistral(Mistral::new(names)),
        };
        Self { machine }
    }

    /// Takes more of the answer. However the answer is cut, the pieces together are the same.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        let mut out = Pieces::default();
        for c in text.chars() {
            match &mut self.machine {
                Machine::Llama3(machine) => machine.push(c, &mut out),
                Machine::Hermes(machine) => machine.push(c, &mut out),
                Machine::Mistral(machine) => machine.push(c, &mut out),
            }
        }
        out.pieces
    }

    /// What is left when the answer is over.
    #[must_use]
    pub fn finish(self) -> Vec<Piece> {
        let mut out = Pieces::default();
        match self.machine {
            Machine::Llama3(machine) => machine.finish(&mut out),
            Machine::Hermes(machine) => machine.finish(&mut out),
            Machine::Mistral(machine) => machine.finish(&mut out),
        }
        out.pieces
    }
}

/// Pieces so far, neighbours of a kind joined.
#[derive(Debug, Default)]
struct Pieces {
    pieces: Vec<Piece>,
}

impl Pieces {
    fn text(&mut self, text: &str) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Text(text.to_owned())),
        }
    }

    fn start(&mut self, name: String) {
        self.pieces.push(Piece::CallStart { name });
    }

    fn arguments(&mut self, c: char) {
        self.all_arguments(c.encode_utf8(&mut [0; 4]));
    }

    fn all_arguments(&mut self, arguments: &str) {
        match self.pieces.last_mut() {
            Some(Piece::Arguments(last)) => last.push_str(arguments),
            _ => self.pieces.push(Piece::Arguments(arguments.to_owned())),
        }
    }

    fn end(&mut self) {
        self.pieces.push(Piece::CallEnd);
    }
}
