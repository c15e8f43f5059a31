//! Guesses at the next tokens, looked up in what is there already.
//!
//! Answers about a text or a table repeat pieces of it. Where the last tokens have stood before,
//! those that followed them then are guessed to follow again (prompt lookup decoding, Saxena
//! 2023; vLLM's `ngram` method). A step computes them beside the known token; the sampler then
//! chooses token by token as ever, and a guess only saves the step that would have computed it.
//! So answers are the same as without, greedy and sampled.

use std::ops::Range;

/// How to guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speculation {
    /// Most tokens guessed in one step, at least 1.
    pub tokens: usize,
    /// Fewest tokens in a row that must have stood before, at least 1.
    pub min_ngram: usize,
    /// Most that are looked for, at least `min_ngram`. More are tried first: what follows them is
    /// more certain.
    pub max_ngram: usize,
}

impl Speculation {
    /// Default of `min_ngram`.
    pub const DEFAULT_MIN_NGRAM: usize = 2;
    /// Default of `max_ngram`.
    pub const DEFAULT_MAX_NGRAM: usize = 4;

    /// Where in `tokens` the guess stands: what followed the latest place at which the last ones
    /// stood before. Empty where there is none.
    pub(crate) fn look_up(&self, tokens: &[u32]) -> Range<usize> {
        let len = tokens.len();
        for size in (self.min_ngram..=self.max_ngram).rev() {
            let Some((before, last)) = len
                .checked_sub(size)
                .filter(|_| size > 0)
                .map(|start| (&tokens[..len - 1], &tokens[start..]))
            else {
                continue;
            };
            if let Some(start) = before.windows(size).rposition(|ngram| ngram == last) {
                let from = start + size;
                return from..from.saturating_add(self.tokens).min(len);
            }
        }
        0..0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(tokens: &[u32], min_ngram: usize, max_ngram: usize) -> Vec<u32> {
        let speculation = Speculation {
            tokens: 3,
            min_ngram,
            max_ngram,
        };
        tokens[speculation.look_up(tokens)].to_vec()
    }

    #[test]
    fn what_followed_the_last_tokens_before_is_guessed() {
        assert_eq!(guess(&[1, 2, 3, 4, 5, 1, 2], 2, 3), [3, 4, 5]);
        assert!(guess(&[1, 2, 3, 4, 5, 9, 2], 2, 3).is_empty());
        assert_eq!(guess(&[1, 2, 3, 4, 5, 9, 2], 1, 3), [3, 4, 5]);
        assert!(guess(&[], 1, 3).is_empty());
        assert!(guess(&[7], 1, 3).is_empty());
    }

    #[test]
    fn longer_runs_and_later_places_win() {
        let tokens = [1, 2, 3, 10, 9, 2, 3, 20, 1, 2, 3];
        assert_eq!(guess(&tokens, 1, 3), [10, 9, 2]);
        assert_eq!(guess(&tokens, 1, 2), [20, 1, 2]);
    }

    #[test]
    fn a_run_may_overlap_what_it_repeats() {
        assert_eq!(guess(&[5, 5, 5, 5], 2, 2), [5]);
        assert_eq!(guess(&[1, 2, 1, 2, 1], 3, 3), [2, 1]);
    }
}
