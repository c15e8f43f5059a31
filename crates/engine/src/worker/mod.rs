//! The one thread that owns the model, its device and the cache.

mod encode;
mod features;
mod guard;
mod step;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use vlmd_backend::{BLOCK_TOKENS, ImageInput, KvCache, Model};
use vlmd_kernels::{Draw, Terms};

use crate::batch::Slice;
use crate::config::EngineConfig;
use crate::pacer::{Allowance, Pacer, Waits};
use crate::request::RequestError;
use crate::rows::Need;
use crate::scheduler::{self, Demand, Policy, Rank, Work};
use crate::sequence::Sequence;
use crate::speculation::Speculation;
use crate::stats::{Ending, Status};
use encode::Encoder;

/// What handles tell the worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// A newcomer.
    Submit(Box<Sequence>),
    /// Come to an end by then; `None` is no deadline.
    Shutdown(Option<Instant>),
}

/// The model does not answer any more.
struct Gone;

/// The engine's state, apart from the counters.
pub(crate) struct Worker {
    model: Box<dyn Model>,
    cache: KvCache,
    policy: Policy,
    speculation: Option<Speculation>,
    pacer: Pacer,
    status: Arc<Status>,
    commands: Receiver<Command>,
    draining: bool,
    deadline: Option<Instant>,
    /// The line, head first.
    waiting: BTreeMap<Rank, Vec<Sequence>>,
    /// Oldest first.
    running: Vec<Sequence>,
    encoder: Encoder,
}

impl Worker {
    pub(crate) fn new(
        model: Box<dyn Model>,
        cache: KvCache,
        config: &EngineConfig,
        status: Arc<Status>,
        commands: Receiver<Command>,
    ) -> Self {
        Self {
            model,
            cache,
            policy: Policy {
                max_num_seqs: config.max_num_seqs,
                max_num_batched_tokens: config.max_num_batched_tokens,
                max_prefill_chunk: config.max_prefill_chunk,
            },
            speculation: config.speculation,
            pacer: Pacer::new(config.max_step_stretch, config.max_num_seqs),
            encoder: Encoder::new(config.encoder_cache_bytes, Arc::clone(&status)),
            status,
            commands,
            draining: false,
            deadline: None,
            waiting: BTreeMap::new(),
            running: Vec::new(),
        }
    }

    /// Works until it is told to stop, nobody is left to tell it anything, or the model is gone.
    pub(crate) fn run(&mut self) {
        while self.receive() {
            let now = Instant::now();
            self.heed_cancellations();
            if self.deadline.is_some_and(|end| now >= end) {
                self.fail_all(&RequestError::ShuttingDown);
                continue;
            }
            self.end_overdue(now);
            self.admit();
            let allowance = self.allowance();
            self.encode(allowance.units);
            if let Err(Gone) = self.step(allowance.tokens) {
                tracing::error!("the model does not answer any more: the engine stops");
                // Before any stream ends, so that nobody who sees an end sees a ready engine.
                self.status.close();
                self.fail_all(&RequestError::StepFailed);
                return;
            }
        }
    }

    /// Takes what was sent. Sleeps while there is nothing to compute; since the head of the line
    /// always fits into an empty engine, nothing to compute means that nobody waits either, and
    /// a cancellation has nothing to wake up. False when all is done.
    fn receive(&mut self) -> bool {
        loop {
            let idle = self.waiting.is_empty() && self.running.is_empty();
            let command = if idle && !self.draining {
                let Ok(command) = self.commands.recv() else {
                    return false;
                };
                command
            } else {
                match self.commands.try_recv() {
                    Ok(command) => command,
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => return !idle,
                }
            };
            match command {
                Command::Submit(sequence) => self.line_up(*sequence),
                Command::Shutdown(deadline) => {
                    self.draining = true;
                    // A second call may bring the end forward, not put it off.
                    self.deadline = [self.deadline, deadline].into_iter().flatten().min();
                }
            }
        }
    }

    /// Puts a request into the line. Answers to one prompt have one place.
    fn line_up(&mut self, sequence: Sequence) {
        let place = self.waiting.entry(sequence.rank()).or_default();
        place.push(sequence);
    }

    fn heed_cancellations(&mut self) {
        self.waiting.retain(|_, place| {
            place.retain_mut(Sequence::heed_cancellation);
            !place.is_empty()
        });
        self.running.retain_mut(Sequence::heed_cancellation);
    }

    fn end_overdue(&mut self, now: Instant) {
        let overdue = |sequence: &mut Sequence| sequence.overdue(now).is_some();
        let waiting = self.waiting.values_mut();
        let mut late: Vec<Sequence> = waiting
            .flat_map(|place| place.extract_if(.., overdue))
            .collect();
        late.extend(self.running.extract_if(.., overdue));
        self.waiting.retain(|_, place| !place.is_empty());
        for sequence in late {
            if let Some(ending) = sequence.overdue(now) {
                sequence.end(&ending);
            }
        }
    }

    fn fail_all(&mut self, error: &RequestError) {
        let ending = Ending::Failed(error.clone());
        let waiting = std::mem::take(&mut self.waiting).into_values().flatten();
        for sequence in waiting.chain(self.running.drain(..)) {
            sequence.end(&ending);
        }
    }

    /// Gives seats to the head of the line.
    fn admit(&mut self) {
        while let Some(mut place) = self.waiting.first_entry() {
            let (pool, cross) = (&self.status.pool, &self.status.cross);
            // Places without anyone are removed at once.
            let Some(head) = place.get().last() else {
                place.remove();
                continue;
            };
            let demand = head.demand(pool);
            let free = Demand {
                blocks: pool.free(),
                cross_bytes: cross.free(),
            };
            if !scheduler::enters(demand, self.running.len(), free, &self.policy) {
                return;
            }
            let share = cross.take(demand.cross_bytes);
            let head = place.get_mut().pop();
            if place.get().is_empty() {
                place.remove();
            }
            if let Some(head) = head {
                self.enter(head, share);
            }
        }
    }

    fn enter(&mut self, mut head: Sequence, share: Option<crate::byte_budget::Share>) {
        let newcomer = !head.has_entered();
        let Some(cached) = share.and_then(|share| head.enter(share)) else {
            tracing::error!("a request was admitted for which there is no room");
            head.end(&Ending::STEP_FAILED);
            return;
        };
        if newcomer {
            let prompt = head.prompt_len() as u64;
            self.status.prompt_tokens.fetch_add(prompt, Relaxed);
            self.status.prefix_queries.fetch_add(prompt, Relaxed);
            self.status.prefix_hits.fetch_add(cached as u64, Relaxed);
        }
        self.encoder.recall(&mut head);
        let at = self
            .running
            .partition_point(|other| other.rank() <= head.rank());
        self.running.insert(at, head);
    }

    /// What the next step may carry beside decodes.
    fn allowance(&mut self) -> Allowance {
        let works: Vec<Work> = self.running.iter().map(Sequence::work).collect();
        let decodes = works
            .iter()
            .filter(|work| matches!(work, Work::Decode { .. }));
        self.pacer.allow(Waits {
            decodes: decodes.count(),
            prompt: works
                .iter()
                .any(|work| matches!(work, Work::Prefill { ready: 1.. })),
            picture: self
                .running
                .iter()
                .any(|sequence| sequence.unseen().next().is_some()),
        })
    }

    /// Gives the pictures of those that run a turn.
    fn encode(&mut self, units: usize) {
        if units == 0 {
            return;
        }
        let turn = self.encoder.turn(&*self.model, &mut self.running, units);
        if turn.units > 0 {
            self.pacer.observe_encoding(turn.units, turn.took);
            self.status.times.encode.time(turn.took);
        }
        let Some(failed) = turn.failed else {
            return;
        };
        let waits = |sequence: &mut Sequence| {
            let mut unseen = sequence.unseen().map(ImageInput::key);
            unseen.any(|key| key == failed)
        };
        for sequence in self.running.extract_if(.., waits).collect::<Vec<_>>() {
            sequence.end(&Ending::STEP_FAILED);
        }
    }

    /// Asks the model for one token after one token: the smallest sign of life.
    ///
    /// # Errors
    /// Why there was none.
    pub(crate) fn probe(&self) -> Result<(), String> {
        // At start all blocks are free; after a failed step those of its requests are.
        let mut blocks = self.status.pool.none();
        if !blocks.grow(1) {
            return Err("no block is free".to_owned());
        }
        let slice = Slice {
            known: &[0],
            rows: 0..1,
            blocks: blocks.ids(),
            max_len: BLOCK_TOKENS,
            spans: &[],
            cross: &[],
            features: &[],
            logits: 1,
        };
        let greedy = Draw {
            row: 0,
            terms: Terms {
                temperature: 0.0,
                top_k: None,
                top_p: 1.0,
                min_p: 0.0,
            },
            number: 0,
        };
        let need = Need::Tokens {
            draws: vec![greedy],
            voices: 1,
        };
        step::forward(&*self.model, &self.cache, &[slice], &[need]).map(|_| ())
    }
}
