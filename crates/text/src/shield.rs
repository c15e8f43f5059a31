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

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::normalizer::Range as Referential;
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

use crate::error::TextError;

/// Marks a broken literal. Never part of a prompt or of an answer.
pub(crate) const SENTINEL: char = '\u{FDD0}';

/// Breaks a set of literals.
#[derive(Debug)]
pub(crate) struct Shield {
    /// Sorted, so that those with a given beginning are neighbours.
    literals: Vec<String>,
    longest: usize,
    search: AhoCorasick,
    normalized: Option<NormalizedShield>,
}

/// For tokens that the tokenizer looks for in normalised text: a client must not be able to spell
/// them in characters that only become the literal by normalisation.
#[derive(Debug)]
struct NormalizedShield {
    normalizer: NormalizerWrapper,
    search: AhoCorasick,
}

impl Shield {
    /// Breaks `literals`, and whatever `normalizer` turns into one of `normalized`.
    pub(crate) fn new(
        mut literals: Vec<String>,
        normalized: &[String],
        normalizer: Option<&NormalizerWrapper>,
    ) -> Result<Self, TextError> {
        literals.retain(|literal| !literal.is_empty());
        literals.sort_unstable();
        literals.dedup();
        let normalized = match normalizer {
            Some(normalizer) if !normalized.is_empty() => Some(NormalizedShield {
                normalizer: normalizer.clone(),
                search: overlapping(normalized)?,
            }),
            _ => None,
        };
        Ok(Self {
            longest: literals.iter().map(String::len).max().unwrap_or(0),
            search: overlapping(&literals)?,
            literals,
            normalized,
        })
    }

    /// `text` without sentinels of its own and with every literal broken.
    ///
    /// An unfinished literal at the end of the text is broken as well, so that two texts that a
    /// template puts side by side cannot make one together.
    pub(crate) fn apply<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let text = remove(text);
        let mut starts: Vec<usize> = self
            .search
            .find_overlapping_iter(text.as_ref())
            .map(|found| found.start())
            .collect();
        starts.extend(self.unfinished(&text));
        if let Some(normalized) = &self.normalized {
            normalized.find(&text, &mut starts);
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

    /// Where `text` ends with the beginning of a literal.
    fn unfinished<'s>(&'s self, text: &'s str) -> impl Iterator<Item = usize> + 's {
        text.char_indices()
            .rev()
            .map(|(start, _)| start)
            .take_while(|start| text.len() - start < self.longest)
            .filter(|&start| {
                let tail = &text[start..];
                let next = self.literals.partition_point(|l| l.as_str() < tail);
                self.literals.get(next).is_some_and(|l| l.starts_with(tail))
            })
    }
}

impl NormalizedShield {
    fn find(&self, text: &str, starts: &mut Vec<usize>) {
        let mut normalized = NormalizedString::from(text);
        if self.normalizer.normalize(&mut normalized).is_err() {
            // Encoding will report it: the same normaliser runs there.
            return;
        }
        for found in self.search.find_overlapping_iter(normalized.get()) {
            let range = Referential::Normalized(found.range());
            if let Some(original) = normalized.convert_offsets(range)
                && original.start < text.len()
            {
                starts.push(original.start);
            }
        }
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

fn overlapping(patterns: &[String]) -> Result<AhoCorasick, TextError> {
    AhoCorasick::builder()
        .match_kind(MatchKind::Standard)
        .build(patterns)
        .map_err(|error| TextError::InvalidTokenizer(error.to_string()))
}
