//! The one thread that owns the model, its device and the cache.

mod encode;
mod guard;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use vlmd_backend::{BLOCK_TOKENS, KvCache, Model, Step};

use crate::batch::{self, Slice};
use crate::request::RequestError;
use crate::scheduler::{self, Chunk, Demand, Policy};
use crate::sequence::{Pending, Sequence};
use crate::stats::{Ending, Status};
use guard::guarded;

/// What handles tell the worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// A newcomer.
    Submit(Box<Pending>),
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
    status: Arc<Status>,
    commands: Receiver<Command>,
    draining: bool,
    deadline: Option<Instant>,
    /// The line, head first.
    waiting: VecDeque<Pending>,
    /// Oldest first.
    running: Vec<Sequence>,
    /// Room for the sampler.
    scratch: Vec<u32>,
}

impl Worker {
    pub(crate) fn new(
        model: Box<dyn Model>,
        cache: KvCache,
        policy: Policy,
        status: Arc<Status>,
        commands: Receiver<Command>,
    ) -> Self {
        Self {
            model,
            cache,
            policy,
            status,
            commands,
            draining: false,
            deadline: None,
            waiting: VecDeque::new(),
            running: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Works until it is told to stop, nobody is left to tell it anything, or the model is gone.
    pub(crate) fn run(&mut self) {
        while self.receive() {
            self.drop_cancelled();
            if self.deadline.is_some_and(|end| Instant::now() >= end) {
                self.fail_all(&RequestError::ShuttingDown);
                continue;
            }
            self.admit();
            if let Err(Gone) = self.step() {
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
                Command::Submit(pending) => self.waiting.push_back(*pending),
                Command::Shutdown(deadline) => {
                    self.draining = true;
                    // A second call may bring the end forward, not put it off.
                    self.deadline = [self.deadline, deadline].into_iter().flatten().min();
                }
            }
        }
    }

    fn drop_cancelled(&mut self) {
        self.waiting.retain(|pending| !pending.is_cancelled());
        self.running.retain(|sequence| !sequence.is_cancelled());
    }

    fn fail_all(&mut self, error: &RequestError) {
        for pending in self.waiting.drain(..) {
            pending.end(Ending::Failed(error.clone()));
        }
        for sequence in self.running.drain(..) {
            sequence.end(Ending::Failed(error.clone()));
        }
    }

    /// Gives seats to the head of the line and encodes the newcomers' pictures.
    fn admit(&mut self) {
        let (pool, cross) = (&self.status.pool, &self.status.cross);
        let first_new = self.running.len();
        let free = Demand {
            blocks: pool.free(),
            cross_bytes: cross.free(),
        };
        let demands = self.waiting.iter().map(Pending::demand);
        let count = scheduler::admit(demands, first_new, free, &self.policy);
        for pending in self.waiting.drain(..count) {
            let demand = pending.demand();
            match (pool.take(demand.blocks), cross.take(demand.cross_bytes)) {
                (Some(blocks), Some(share)) => self.running.push(pending.admit(blocks, share)),
                _ => pending.end(Ending::Failed(RequestError::StepFailed)),
            }
        }
        if first_new == self.running.len() {
            return;
        }
        let newcomers = &self.running[first_new..];
        let images: Vec<_> = newcomers.iter().map(Sequence::images).collect();
        let encoded = encode::encode(&*self.model, &images);
        let newcomers = self.running.split_off(first_new);
        for (mut sequence, features) in newcomers.into_iter().zip(encoded) {
            match features {
                Ok(features) => {
                    let images = features.len() as u64;
                    self.status.images_encoded.fetch_add(images, Relaxed);
                    sequence.set_features(features);
                    self.running.push(sequence);
                }
                Err(reason) => {
                    tracing::error!(reason, "a request's pictures could not be encoded");
                    sequence.end(Ending::Failed(RequestError::StepFailed));
                }
            }
        }
    }

    /// Computes one step. A failure ends the requests that were part of it.
    fn step(&mut self) -> Result<(), Gone> {
        let pending: Vec<usize> = self.running.iter().map(Sequence::pending).collect();
        let plan = scheduler::plan(&pending, &self.policy);
        if plan.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let slices: Vec<_> = plan
            .iter()
            .map(|chunk| self.running[chunk.sequence].slice(chunk.tokens.get()))
            .collect();
        match forward(&*self.model, &self.cache, &slices) {
            Ok(logits) => {
                self.status.count_step(started.elapsed());
                self.advance(&plan, logits);
                Ok(())
            }
            Err(reason) => {
                tracing::error!(reason, requests = plan.len(), "a step failed");
                self.status.steps_failed.fetch_add(1, Relaxed);
                let failed = plan.iter().map(|chunk| chunk.sequence);
                let endings =
                    failed.map(|sequence| (sequence, Ending::Failed(RequestError::StepFailed)));
                self.end(endings.collect());
                self.probe().map_err(|reason| {
                    tracing::error!(reason, "the probe after a failed step failed, too");
                    Gone
                })
            }
        }
    }

    /// Takes note of a step that succeeded: its tokens are cached, and `logits` has a row for
    /// each chunk that reached the end of what its sequence knew.
    fn advance(&mut self, plan: &[Chunk], mut logits: Vec<f32>) {
        let mut rows = logits.chunks_exact_mut(self.model.spec().vocab_size);
        let mut endings = Vec::new();
        for chunk in plan {
            let sequence = &mut self.running[chunk.sequence];
            let prefilled = sequence.advance(chunk.tokens.get());
            self.status
                .tokens_prefilled
                .fetch_add(prefilled as u64, Relaxed);
            if sequence.pending() > 0 {
                continue;
            }
            let Some(row) = rows.next() else { break };
            let scratch = &mut self.scratch;
            let ending = guarded(|| Ok(sequence.sample(row, scratch))).unwrap_or_else(|reason| {
                tracing::error!(reason, "sampling failed");
                Some(Ending::Failed(RequestError::StepFailed))
            });
            endings.extend(ending.map(|ending| (chunk.sequence, ending)));
        }
        self.end(endings);
    }

    /// Ends these of the running; the others keep their order.
    fn end(&mut self, mut endings: Vec<(usize, Ending)>) {
        // From behind, so that the indices that are still to come stay right.
        endings.sort_unstable_by_key(|(sequence, _)| std::cmp::Reverse(*sequence));
        for (sequence, ending) in endings {
            self.running.remove(sequence).end(ending);
        }
    }

    /// Asks the model for one token after one token: the smallest sign of life.
    ///
    /// # Errors
    /// Why there was none.
    pub(crate) fn probe(&self) -> Result<(), String> {
        // At start all blocks are free; after a failed step those of its requests are.
        let blocks = self.status.pool.take(1).ok_or("no block is free")?;
        let slice = Slice {
            known: &[0],
            rows: 0..1,
            blocks: blocks.ids(),
            max_len: BLOCK_TOKENS,
            spans: &[],
            cross: &[],
            features: &[],
        };
        forward(&*self.model, &self.cache, &[slice]).map(|_| ())
    }
}

/// One forward pass. Gives the logits of the wanted rows, flat.
fn forward(model: &dyn Model, cache: &KvCache, slices: &[Slice<'_>]) -> Result<Vec<f32>, String> {
    guarded(|| {
        let step: Step = batch::build(slices)?;
        let logits = model.forward(&step, cache)?;
        let rows = step.logit_rows.len();
        if rows == 0 {
            return Ok(Vec::new());
        }
        let (given, vocab) = logits.dims2()?;
        if (given, vocab) != (rows, model.spec().vocab_size) {
            candle_core::bail!("{rows} rows of logits were wanted, [{given}, {vocab}] came");
        }
        logits.flatten_all()?.to_vec1()
    })
}
