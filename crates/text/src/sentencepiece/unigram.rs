//! A unigram language model: the pieces with the best sum of log probabilities.
//!
//! Follows `unigram::Model::EncodeOptimized` of sentencepiece 0.2.3 (`unigram_model.cc`) down to the
//! order of its float32 operations, so that near ties fall to the same side. The tokenizers library
//! sums in double precision, and finds control symbols and bytes in texts.

use std::ops::Range;

use super::Segment;
use super::proto::Kind;
use super::trie::Trie;
use super::vocabulary::Vocabulary;
use crate::error::TextError;

/// How much worse than the worst piece an unknown character is (`kUnkPenalty`).
const UNKNOWN_PENALTY: f32 = 10.0;

/// Sums beyond this are reduced, lest long texts lose precision (`kScoreResetThreshold`).
const MAX_SUM: f32 = 100_000.0;

#[derive(Debug)]
pub(super) struct Unigram {
    /// All pieces that texts may hold.
    pieces: Trie,
    unknown_score: f32,
}

/// The best way to take apart the text up to some place.
#[derive(Debug, Clone, Copy, Default)]
struct Best {
    sum: f32,
    /// Its last piece: where it begins, and its id, none if unknown.
    last: Option<(usize, Option<u32>)>,
}

impl Best {
    fn offer(&mut self, sum: f32, start: usize, id: Option<u32>) {
        if self.last.is_none() || sum > self.sum {
            self.sum = sum;
            self.last = Some((start, id));
        }
    }
}

/// A longer symbol is better than several shorter ones, and than all pieces.
fn symbol_score(length: usize) -> f32 {
    // A symbol has at most 1024 bytes: exact until the last step, as in the reference.
    let tenths = u16::try_from(length.saturating_sub(1)).unwrap_or(u16::MAX);
    (0.1 * f64::from(tenths)) as f32
}

impl Unigram {
    pub(super) fn new(vocabulary: &Vocabulary) -> Result<Self, TextError> {
        let in_texts = |kind| matches!(kind, Kind::Normal | Kind::UserDefined);
        if !vocabulary.iter().any(|(_, piece)| in_texts(piece.kind)) {
            return Err(TextError::InvalidTokenizer(
                "it has no piece for any text".into(),
            ));
        }
        let worst = vocabulary
            .iter()
            .filter(|(_, piece)| piece.kind == Kind::Normal)
            .map(|(_, piece)| piece.score)
            .fold(f32::MAX, f32::min);
        let pieces = vocabulary.iter().filter(|(_, piece)| in_texts(piece.kind));
        Ok(Self {
            pieces: Trie::new(pieces.map(|(id, piece)| (&*piece.text, id))),
            unknown_score: worst - UNKNOWN_PENALTY,
        })
    }

    /// Takes normalised `text` apart. `is_open` tells whether a user-defined symbol may be at a
    /// place.
    pub(super) fn segment<'t>(
        &self,
        vocabulary: &Vocabulary,
        text: &'t str,
        is_open: impl Fn(Range<usize>, u32) -> bool,
    ) -> Vec<Segment<'t>> {
        let mut best = vec![Best::default(); text.len() + 1];
        // The furthest place that anything reaches.
        let mut frontier = 0;
        for (start, c) in text.char_indices() {
            let mut sum = best[start].sum;
            if sum.abs() > MAX_SUM {
                for reached in &mut best[start..=frontier] {
                    if reached.last.is_some() {
                        reached.sum -= sum;
                    }
                }
                sum = 0.0;
            }
            let mut is_covered = false;
            for (length, id) in self.pieces.prefixes(&text[start..]) {
                let end = start + length;
                let score = match vocabulary.get(id) {
                    Some(piece) if piece.kind == Kind::Normal => piece.score,
                    _ if is_open(start..end, id) => symbol_score(length),
                    _ => continue,
                };
                frontier = frontier.max(end);
                best[end].offer(score + sum, start, Some(id));
                is_covered |= length == c.len_utf8();
            }
            if !is_covered {
                let end = start + c.len_utf8();
                frontier = frontier.max(end);
                best[end].offer(self.unknown_score + sum, start, None);
            }
        }
        let mut segments = Vec::new();
        let mut end = text.len();
        while let Some((start, id)) = best[end].last {
            segments.push(Segment {
                text: &text[start..end],
                id,
            });
            end = start;
        }
        segments.reverse();
        segments
    }
}
