//! `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen and their heirs.
//!
//! Text may stand before, between and behind; a second call has marks of its own.

use super::Pieces;
use super::call::{CallReader, MAX_HELD, Names, Step};
use super::prose::{Found, Mark, Prose};

pub(super) const BEGIN: &str = "<tool_call>";
pub(super) const END: &str = "</tool_call>";

#[derive(Debug)]
pub(super) struct Hermes {
    names: Names,
    state: State,
}

#[derive(Debug)]
enum State {
    Prose(Prose),
    /// Behind the mark; all that may be text is held.
    Begun(String),
    Call(CallReader),
    /// Behind an object, before the mark that ends it.
    Ending {
        mark: Mark,
        held: String,
    },
}

impl Hermes {
    pub(super) fn new(names: Names) -> Self {
        Self {
            names,
            state: State::Prose(Prose::new(BEGIN, String::new(), false)),
        }
    }

    pub(super) fn push(&mut self, c: char, out: &mut Pieces) {
        // What a state does not take is for the next; prose takes everything.
        while !self.step(c, out) {}
    }

    fn prose(held: String, after_call: bool) -> State {
        State::Prose(Prose::new(BEGIN, held, after_call))
    }

    fn step(&mut self, c: char, out: &mut Pieces) -> bool {
        let idle = Self::prose(String::new(), false);
        let (state, taken) = match std::mem::replace(&mut self.state, idle) {
            State::Prose(mut prose) => match prose.push(c, out) {
                Some(held) => (State::Begun(held), true),
                None => (State::Prose(prose), true),
            },
            State::Begun(mut held) if c.is_whitespace() && held.len() < MAX_HELD => {
                held.push(c);
                (State::Begun(held), true)
            }
            State::Begun(held) if c == '{' => {
                let call = CallReader::new(self.names.clone(), held);
                (State::Call(call), false)
            }
            State::Begun(held) => {
                out.text(&held);
                (Self::prose(String::new(), false), false)
            }
            State::Call(mut call) => match call.push(c, out) {
                Step::More => (State::Call(call), true),
                Step::Done => {
                    let mark = Mark::new(END);
                    let held = String::new();
                    (State::Ending { mark, held }, true)
                }
                Step::Stopped => {
                    call.give_up(out);
                    (Self::prose(String::new(), false), false)
                }
            },
            State::Ending { mut mark, mut held } => {
                let had_begun = mark.has_begun();
                match mark.push(c) {
                    Found::Whole => (Self::prose(String::new(), true), true),
                    Found::No if had_begun || !c.is_whitespace() || held.len() >= MAX_HELD => {
                        // The marks begin alike: another call may have begun.
                        let mut prose = Prose::new(BEGIN, String::new(), true);
                        for c in held.chars() {
                            prose.push(c, out);
                        }
                        (State::Prose(prose), false)
                    }
                    Found::Part | Found::No => {
                        held.push(c);
                        (State::Ending { mark, held }, true)
                    }
                }
            }
        };
        self.state = state;
        taken
    }

    pub(super) fn finish(self, out: &mut Pieces) {
        match self.state {
            State::Prose(prose) => prose.finish(out),
            State::Begun(held) => out.text(&held),
            State::Call(call) => call.give_up(out),
            // The call is whole; what lacks is the end of its mark.
            State::Ending { .. } => {}
        }
    }
}
