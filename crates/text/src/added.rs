//! Finding added tokens in text that may be shielded.
//!
//! The tokenizers library looks for added tokens twice: once in the raw text, once in each
//! normalised piece between the first matches. Both searches live inside its `AddedVocabulary`,
//! which knows no way to leave one occurrence alone and take the next. This module repeats the
//! search with that one addition; everything else (leftmost-longest, `single_word`, `lstrip`,
//! `rstrip`) follows the library's `added_vocabulary.rs`, and the tests hold the two against each
//! other.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::normalizer::Range as Referential;
use tokenizers::{AddedToken, NormalizedString, Token};

use crate::error::TextError;
use crate::shield::SENTINEL;

/// A stretch of text, with the token if it is an added one.
pub(crate) type Piece = (NormalizedString, Option<Vec<Token>>);

/// One of the two searches.
#[derive(Debug)]
pub(crate) struct AddedTokens {
    patterns: Option<AhoCorasick>,
    /// In the order of the patterns.
    tokens: Vec<(u32, AddedToken)>,
}

impl AddedTokens {
    /// `tokens` are (text to look for, id, token).
    pub(crate) fn new(tokens: Vec<(String, u32, AddedToken)>) -> Result<Self, TextError> {
        let patterns = if tokens.is_empty() {
            None
        } else {
            let found = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(tokens.iter().map(|(text, ..)| text))
                .map_err(|error| TextError::InvalidTokenizer(error.to_string()))?;
            Some(found)
        };
        let tokens = tokens
            .into_iter()
            .map(|(_, id, token)| (id, token))
            .collect();
        Ok(Self { patterns, tokens })
    }

    /// Cuts `text` at its added tokens.
    pub(crate) fn split(&self, text: &NormalizedString) -> Vec<Piece> {
        self.find(text)
            .into_iter()
            .filter_map(|(id, range)| {
                let slice = text.slice(Referential::Normalized(range))?;
                let token = id.map(|id| {
                    let value = slice.get().to_owned();
                    let end = value.len();
                    vec![Token::new(id, value, (0, end))]
                });
                Some((slice, token))
            })
            .collect()
    }

    /// The matches and the stretches between them, covering all of `text`.
    fn find(&self, text: &NormalizedString) -> Vec<(Option<u32>, Range<usize>)> {
        let sentence = text.get();
        let mut pieces = Vec::new();
        let mut done = 0;
        for found in self.patterns.iter().flat_map(|p| p.find_iter(sentence)) {
            let (id, token) = &self.tokens[found.pattern().as_usize()];
            let (mut start, mut end) = (found.start(), found.end());
            if is_shielded(text, start..end) {
                continue;
            }
            if token.single_word {
                let before = sentence[..start].chars().next_back();
                let after = sentence[end..].chars().next();
                if before.is_some_and(is_word) || after.is_some_and(is_word) {
                    continue;
                }
            }
            if token.lstrip {
                // Spaces that the previous match has eaten stay with it.
                start = sentence[..start].trim_end().len().max(done);
            }
            if token.rstrip {
                let rest = &sentence[end..];
                end += rest.len() - rest.trim_start().len();
            }
            if done < start {
                pieces.push((None, done..start));
            }
            pieces.push((Some(*id), start..end));
            done = end;
        }
        if done != sentence.len() {
            pieces.push((None, done..sentence.len()));
        }
        pieces
    }
}

/// Whether a sentinel breaks the original of `range`. One that cannot be broken, being a single
/// character, has the sentinel behind it.
fn is_shielded(text: &NormalizedString, range: Range<usize>) -> bool {
    let Some(range) = text.convert_offsets(Referential::Normalized(range)) else {
        return false;
    };
    let original = text.get_original();
    let literal = &original[range.clone()];
    literal.contains(SENTINEL)
        || literal.chars().nth(1).is_none() && original[range.end..].starts_with(SENTINEL)
}

/// What `\w` means to the library's regex engine.
fn is_word(c: char) -> bool {
    regex_syntax::try_is_word_character(c).unwrap_or_else(|_| c.is_alphanumeric() || c == '_')
}
