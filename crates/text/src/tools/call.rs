//! One call, which every family writes as a JSON object with a name and arguments.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::Pieces;
use super::json::{Kind, Scanner};

/// Most bytes that are held while it is not known whether they are a call. More are text: no model
/// writes that much before a function's name.
pub(super) const MAX_HELD: usize = 64 << 10;

/// Names of the functions that may be called.
pub(super) type Names = Arc<BTreeSet<String>>;

/// What became of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is part of the object, and there is more to come.
    More,
    /// It is the object's last.
    Done,
    /// It does not belong to a call. It is not taken; what is held is text.
    Stopped,
}

/// Reads `{"name": ..., "arguments": {...}}`, the arguments also called `parameters`, the fields in
/// any order and beside others.
///
/// A call is one from the moment on at which its name is known to be a function's and its
/// arguments have begun; they go out as they come. Until then everything is held. Without
/// arguments, or with `null`, they are `{}`.
#[derive(Debug)]
pub(super) struct CallReader {
    names: Names,
    json: Scanner,
    /// What was read, and what stood before it, while this may still be text.
    held: String,
    /// Where in `held` the current field's name or value begins.
    begin: usize,
    field: Field,
    name: Option<String>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Arguments,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Not known to be a call; the arguments are in that part of what is held, if they came first.
    Held(Option<Range<usize>>),
    /// The arguments are going out.
    Arguments,
    /// They are out; other fields are ignored.
    Called,
}

impl CallReader {
    /// `before` is what leads in to the object: text, should it turn out to be no call.
    pub(super) fn new(names: Names, before: String) -> Self {
        Self {
            names,
            json: Scanner::default(),
            held: before,
            begin: 0,
            field: Field::Other,
            name: None,
            phase: Phase::Held(None),
        }
    }

    /// Takes the next character, the object's `{` to begin with.
    pub(super) fn push(&mut self, c: char, out: &mut Pieces) -> Step {
        let Some(event) = self.json.push(c) else {
            return Step::Stopped;
        };
        match self.phase {
            Phase::Arguments => {
                out.arguments(c);
                if (event.kind, event.level) == (Kind::ValueEnds, 1) {
                    self.phase = Phase::Called;
                }
                return Step::More;
            }
            Phase::Called if (event.kind, event.level) == (Kind::ValueEnds, 0) => {
                out.end();
                return Step::Done;
            }
            Phase::Called => return Step::More,
            Phase::Held(_) => {}
        }
        if self.held.len() >= MAX_HELD {
            return Step::Stopped;
        }
        let fits = match (event.kind, event.level) {
            (Kind::NameBegins, 1) => {
                self.begin = self.held.len();
                true
            }
            (Kind::NameEnds, 1) => {
                self.field = self.field();
                true
            }
            (Kind::ValueBegins, 1) => self.value_begins(c, out),
            (Kind::ValueEnds, 1) => self.value_ends(c, out),
            (Kind::ValueEnds, 0) => return self.object_ends(out),
            _ => true,
        };
        if !fits {
            return Step::Stopped;
        }
        if matches!(self.phase, Phase::Held(_)) {
            self.held.push(c);
        } else {
            self.held.clear();
        }
        Step::More
    }

    /// No more characters come, or none that fit. A call that has begun is one, whatever is
    /// missing; else all that was read is text.
    pub(super) fn give_up(self, out: &mut Pieces) {
        match self.phase {
            Phase::Held(_) => out.text(&self.held),
            Phase::Arguments | Phase::Called => out.end(),
        }
    }

    fn field(&self) -> Field {
        // The closing quote is not among what is held yet.
        match self.held.get(self.begin..) {
            Some("\"name") if self.name.is_none() => Field::Name,
            Some("\"arguments" | "\"parameters") if self.phase == Phase::Held(None) => {
                Field::Arguments
            }
            _ => Field::Other,
        }
    }

    /// Whether a value that begins with `c` may be the current field's.
    fn value_begins(&mut self, c: char, out: &mut Pieces) -> bool {
        self.begin = self.held.len();
        match (self.field, c) {
            (Field::Arguments, '{') => {
                if let Some(name) = self.name.take() {
                    out.start(name);
                    out.arguments(c);
                    self.phase = Phase::Arguments;
                }
                true
            }
            (Field::Name, '"') | (Field::Arguments, 'n') | (Field::Other, _) => true,
            (Field::Name | Field::Arguments, _) => false,
        }
    }

    /// Whether the value that ends with `c` may be the current field's.
    fn value_ends(&mut self, c: char, out: &mut Pieces) -> bool {
        match self.field {
            Field::Other => true,
            Field::Arguments => {
                if c == '}' {
                    self.phase = Phase::Held(Some(self.begin..self.held.len() + 1));
                }
                true
            }
            Field::Name => {
                let quoted = self.held.get(self.begin..).unwrap_or_default();
                let name: Option<String> = serde_json::from_str(&format!("{quoted}\"")).ok();
                let Some(name) = name.filter(|name| self.names.contains(name)) else {
                    return false;
                };
                if let Phase::Held(Some(arguments)) = &self.phase {
                    out.start(name);
                    out.all_arguments(self.held.get(arguments.clone()).unwrap_or_default());
                    self.phase = Phase::Called;
                } else {
                    self.name = Some(name);
                }
                true
            }
        }
    }

    /// The object is over, and no arguments have begun.
    fn object_ends(&mut self, out: &mut Pieces) -> Step {
        let Some(name) = self.name.take() else {
            return Step::Stopped;
        };
        self.held.clear();
        self.phase = Phase::Called;
        out.start(name);
        out.all_arguments("{}");
        out.end();
        Step::Done
    }
}
