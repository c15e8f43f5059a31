//! From logits to the next tokens of an answer.

use super::Sequence;
use crate::request::{Event, FinishReason};
use crate::sampler::Choice;
use crate::stats::Ending;

/// What came of a choice.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) guessed: usize,
    pub(crate) right: usize,
    pub(crate) ending: Option<Ending>,
}

impl Sequence {
    /// Chooses and sends the next tokens of the answer, given the logits of its last known token
    /// and of its guesses, `[1 + guesses, vocab]`. Gives how it ended, if it did, and how many
    /// guesses were made and were right.
    pub(crate) fn choose(
        &mut self,
        logits: &mut [f32],
        vocab: usize,
        scratch: &mut Vec<u32>,
    ) -> Chosen {
        let guesses = self.tokens.split_off(self.known());
        self.guessed = 0;
        let mut chosen = Chosen {
            guessed: guesses.len(),
            right: 0,
            ending: None,
        };
        for (at, row) in logits.chunks_exact_mut(vocab).enumerate() {
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
    fn next(&mut self, row: &mut [f32], scratch: &mut Vec<u32>) -> Result<Option<u32>, Ending> {
        let answered = self.tokens.len() - self.prompt.len;
        let suppressed: &[u32] = if answered < self.prompt.limits.min_tokens {
            &self.prompt.limits.stop_ids
        } else {
            &[]
        };
        let choice = self.voice.sampler.choose(row, suppressed, scratch);
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
