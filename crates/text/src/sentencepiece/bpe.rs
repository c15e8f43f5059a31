//! Byte-pair encoding: the pair of neighbours with the best piece is merged first.
//!
//! Follows `bpe::Model::SampleEncode` of sentencepiece 0.2.3 (`bpe_model.cc`), without sampling.
//! Symbols are stretches of the text, not pieces: characters that no piece covers take part in
//! merges as well. That, merges of equal score (the leftmost is first, whatever the pair), and
//! unused pieces, which are merged and then taken apart again, are what lists of merges, as the
//! tokenizers library has them, cannot express.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use super::Segment;
use super::proto::Kind;
use super::vocabulary::Vocabulary;

/// How often an unused piece is taken apart (`kMaxBpeResegmentDepth`).
const MAX_DEPTH: usize = 100;

/// A stretch of the text. Merged ones are left behind, empty.
#[derive(Debug)]
struct Symbol {
    range: Range<usize>,
    previous: Option<usize>,
    next: Option<usize>,
    /// A user-defined symbol, which is never merged.
    fixed: Option<u32>,
}

/// Two neighbours that can be merged.
#[derive(Debug)]
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Length of the merged stretch: another by now if one of the two has grown.
    length: usize,
}

impl Ord for Pair {
    /// The greatest is merged first. -0 is below 0, as in the reference, which compares bits.
    fn cmp(&self, other: &Self) -> Ordering {
        let score = self.score.total_cmp(&other.score);
        score.then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pair {}

/// One text on its way.
struct Merging<'t> {
    vocabulary: &'t Vocabulary,
    text: &'t str,
    symbols: Vec<Symbol>,
    pairs: BinaryHeap<Pair>,
    /// What unused pieces were merged from.
    parts: HashMap<&'t str, [&'t str; 2]>,
}

/// Takes normalised `text` apart. `symbol` finds the user-defined symbol that begins at a place:
/// its length and its id.
pub(super) fn segment<'t>(
    vocabulary: &'t Vocabulary,
    text: &'t str,
    symbol: impl Fn(usize) -> Option<(usize, u32)>,
) -> Vec<Segment<'t>> {
    let mut merging = Merging {
        vocabulary,
        text,
        symbols: Vec::new(),
        pairs: BinaryHeap::new(),
        parts: HashMap::new(),
    };
    merging.split(symbol);
    merging.merge();
    merging.finish()
}

impl<'t> Merging<'t> {
    /// Symbols to begin with: user-defined ones, and characters.
    fn split(&mut self, symbol: impl Fn(usize) -> Option<(usize, u32)>) {
        let mut start = 0;
        while let Some(c) = self.text[start..].chars().next() {
            let (length, fixed) = match symbol(start) {
                Some((length, id)) => (length, Some(id)),
                None => (c.len_utf8(), None),
            };
            let end = start + length;
            let index = self.symbols.len();
            self.symbols.push(Symbol {
                range: start..end,
                previous: index.checked_sub(1),
                next: (end < self.text.len()).then_some(index + 1),
                fixed,
            });
            start = end;
        }
    }

    fn merge(&mut self) {
        for right in 1..self.symbols.len() {
            self.consider(right - 1, right);
        }
        while let Some(Pair {
            left,
            right,
            length,
            ..
        }) = self.pairs.pop()
        {
            let [a, b] = [left, right].map(|index| self.symbols[index].range.clone());
            if a.is_empty() || b.is_empty() || a.len() + b.len() != length {
                continue;
            }
            let next = self.symbols[right].next;
            self.symbols[left].range = a.start..b.end;
            self.symbols[left].next = next;
            self.symbols[right].range = b.end..b.end;
            if let Some(next) = next {
                self.symbols[next].previous = Some(left);
            }
            if let Some(previous) = self.symbols[left].previous {
                self.consider(previous, left);
            }
            if let Some(next) = next {
                self.consider(left, next);
            }
        }
    }

    /// Queues two neighbours if there is a piece for both together.
    fn consider(&mut self, left: usize, right: usize) {
        let (a, b) = (&self.symbols[left], &self.symbols[right]);
        if a.fixed.is_some() || b.fixed.is_some() {
            return;
        }
        let merged = &self.text[a.range.start..b.range.end];
        let Some((_, piece)) = self.vocabulary.merged(merged) else {
            return;
        };
        if piece.kind == Kind::Unused {
            let parts = [&self.text[a.range.clone()], &self.text[b.range.clone()]];
            self.parts.insert(merged, parts);
        }
        self.pairs.push(Pair {
            score: piece.score,
            left,
            right,
            length: merged.len(),
        });
    }

    fn finish(&self) -> Vec<Segment<'t>> {
        let mut segments = Vec::new();
        let mut next = self.symbols.first();
        while let Some(symbol) = next {
            let text = &self.text[symbol.range.clone()];
            match symbol.fixed {
                Some(id) => segments.push(Segment { text, id: Some(id) }),
                None => self.take_apart(text, 0, &mut segments),
            }
            next = symbol.next.and_then(|next| self.symbols.get(next));
        }
        segments
    }

    /// `text` if it is a piece in use, else what it was merged from.
    fn take_apart(&self, text: &'t str, depth: usize, segments: &mut Vec<Segment<'t>>) {
        let id = match self.vocabulary.merged(text) {
            Some((id, piece)) if piece.kind != Kind::Unused || depth > MAX_DEPTH => Some(id),
            Some(_) if let Some([a, b]) = self.parts.get(text) => {
                self.take_apart(a, depth + 1, segments);
                self.take_apart(b, depth + 1, segments);
                return;
            }
            _ => None,
        };
        segments.push(Segment { text, id });
    }
}
