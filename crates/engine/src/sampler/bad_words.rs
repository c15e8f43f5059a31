//! Runs of tokens that an answer must not have.

use super::change;

/// Rules out the last token of each run whose others the answer ends with, as vLLM's
/// `apply_bad_words` and transformers' `NoBadWordsLogitsProcessor` do. What the prompt says does
/// not count.
#[derive(Debug)]
pub(super) struct BadWords {
    /// None is empty.
    runs: Vec<Vec<u32>>,
    /// The end of the answer, as much as the longest run needs.
    tail: Vec<u32>,
    /// Tokens of the longest run without its last.
    kept: usize,
}

impl BadWords {
    pub(super) fn new(mut runs: Vec<Vec<u32>>) -> Self {
        runs.retain(|run| !run.is_empty());
        let longest = runs.iter().map(Vec::len).max().unwrap_or(1);
        Self {
            runs,
            tail: Vec::new(),
            kept: longest.saturating_sub(1),
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Notes a token of the answer.
    pub(super) fn push(&mut self, id: u32) {
        if self.kept == 0 {
            return;
        }
        if self.tail.len() == self.kept {
            self.tail.remove(0);
        }
        self.tail.push(id);
    }

    /// Makes each token impossible that would complete a run.
    pub(super) fn rule_out(&self, logits: &mut [f32]) {
        for run in &self.runs {
            if let Some((&last, before)) = run.split_last()
                && self.tail.ends_with(before)
            {
                change(logits, last, |_| f32::NEG_INFINITY);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids that are impossible after `answer`.
    fn ruled_out(runs: &[&[u32]], answer: &[u32]) -> Vec<u32> {
        let mut words = BadWords::new(runs.iter().map(|run| run.to_vec()).collect());
        answer.iter().for_each(|&id| words.push(id));
        let mut logits = [0.0_f32; 6];
        words.rule_out(&mut logits);
        (0..)
            .zip(logits)
            .filter(|(_, l)| l.is_infinite())
            .map(|(id, _)| id)
            .collect()
    }

    #[test]
    fn a_run_is_broken_at_its_last_token_and_nowhere_else() {
        let runs: [&[u32]; 3] = [&[4], &[1, 2, 3], &[2, 5]];
        assert_eq!(ruled_out(&runs, &[]), [4]);
        assert_eq!(ruled_out(&runs, &[1]), [4]);
        assert_eq!(ruled_out(&runs, &[1, 2]), [3, 4, 5]);
        assert_eq!(ruled_out(&runs, &[0, 0, 1, 2]), [3, 4, 5]);
        assert_eq!(ruled_out(&runs, &[1, 2, 0]), [4]);
        assert_eq!(ruled_out(&runs, &[2]), [4, 5]);
    }

    #[test]
    fn a_run_that_repeats_itself_is_found_at_every_place() {
        assert_eq!(ruled_out(&[&[1, 1, 2]], &[1, 1, 1]), [2]);
        assert!(ruled_out(&[&[1, 1, 2]], &[0, 1]).is_empty());
    }

    #[test]
    fn empty_runs_and_unknown_tokens_do_nothing() {
        assert!(ruled_out(&[&[], &[99], &[99, 1]], &[0]).is_empty());
        assert!(ruled_out(&[], &[0]).is_empty());
    }
}
