//! `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`: Mistral and Pixtral.
//!
//! Text may stand before the mark and behind the array.

use super::Pieces;
use super::call::{CallReader, MAX_HELD, Names, Step};
use super::prose::Prose;

pub(super) const MARK: &str = "[TOOL_CALLS]";

#[derive(Debug)]
pub(super) struct Mistral {
    names: Names,
    state: State,
}

#[derive(Debug)]
enum State {
    Prose(Prose),
    /// Between two tokens of the array; all that may be text is held.
    Array {
        next: Next,
        held: String,
    },
    Call(CallReader),
}

/// What of the array comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Bracket,
    Object,
    Comma,
}

impl Mistral {
    pub(super) fn new(names: Names) -> Self {
        Self {
            names,
            state: Self::prose(String::new(), false),
        }
    }

    pub(super) fn push(&mut self, c: char, out: &mut Pieces) {
        // What a state does not take is for the next; prose takes everything.
        while !self.step(c, out) {}
    }

    fn prose(held: String, after_call: bool) -> State {
        State::Prose(Prose::new(MARK, held, after_call))
    }

    fn step(&mut self, c: char, out: &mut Pieces) -> bool {
        let idle = Self::prose(String::new(), false);
        let (state, taken) = match std::mem::replace(&mut self.state, idle) {
            State::Prose(mut prose) => match prose.push(c, out) {
                Some(held) => {
                    let next = Next::Bracket;
                    (State::Array { next, held }, true)
                }
                None => (State::Prose(prose), true),
            },
            State::Array { next, mut held } => {
                let after = match (next, c) {
                    (Next::Object, '{') => {
                        let call = CallReader::new(self.names.clone(), held);
                        self.state = State::Call(call);
                        return false;
                    }
                    (Next::Comma, ']') => {
                        self.state = Self::prose(String::new(), true);
                        return true;
                    }
                    (Next::Bracket, '[') | (Next::Comma, ',') => Some(Next::Object),
                    (next, c) => c.is_whitespace().then_some(next),
                };
                match after.filter(|_| held.len() < MAX_HELD) {
                    Some(next) => {
                        held.push(c);
                        (State::Array { next, held }, true)
                    }
                    None => {
                        out.text(&held);
                        (Self::prose(String::new(), false), false)
                    }
                }
            }
            State::Call(mut call) => match call.push(c, out) {
                Step::More => (State::Call(call), true),
                Step::Done => {
                    let next = Next::Comma;
                    let held = String::new();
                    (State::Array { next, held }, true)
                }
                Step::Stopped => {
                    call.give_up(out);
                    (Self::prose(String::new(), false), false)
                }
            },
        };
        self.state = state;
        taken
    }

    pub(super) fn finish(self, out: &mut Pieces) {
        match self.state {
            State::Prose(prose) => prose.finish(out),
            State::Array { next, held } => {
                // Behind a call, what lacks is the end of the array.
                let is_layout = next == Next::Comma && held.chars().all(char::is_whitespace);
                if !is_layout {
                    out.text(&held);
                }
            }
            State::Call(call) => call.give_up(out),
        }
    }
}
