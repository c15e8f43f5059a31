//! Making literal control tokens in user text harmless.
//!
//! A client that writes `<|end|>` means seven characters, not the end of its turn. Quoting is not
//! possible in a chat template, so the literal is broken instead: an invisible sentinel goes in
//! after its first character, nothing looks like a control token any more while the template runs
//! and while the prompt is searched for control tokens, and the sentinel is taken out just before
//! the remaining text is tokenised. What the model sees is the text as it was written, in ordinary
//! tokens.
//!
//! The sentinel is a noncharacter that Unicode reserves for the internal use of programs. It is
//! removed from whatever a client sends first, so it cannot be used to undo or fake a shield.

use std::borrow::Cow;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::error::TextError;

/// Marks a broken literal. Never part of a prompt or of an answer.
pub(crate) const SENTINEL: char = '\u{FDD0}';

/// Breaks a set of literals.
#[derive(Debug)]
pub(crate) struct Shield {
    literals: Literals,
    disguises: Option<Box<dyn Disguises>>,
}

/// Where a client can spell a token in characters that only become its literal when the tokenizer
/// normalises them.
pub(crate) trait Disguises: std::fmt::Debug + Send + Sync {
    /// Adds where such spellings begin in `text`.
    fn find(&self, text: &str, starts: &mut Vec<usize>);
}

/// Strings to look for.
#[derive(Debug)]
pub(crate) struct Literals {
    /// Sorted, so that those with a given beginning are neighbours.
    sorted: Vec<String>,
    longest: usize,
    search: AhoCorasick,
}

impl Shield {
    /// Breaks `literals`, and what `disguises` finds.
    pub(crate) fn new(
        literals: Vec<String>,
        disguises: Option<Box<dyn Disguises>>,
    ) -> Result<Self, TextError> {
        let literals = Literals::new(literals)?;
        Ok(Self {
            literals,
            disguises,
        })
    }

    /// `text` without sentinels of its own and with every literal broken.
    ///
    /// An unfinished literal at the end of the text is broken as well, so that two texts that a
    /// template puts side by side cannot make one together.
    pub(crate) fn apply<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let text = remove(text);
        let mut starts: Vec<usize> = self
            .literals
            .find(&text)
            .map(|found| found.start)
            .chain(self.literals.unfinished(&text))
            .collect();
        if let Some(disguises) = &self.disguises {
            disguises.find(&text, &mut starts);
        }
        if starts.is_empty() {
            return text;
        }
        starts.sort_unstable();
        starts.dedup();
        let mut broken = String::with_capacity(text.len() + starts.len() * SENTINEL.len_utf8());
        let mut done = 0;
        for start in starts {
            let first = text[start..].chars().next().map_or(0, char::len_utf8);
            broken.push_str(&text[done..start + first]);
            broken.push(SENTINEL);
            done = start + first;
        }
        broken.push_str(&text[done..]);
        Cow::Owned(broken)
    }
}

impl Literals {
    pub(crate) fn new(mut literals: Vec<String>) -> Result<Self, TextError> {
        literals.retain(|literal| !literal.is_empty());
        literals.sort_unstable();
        literals.dedup();
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(&literals)
            .map_err(|error| TextError::InvalidTokenizer(error.to_string()))?;
        Ok(Self {
            longest: literals.iter().map(String::len).max().unwrap_or(0),
            search,
            sorted: literals,
        })
    }

    /// All of them in `text`, overlapping ones included.
    pub(crate) fn find<'s>(&'s self, text: &'s str) -> impl Iterator<Item = Range<usize>> + 's {
        self.search
            .find_overlapping_iter(text)
            .map(|found| found.range())
    }

    /// Where `text` ends with the beginning of one.
    pub(crate) fn unfinished<'s>(&'s self, text: &'s str) -> impl Iterator<Item = usize> + 's {
        text.char_indices()
            .rev()
            .map(|(start, _)| start)
            .take_while(|start| text.len() - start < self.longest)
            .filter(|&start| {
                let tail = &text[start..];
                let next = self.sorted.partition_point(|l| l.as_str() < tail);
                self.sorted.get(next).is_some_and(|l| l.starts_with(tail))
            })
    }
}

/// `text` without sentinels.
pub(crate) fn remove(text: &str) -> Cow<'_, str> {
    if text.contains(SENTINEL) {
        Cow::Owned(text.replace(SENTINEL, ""))
    } else {
        Cow::Borrowed(text)
    }
}
