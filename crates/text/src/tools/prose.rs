//! Text outside of calls, and the marks between the two.

use super::Pieces;
use super::call::MAX_HELD;

/// A literal that is looked for.
///
/// Its first character occurs nowhere else in it, so a mismatch can only begin it anew.
#[derive(Debug)]
pub(super) struct Mark {
    literal: &'static str,
    /// Bytes that are there.
    found: usize,
}

/// How far a [`Mark`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The character belongs to it.
    Part,
    /// The character completes it.
    Whole,
    /// The character does not belong to it.
    No,
}

impl Mark {
    pub(super) fn new(literal: &'static str) -> Self {
        Self { literal, found: 0 }
    }

    /// Takes the next character. After [`Found::No`] and [`Found::Whole`] it begins anew.
    pub(super) fn push(&mut self, c: char) -> Found {
        let rest = self.literal.get(self.found..).unwrap_or_default();
        if !rest.starts_with(c) {
            self.found = 0;
            return Found::No;
        }
        if rest.len() > c.len_utf8() {
            self.found += c.len_utf8();
            return Found::Part;
        }
        self.found = 0;
        Found::Whole
    }

    /// Whether a part of it is there.
    pub(super) fn has_begun(&self) -> bool {
        self.found > 0
    }
}

/// Text in which a mark may begin.
///
/// Whitespace is held until something follows: around calls it is layout, and not text.
#[derive(Debug)]
pub(super) struct Prose {
    mark: Mark,
    held: String,
    /// Whether a call stood before.
    after_call: bool,
}

impl Prose {
    /// `held` is what came before it, as far as it is not known to be text.
    pub(super) fn new(mark: &'static str, held: String, after_call: bool) -> Self {
        Self {
            mark: Mark::new(mark),
            held,
            after_call,
        }
    }

    /// Takes the next character. With the last of the mark gives all that was held, the mark
    /// included.
    pub(super) fn push(&mut self, c: char, out: &mut Pieces) -> Option<String> {
        let had_begun = self.mark.has_begun();
        let mut found = self.mark.push(c);
        if found == Found::No && had_begun {
            self.release(out);
            found = self.mark.push(c);
        }
        self.held.push(c);
        match found {
            Found::Whole => return Some(std::mem::take(&mut self.held)),
            Found::No if !c.is_whitespace() || self.held.len() > MAX_HELD => self.release(out),
            Found::Part | Found::No => {}
        }
        None
    }

    /// No more characters come.
    pub(super) fn finish(mut self, out: &mut Pieces) {
        let is_layout = self.after_call && self.held.chars().all(char::is_whitespace);
        if !is_layout {
            self.release(out);
        }
    }

    fn release(&mut self, out: &mut Pieces) {
        out.text(&self.held);
        self.held.clear();
        self.after_call = false;
    }
}
