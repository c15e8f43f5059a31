//! From logits to the next tokens of an answer.

use std::iter;
use std::sync::Arc;

use vlmd_kernels::{Draw, Terms};

use super::{Prompt, Sequence};
use crate::request::{Event, FinishReason};
use crate::rows::{Need, Row, Rows};
use crate::sampler::Choice;
use crate::stats::Ending;

/// What came of a choice.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) guessed: usize,
    pub(crate) right: usize,
    pub(crate) ending: Option<Ending>,
}

impl Prompt {
    /// Tokens that cannot come after so many `known` ones.
    fn suppressed(&self, known: usize) -> &[u32] {
        if known.saturating_sub(self.len) < self.limits.min_tokens {
            &self.limits.stop_ids
        } else {
            &[]
        }
    }
}

impl Sequence {
    /// What the next choices, and the scores that are still to be told, need of the logits that
    /// the next `tokens` tokens lead to.
    pub(crate) fn need(&mut self, tokens: usize) -> Need {
        if self.scores_open() {
            return Need::Logits;
        }
        let rows = self.wanted(&(self.cached..self.cached + tokens));
        // Fewer tokens are suppressed after guesses, if any.
        let suppressed = self.prompt.suppressed(self.tokens.len() - self.guessed);
        let mut voices = Vec::with_capacity(1 + self.others.len());
        for voice in iter::once(&mut self.voice).chain(&mut self.others) {
            let Some(terms) = voice.sampler.terms_on_device(suppressed) else {
                return Need::Logits;
            };
            voices.push((terms, voice.sampler.numbers(rows)));
        }
        let row = |row: usize| {
            let draw = move |&(terms, numbers): &(Terms, &[u64])| Draw {
                row,
                terms,
                number: numbers[row],
            };
            voices.iter().map(draw)
        };
        Need::Tokens {
            draws: (0..rows).flat_map(row).collect(),
            voices: voices.len(),
        }
    }

    /// Chooses and sends the next tokens of the answer, given the logits of its last known token
    /// and of its guesses. Gives how it ended, if it did, and how many guesses were made and were
    /// right.
    pub(crate) fn choose(&mut self, rows: Rows<'_>, scratch: &mut Vec<u32>) -> Chosen {
        let guesses = self.tokens.split_off(self.known());
        self.guessed = 0;
        let mut chosen = Chosen {
            guessed: guesses.len(),
            right: 0,
            ending: None,
        };
        for (at, row) in rows.into_iter().enumerate() {
            if at > 0 {
                // The guess before this row was right, and is cached.
                chosen.right += 1;
                self.cached += 1;
            }
            let last = match self.next(row, scratch) {
                Ok(last) => last,
                Err(ending) => {
                    chosen.ending = Some(ending);
                    break;
                }
            };
            if guesses.get(at) != last.as_ref() {
                break;
            }
        }
        self.extend_chain();
        self.publish();
        chosen
    }

    /// Chooses one token, and says what must follow it. Gives the token if nothing must.
    fn next(&mut self, row: Row<'_>, scratch: &mut Vec<u32>) -> Result<Option<u32>, Ending> {
        let prompt = Arc::clone(&self.prompt);
        let suppressed = prompt.suppressed(self.tokens.len());
        let sampler = &mut self.voice.sampler;
        let choice = match row {
            Row::All(logits) => sampler.choose(logits, suppressed, scratch),
            Row::Drawn(id) => sampler.take(id),
        };
        let choice = choice.map_err(Ending::Failed)?;
        let id = choice.id;
        self.say(choice)?;
        let forced = self.voice.sampler.forced().map_err(Ending::Failed)?;
        let alone = forced.is_empty();
        for id in forced {
            self.voice.sampler.note(id).map_err(Ending::Failed)?;
            self.say(Choice { id, logprobs: None })?;
        }
        Ok(alone.then_some(id))
    }

    /// Adds a token to the answer and sends it.
    fn say(&mut self, choice: Choice) -> Result<(), Ending> {
        let Choice { id, logprobs } = choice;
        self.tokens.push(id);
        self.voice.ticket.send(Event::Token { id, logprobs });
        if self.prompt.limits.stop_ids.contains(&id) {
            return Err(Ending::Finished(FinishReason::Stop(id)));
        }
        if self.voice.sampler.is_complete() {
            return Err(Ending::Finished(FinishReason::Complete));
        }
        if self.tokens.len() >= self.prompt.max_len {
            return Err(Ending::Finished(FinishReason::Length));
        }
        Ok(())
    }
}
