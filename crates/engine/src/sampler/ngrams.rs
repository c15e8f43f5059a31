//! Runs of tokens that must not come twice.

use super::change;

/// Rules out tokens that would repeat `size` in a row, as transformers'
/// `NoRepeatNGramLogitsProcessor` does (Paulus et al. 2017): prompt and answer count alike.
#[derive(Debug)]
pub(super) struct Ngrams {
    /// 0 is off.
    size: usize,
    /// Prompt and answer; empty where off.
    tokens: Vec<u32>,
}

impl Ngrams {
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            tokens: Vec::new(),
        }
    }

    /// Notes tokens of the prompt or of the answer.
    pub(super) fn extend(&mut self, ids: &[u32]) {
        if self.size > 0 {
            self.tokens.extend_from_slice(ids);
        }
    }

    /// Makes each token impossible that ends a run which is there already.
    ///
    /// Looks through all tokens, which is far less than the step that made the logits.
    pub(super) fn rule_out(&self, logits: &mut [f32]) {
        let begun = self.size.checked_sub(1);
        let start = begun.and_then(|begun| self.tokens.len().checked_sub(begun));
        let Some(begun) = start.map(|start| &self.tokens[start..]) else {
            return;
        };
        for run in self.tokens.windows(self.size) {
            if let Some((&last, before)) = run.split_last()
                && before == begun
            {
                change(logits, last, |_| f32::NEG_INFINITY);
            }
        }
    }
}
