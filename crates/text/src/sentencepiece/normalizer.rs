//! Text as the model's pieces spell it: rules applied to characters, blanks as `▁`.
//!
//! Follows `Normalizer::Normalize` of sentencepiece 0.2.3 (`normalizer.cc`).

use std::ops::Range;

use super::charsmap::Charsmap;
use super::proto::{NormalizerSpec, TrainerSpec};
use super::trie::Trie;
use super::vocabulary::Vocabulary;
use crate::error::TextError;

/// How many symbols are looked at for one place in a text (`PrefixMatcher::PrefixMatch`).
const MAX_SYMBOLS: usize = 64;

/// What pieces have instead of a blank.
pub(super) const BLANK: char = '▁';

#[derive(Debug)]
pub(super) struct Normalizer {
    symbols: Trie,
    charsmap: Option<Charsmap>,
    /// A blank at the beginning of every text, or at its end.
    dummy: Dummy,
    /// Blanks at the beginning, at the end, and beside other blanks are dropped.
    trims: bool,
    /// What a blank becomes.
    blank: char,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dummy {
    None,
    Prefix,
    Suffix,
}

impl Normalizer {
    pub(super) fn new(
        spec: &NormalizerSpec,
        trainer: &TrainerSpec,
        vocabulary: &Vocabulary,
    ) -> Result<Self, TextError> {
        let charsmap = match spec.precompiled_charsmap.as_slice() {
            [] => None,
            blob => Some(Charsmap::new(blob).map_err(|why| {
                TextError::InvalidTokenizer(format!("`precompiled_charsmap` {why}"))
            })?),
        };
        Ok(Self {
            symbols: Trie::new(vocabulary.user_defined().map(|(id, text)| (text, id))),
            charsmap,
            dummy: match (spec.add_dummy_prefix(), trainer.treat_whitespace_as_suffix) {
                (false, _) => Dummy::None,
                (true, false) => Dummy::Prefix,
                (true, true) => Dummy::Suffix,
            },
            trims: spec.remove_extra_whitespaces(),
            blank: if spec.escape_whitespaces() {
                BLANK
            } else {
                ' '
            },
        })
    }

    /// Normalises `text`.
    ///
    /// User-defined symbols are kept as they are, but for those that `is_open` does not admit at a
    /// place (its bytes in `text`, the id). `unit` is told which bytes of the result come from
    /// which of `text`, in order; the last ones may have been trimmed from the result.
    pub(super) fn normalize(
        &self,
        text: &str,
        is_open: impl Fn(Range<usize>, u32) -> bool,
        mut unit: impl FnMut(Range<usize>, Range<usize>),
    ) -> String {
        let mut at = 0;
        if self.trims {
            while let (" ", length) = self.prefix(text, at, &is_open) {
                at += length;
            }
        }
        let mut result = String::new();
        if at == text.len() {
            return result;
        }
        result.reserve(text.len() + text.len() / 2);
        if self.dummy == Dummy::Prefix {
            result.push(self.blank);
        }
        let mut after_blank = self.trims;
        while at < text.len() {
            let (mut spelling, length) = self.prefix(text, at, &is_open);
            if after_blank {
                spelling = spelling.trim_start_matches(' ');
            }
            let start = result.len();
            result.extend(
                spelling
                    .chars()
                    .map(|c| if c == ' ' { self.blank } else { c }),
            );
            if !spelling.is_empty() {
                after_blank = self.trims && spelling.ends_with(' ');
            }
            unit(start..result.len(), at..at + length);
            at += length;
        }
        if self.trims {
            result.truncate(result.trim_end_matches(self.blank).len());
        }
        if self.dummy == Dummy::Suffix {
            result.push(self.blank);
        }
        result
    }

    /// What `text` from `at` on begins with: the spelling of that, and its length in `text`.
    fn prefix<'t>(
        &'t self,
        text: &'t str,
        at: usize,
        is_open: &impl Fn(Range<usize>, u32) -> bool,
    ) -> (&'t str, usize) {
        let rest = &text[at..];
        if let Some((length, _)) = self.symbol(rest, |length, id| is_open(at..at + length, id)) {
            return (&rest[..length], length);
        }
        if let Some((length, spelling)) = self.charsmap.as_ref().and_then(|map| map.longest(rest)) {
            return (spelling, length);
        }
        let length = rest.chars().next().map_or(0, char::len_utf8);
        (&rest[..length], length)
    }

    /// The longest user-defined symbol that `text` begins with, of those that `is_open` admits:
    /// its length and its id.
    pub(super) fn symbol(
        &self,
        text: &str,
        is_open: impl Fn(usize, u32) -> bool,
    ) -> Option<(usize, u32)> {
        self.symbols
            .prefixes(text)
            .take(MAX_SYMBOLS)
            .filter(|&(length, id)| is_open(length, id))
            .last()
    }
}
