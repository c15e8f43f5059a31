//! One forward pass, from who takes part to what they say.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use candle_core::Tensor;
use rayon::prelude::*;
use vlmd_backend::{KvCache, Model, Step};
use vlmd_kernels::{Draw, draw};

use super::guard::guarded;
use super::{Gone, Worker};
use crate::batch::{self, Slice};
use crate::pacer::Forward;
use crate::rows::{Logits, Need, Rows};
use crate::scheduler::{self, Chunk, Hold, Work};
use crate::sequence::{Chosen, Sequence};
use crate::stats::{Ending, Status};

/// Logits in all from which on several threads choose.
const PARALLEL_LOGITS: usize = 1 << 16;

impl Worker {
    /// Computes one step. A failure ends the requests that were part of it.
    pub(super) fn step(&mut self, allowance: usize) -> Result<(), Gone> {
        self.make_room();
        if let Some(speculation) = &self.speculation {
            for sequence in &mut self.running {
                sequence.guess(speculation);
            }
        }
        let works: Vec<Work> = self.running.iter().map(Sequence::work).collect();
        let plan = scheduler::plan(&works, allowance, &self.policy);
        if plan.is_empty() {
            return Ok(());
        }
        for chunk in &plan {
            self.running[chunk.sequence].trim(chunk.tokens.get());
        }
        let needs: Vec<Need> = plan
            .iter()
            .map(|chunk| self.running[chunk.sequence].need(chunk.tokens.get()))
            .collect();
        let slices: Vec<_> = plan
            .iter()
            .map(|chunk| self.running[chunk.sequence].slice(chunk.tokens.get()))
            .collect();
        let wanted: Vec<usize> = slices.iter().map(|slice| slice.logits).collect();
        let started = Instant::now();
        match forward(&*self.model, &self.cache, &slices, &needs) {
            Ok(logits) => {
                let took = started.elapsed();
                let tokens = plan.iter().map(|chunk| chunk.tokens.get()).sum();
                self.status.count_step(tokens, took);
                self.pacer.observe_forward(made_of(&works, &plan), took);
                self.advance(&plan, &wanted, &needs, logits);
                Ok(())
            }
            Err(reason) => {
                tracing::error!(reason, requests = plan.len(), "a step failed");
                self.status.steps_failed.fetch_add(1, Relaxed);
                // From behind, so that the indices that are still to come stay right.
                for chunk in plan.iter().rev() {
                    self.running
                        .remove(chunk.sequence)
                        .end(&Ending::STEP_FAILED);
                }
                self.probe().map_err(|reason| {
                    tracing::error!(reason, "the probe after a failed step failed, too");
                    Gone
                })
            }
        }
    }

    /// Gives everyone the blocks for the next step. Where there are too few the youngest step
    /// back.
    fn make_room(&mut self) {
        let missing: usize = self.running.iter().map(Sequence::missing).sum();
        let mut staying = self.running.len();
        // What each would give back is looked up only if someone has to.
        if missing > self.status.pool.free() {
            let holds: Vec<Hold> = self.running.iter().map(Sequence::hold).collect();
            staying = scheduler::staying(&holds, self.status.pool.free());
        }
        loop {
            for mut sequence in self.running.split_off(staying).into_iter().rev() {
                sequence.step_back();
                self.status.preemptions.fetch_add(1, Relaxed);
                self.line_up(sequence);
            }
            // Blocks that several own come free only with the last of them, so that there may be
            // fewer than was counted on.
            if self.running.iter_mut().all(Sequence::grow) {
                return;
            }
            match self.running.len().checked_sub(1) {
                Some(fewer @ 1..) => staying = fewer,
                _ => break,
            }
        }
        // Admission sees to it that a single sequence fits into the whole cache.
        tracing::error!("a request outgrew the cache");
        for sequence in self.running.drain(..) {
            sequence.end(&Ending::STEP_FAILED);
        }
    }

    /// Takes note of a step that succeeded. `logits` are what came of the rows that the chunks
    /// wanted, given what they needed of them, in their order.
    fn advance(&mut self, plan: &[Chunk], wanted: &[usize], needs: &[Need], mut logits: Logits) {
        let mut parts = logits.parts();
        let many = parts.logits() >= PARALLEL_LOGITS;
        let mut turns: Vec<Turn<'_>> = Vec::with_capacity(plan.len());
        let mut planned = plan.iter().zip(wanted).zip(needs).peekable();
        for (index, sequence) in self.running.iter_mut().enumerate() {
            let next = planned.next_if(|((chunk, _), _)| chunk.sequence == index);
            let Some(((chunk, &wanted), need)) = next else {
                continue;
            };
            turns.push(Turn {
                index,
                tokens: chunk.tokens.get(),
                sequence,
                rows: Some(parts.take(need, wanted)),
                forks: Vec::new(),
                ending: None,
            });
        }
        let (cache, status) = (&self.cache, &*self.status);
        if many && turns.len() > 1 {
            turns
                .par_iter_mut()
                .for_each(|turn| turn.take(cache, status));
        } else {
            turns.iter_mut().for_each(|turn| turn.take(cache, status));
        }
        let mut endings = Vec::new();
        let mut forks = Vec::new();
        for turn in turns {
            endings.extend(turn.ending.map(|ending| (turn.index, ending)));
            forks.extend(turn.forks);
        }
        for (index, ending) in endings.into_iter().rev() {
            self.running.remove(index).end(&ending);
        }
        for fork in forks {
            self.seat(fork);
        }
    }

    /// An answer that came out of another goes on beside it, or in the line if there is no seat.
    fn seat(&mut self, fork: Fork) {
        let Fork {
            mut sequence,
            has_blocks,
            ending,
        } = fork;
        if let Some(ending) = ending {
            sequence.end(&ending);
        } else if has_blocks && self.running.len() < self.policy.max_num_seqs {
            let at = self
                .running
                .partition_point(|other| other.rank() <= sequence.rank());
            self.running.insert(at, sequence);
        } else {
            sequence.step_back();
            self.line_up(sequence);
        }
    }
}

/// What a step was made of.
fn made_of(works: &[Work], plan: &[Chunk]) -> Forward {
    let tokens: usize = plan.iter().map(|chunk| chunk.tokens.get()).sum();
    let decodes = plan
        .iter()
        .filter(|chunk| matches!(works[chunk.sequence], Work::Decode { .. }))
        .count();
    Forward {
        decodes,
        tokens: tokens - decodes,
    }
}

/// A sequence after a step of which it was part.
struct Turn<'a> {
    index: usize,
    tokens: usize,
    sequence: &'a mut Sequence,
    /// Until they are used up.
    rows: Option<Rows<'a>>,
    forks: Vec<Fork>,
    ending: Option<Ending>,
}

/// A further answer to the prompt of a sequence.
struct Fork {
    sequence: Sequence,
    has_blocks: bool,
    ending: Option<Ending>,
}

impl Turn<'_> {
    /// Notes what is cached and chooses what comes next. Depends on nothing but the sequence.
    fn take(&mut self, cache: &KvCache, status: &Status) {
        let mut scratch = Vec::new();
        let Some(rows) = self.rows.take() else {
            return;
        };
        let taken = guarded(|| {
            let (prefilled, rows) = self.sequence.advance(self.tokens, rows, &mut scratch);
            let prefilled = prefilled as u64;
            status.tokens_prefilled.fetch_add(prefilled, Relaxed);
            if rows.len() == 0 {
                return Ok(());
            }
            if self.sequence.has_others() {
                self.fork(&rows, cache, &mut scratch)?;
            }
            let chosen = self.sequence.choose(rows, &mut scratch);
            let Chosen {
                guessed,
                right,
                ending,
            } = chosen;
            status.count_guesses(guessed, right);
            self.ending = ending;
            Ok(())
        });
        if let Err(reason) = taken {
            tracing::error!(reason, "choosing a token failed");
            self.ending = Some(Ending::STEP_FAILED);
        }
    }

    /// The other answers to the same prompt, which begin with the same logits.
    fn fork(
        &mut self,
        rows: &Rows<'_>,
        cache: &KvCache,
        scratch: &mut Vec<u32>,
    ) -> candle_core::Result<()> {
        let mut room = Vec::new();
        for (voice, mut sequence) in (1..).zip(self.sequence.fork()) {
            let has_blocks = match sequence.take_last(self.sequence) {
                Some(Some((from, to))) => {
                    cache.copy_block(from, to)?;
                    true
                }
                Some(None) => true,
                None => false,
            };
            let rows = rows.of_voice(voice, &mut room);
            let ending = sequence.choose(rows, scratch).ending;
            self.forks.push(Fork {
                sequence,
                has_blocks,
                ending,
            });
        }
        Ok(())
    }
}

/// One forward pass. Gives of the wanted rows what each slice needs: tokens are drawn where the
/// logits are, so that only those come to the host that someone has to see.
pub(super) fn forward(
    model: &dyn Model,
    cache: &KvCache,
    slices: &[Slice<'_>],
    needs: &[Need],
) -> Result<Logits, String> {
    guarded(|| {
        let step: Step = batch::build(slices)?;
        let logits = model.forward(&step, cache)?;
        let rows = step.logit_rows.len();
        if rows == 0 {
            return Ok(Logits::NONE);
        }
        let (given, vocab) = logits.dims2()?;
        if (given, vocab) != (rows, model.spec().vocab_size) {
            candle_core::bail!("{rows} rows of logits were wanted, [{given}, {vocab}] came");
        }
        let mut first = 0;
        let mut seen: Vec<u32> = Vec::new();
        let mut draws = Vec::new();
        for (slice, need) in slices.iter().zip(needs) {
            match need {
                // A `Step` counts rows in u32.
                Need::Logits => seen.extend((first as u32..).take(slice.logits)),
                Need::Tokens { draws: its, .. } => draws.extend(its.iter().map(|draw| Draw {
                    row: first + draw.row,
                    ..*draw
                })),
            }
            first += slice.logits;
        }
        let drawn = draw(&logits, &draws)?;
        let values = if seen.is_empty() {
            Vec::new()
        } else if seen.len() == rows {
            logits.flatten_all()?.to_vec1()?
        } else {
            let seen = Tensor::new(seen, logits.device())?;
            let seen = logits.index_select(&seen, 0)?;
            seen.flatten_all()?.to_vec1()?
        };
        Ok(Logits {
            values,
            vocab,
            drawn,
        })
    })
}
