//! Pieces to text, as they come.
//!
//! Follows `SentencePieceProcessor::DecodeOptimized` of sentencepiece 0.2.3: `▁` is a blank, the
//! first one is dropped where `encode` puts one in front, a run of bytes is read as UTF-8 with a
//! replacement character for each byte that is part of no character.

use std::sync::Arc;

use super::normalizer::BLANK;
use super::proto::Kind;
use super::vocabulary::{Vocabulary, byte};

/// How a model spells its pieces.
#[derive(Debug)]
pub(super) struct Spelling {
    pub(super) vocabulary: Vocabulary,
    /// What the unknown piece becomes.
    pub(super) unknown: String,
    pub(super) leading_blanks: LeadingBlanks,
}

/// What becomes of `▁` at the beginning of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeadingBlanks {
    Kept,
    /// The one that `encode` has put there.
    OneDropped,
    /// One of each piece until there is text: `encode` makes no text with any.
    Dropped,
}

/// The text so far, as far as it decides how the next piece is spelt.
#[derive(Debug)]
pub(crate) struct Decoder {
    spelling: Arc<Spelling>,
    skip_special: bool,
    /// Nothing has come out.
    is_empty: bool,
    /// No blank has been dropped, and nothing has come out.
    at_start: bool,
    /// The beginning of a character.
    bytes: Vec<u8>,
}

impl Decoder {
    /// With `skip_special` control pieces are left out, else they are spelt.
    pub(super) fn new(spelling: Arc<Spelling>, skip_special: bool) -> Self {
        Self {
            spelling,
            skip_special,
            is_empty: true,
            at_start: true,
            bytes: Vec::new(),
        }
    }

    /// Adds what `id` completes to `text`. Ids beyond the vocabulary are nothing.
    pub(crate) fn push(&mut self, id: u32, text: &mut String) {
        let spelling = Arc::clone(&self.spelling);
        let Some(piece) = spelling.vocabulary.get(id) else {
            return;
        };
        let before = text.len();
        if piece.kind == Kind::Byte {
            self.bytes.extend(byte(&piece.text));
            self.take_characters(text);
        } else {
            self.finish(text);
            self.at_start &= self.is_empty && text.len() == before;
            match piece.kind {
                Kind::Control if self.skip_special => {}
                Kind::Control => text.push_str(&piece.text),
                Kind::Unknown => {
                    self.drop_blank(&piece.text);
                    text.push_str(&spelling.unknown);
                }
                _ => {
                    let piece = self.drop_blank(&piece.text);
                    text.extend(piece.chars().map(|c| if c == BLANK { ' ' } else { c }));
                }
            }
        }
        self.is_empty &= text.len() == before;
    }

    /// Adds what no more pieces will complete to `text`.
    pub(crate) fn finish(&mut self, text: &mut String) {
        text.extend(self.bytes.drain(..).map(|_| char::REPLACEMENT_CHARACTER));
    }

    /// `piece` without the blank that `encode` puts in front of a text.
    fn drop_blank<'p>(&mut self, piece: &'p str) -> &'p str {
        let Some(rest) = piece.strip_prefix(BLANK).filter(|_| self.at_start) else {
            return piece;
        };
        match self.spelling.leading_blanks {
            LeadingBlanks::Kept => piece,
            LeadingBlanks::OneDropped => {
                self.at_start = false;
                rest
            }
            LeadingBlanks::Dropped => rest,
        }
    }

    /// Moves whole characters to `text`, and what can be none as replacement characters.
    fn take_characters(&mut self, text: &mut String) {
        loop {
            let (valid, unfinished) = match str::from_utf8(&self.bytes) {
                Ok(valid) => (valid, true),
                Err(error) => {
                    let valid = &self.bytes[..error.valid_up_to()];
                    (
                        str::from_utf8(valid).unwrap_or_default(),
                        error.error_len().is_none(),
                    )
                }
            };
            text.push_str(valid);
            let done = valid.len();
            self.bytes.drain(..done);
            if unfinished {
                return;
            }
            // Byte by byte: what follows may be a character.
            text.push(char::REPLACEMENT_CHARACTER);
            self.bytes.remove(0);
        }
    }
}
