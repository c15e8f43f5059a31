//! How often a stream says something: a chunk for every token, or for every few of them.

use crate::answer::Piece;

/// Holds pieces back until there are enough of them. Nothing is lost and nothing is reordered
/// within an answer; its first words, its calls and its end are never held.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Tokens of a chunk (`--stream-interval`).
    interval: usize,
    answers: Vec<Held>,
}

#[derive(Debug, Default)]
struct Held {
    piece: Piece,
    tokens: usize,
    /// Whether the answer has begun to be sent.
    begun: bool,
}

impl Pace {
    /// For `count` answers in chunks of `interval` tokens.
    pub(crate) fn new(interval: usize, count: usize) -> Self {
        let mut answers = Vec::new();
        answers.resize_with(count, Held::default);
        Self { interval, answers }
    }

    /// Takes a piece of `tokens` tokens, and gives what is to be sent now.
    pub(crate) fn push(&mut self, index: usize, piece: Piece, tokens: usize) -> Option<Piece> {
        let Some(held) = self.answers.get_mut(index).filter(|_| self.interval > 1) else {
            return Some(piece);
        };
        held.tokens += tokens;
        let speaks = !piece.text.is_empty();
        let now = held.tokens >= self.interval
            || (speaks && !held.begun)
            || !piece.calls.is_empty()
            || piece.end.is_some();
        held.begun |= speaks;
        let whole = held.piece.joined(piece);
        if now {
            held.tokens = 0;
            return Some(whole);
        }
        held.piece = whole;
        None
    }

    /// Something that is still held, of any answer.
    pub(crate) fn rest(&mut self) -> Option<(usize, Piece)> {
        self.answers
            .iter_mut()
            .enumerate()
            .find_map(|(index, held)| {
                let piece = std::mem::take(&mut held.piece);
                (piece != Piece::default()).then_some((index, piece))
            })
    }
}

impl Piece {
    /// What was held, which it gives up, and `next`, as one piece.
    fn joined(&mut self, next: Self) -> Self {
        let mut held = std::mem::take(self);
        held.text.push_str(&next.text);
        held.logprobs.extend(next.logprobs);
        held.calls.extend(next.calls);
        Self {
            prompt_logprobs: held.prompt_logprobs.or(next.prompt_logprobs),
            timings: next.timings.or(held.timings),
            entities: next.entities.or(held.entities),
            end: next.end,
            ..held
        }
    }
}

#[cfg(test)]
mod tests {
    use vlmd_api::FinishReason;

    use super::*;
    use crate::answer::End;

    fn text(text: &str) -> Piece {
        Piece {
            text: text.to_owned(),
            ..Piece::default()
        }
    }

    fn end() -> Piece {
        Piece {
            end: Some(End {
                reason: FinishReason::Stop,
                stop: None,
            }),
            ..Piece::default()
        }
    }

    #[test]
    fn an_interval_of_one_holds_nothing() {
        let mut pace = Pace::new(1, 1);
        for piece in ["a", "", "b"] {
            assert_eq!(pace.push(0, text(piece), 1), Some(text(piece)));
        }
        assert_eq!(pace.rest(), None);
    }

    #[test]
    fn the_first_words_come_at_once_and_then_a_chunk_for_every_few() {
        let mut pace = Pace::new(3, 2);
        assert_eq!(pace.push(0, text(""), 1), None);
        assert_eq!(pace.push(0, text("a"), 1), Some(text("a")));
        assert_eq!(pace.push(0, text("b"), 1), None);
        // Answers are apart from each other.
        assert_eq!(pace.push(1, text("x"), 1), Some(text("x")));
        assert_eq!(pace.push(0, text("c"), 1), None);
        assert_eq!(pace.push(0, text("d"), 1), Some(text("bcd")));
        assert_eq!(pace.push(0, text("e"), 1), None);
        let last = pace.push(0, end(), 0).unwrap();
        assert_eq!((last.text.as_str(), last.end.is_some()), ("e", true));
    }

    #[test]
    fn what_is_held_when_a_request_fails_is_there_to_be_sent() {
        let mut pace = Pace::new(10, 2);
        for index in [0, 1] {
            assert!(pace.push(index, text("a"), 1).is_some());
        }
        assert_eq!(pace.push(1, text("b"), 1), None);
        assert_eq!(pace.rest(), Some((1, text("b"))));
        assert_eq!(pace.rest(), None);
    }
}
