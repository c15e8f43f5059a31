//! `{"name": ..., "parameters": {...}}`: Llama 3.1 and later, Llama-3.2-Vision among them.
//!
//! An answer that begins with such an object is a call, with `<|python_tag|>` before it or not;
//! behind the tag a call may also stand after text. Several calls are apart by whitespace and
//! semicolons. The format is the one of Meta's prompt; several calls are an invention of models.

use super::Pieces;
use super::call::{CallReader, MAX_HELD, Names, Step};
use super::prose::{Found, Mark, Prose};

pub(super) const TAG: &str = "<|python_tag|>";

#[derive(Debug)]
pub(super) struct Llama3 {
    names: Names,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Where a call may begin; all that may be text is held.
    Open {
        held: String,
        tag: Mark,
        after_call: bool,
    },
    Call(CallReader),
    Prose(Prose),
}

impl Llama3 {
    pub(super) fn new(names: Names) -> Self {
        Self {
            names,
            state: Self::open(String::new(), false),
        }
    }

    pub(super) fn push(&mut self, c: char, out: &mut Pieces) {
        // What a state does not take is for the next; prose takes everything.
        while !self.step(c, out) {}
    }

    fn open(held: String, after_call: bool) -> State {
        State::Open {
            held,
            tag: Mark::new(TAG),
            after_call,
        }
    }

    fn prose(held: String, after_call: bool) -> State {
        State::Prose(Prose::new(TAG, held, after_call))
    }

    fn step(&mut self, c: char, out: &mut Pieces) -> bool {
        let idle = Self::prose(String::new(), false);
        let (state, taken) = match std::mem::replace(&mut self.state, idle) {
            State::Open {
                mut held,
                mut tag,
                after_call,
            } => {
                let had_begun = tag.has_begun();
                let is_layout = c.is_whitespace() || (after_call && matches!(c, ';' | ','));
                match tag.push(c) {
                    Found::No if had_begun => {
                        out.text(&held);
                        (Self::prose(String::new(), false), false)
                    }
                    Found::No if c == '{' => {
                        let call = CallReader::new(self.names.clone(), held);
                        (State::Call(call), false)
                    }
                    Found::No if !is_layout || held.len() >= MAX_HELD => {
                        (Self::prose(held, after_call), false)
                    }
                    Found::Part | Found::Whole | Found::No => {
                        held.push(c);
                        let open = State::Open {
                            held,
                            tag,
                            after_call,
                        };
                        (open, true)
                    }
                }
            }
            State::Call(mut call) => match call.push(c, out) {
                Step::More => (State::Call(call), true),
                Step::Done => (Self::open(String::new(), true), true),
                Step::Stopped => {
                    call.give_up(out);
                    (Self::prose(String::new(), false), false)
                }
            },
            State::Prose(mut prose) => match prose.push(c, out) {
                Some(held) => (Self::open(held, false), true),
                None => (State::Prose(prose), true),
            },
        };
        self.state = state;
        taken
    }

    pub(super) fn finish(self, out: &mut Pieces) {
        let is_layout = |c: char| c.is_whitespace() || matches!(c, ';' | ',');
        match self.state {
            State::Open {
                held, after_call, ..
            } => {
                if !(after_call && held.chars().all(is_layout)) {
                    out.text(&held);
                }
            }
            State::Call(call) => call.give_up(out),
            State::Prose(prose) => prose.finish(out),
        }
    }
}
