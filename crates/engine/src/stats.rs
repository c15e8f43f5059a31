//! Counters of the engine, and the account of every request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::block_pool::BlockPool;
use crate::byte_budget::ByteBudget;
use crate::request::{Event, FinishReason, RequestError};

/// What the engine is doing and has done since it started. A snapshot of atomics: taking it
/// neither waits for a step nor delays one.
///
/// Every request that was taken is, at any time, either waiting, running, or counted in exactly
/// one of `finished_stop`, `finished_length`, `cancelled` and `failed`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that wait for a seat.
    pub waiting: usize,
    /// Requests that have one.
    pub running: usize,
    /// Blocks of the KV cache.
    pub blocks_total: usize,
    /// Blocks that belong to running requests.
    pub blocks_used: usize,
    /// Bytes beside the KV cache, for what answers look at by cross-attention.
    pub cross_bytes_total: usize,
    /// Those that belong to running requests.
    pub cross_bytes_used: usize,
    /// Tokens of prompts that were computed.
    pub tokens_prefilled: u64,
    /// Tokens of answers that were sent.
    pub tokens_generated: u64,
    /// Pictures that were encoded.
    pub images_encoded: u64,
    /// Answers that ended at a stop token.
    pub finished_stop: u64,
    /// Answers that ended at their greatest length.
    pub finished_length: u64,
    /// Requests whose stream was dropped before they ended.
    pub cancelled: u64,
    /// Requests that ended in `Failed`.
    pub failed: u64,
    /// Forward passes that succeeded.
    pub steps: u64,
    /// Forward passes that failed.
    pub steps_failed: u64,
    /// How long the last forward pass took.
    pub last_step: Duration,
}

/// The live counters, shared by handles, requests and worker.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) pool: BlockPool,
    pub(crate) cross: ByteBudget,
    /// No newcomers: the engine was told to shut down.
    draining: AtomicBool,
    /// The worker has stopped computing.
    gone: AtomicBool,
    waiting: AtomicUsize,
    running: AtomicUsize,
    pub(crate) tokens_prefilled: AtomicU64,
    tokens_generated: AtomicU64,
    pub(crate) images_encoded: AtomicU64,
    finished_stop: AtomicU64,
    finished_length: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    steps: AtomicU64,
    pub(crate) steps_failed: AtomicU64,
    last_step_nanos: AtomicU64,
}

impl Status {
    pub(crate) fn new(pool: BlockPool, cross: ByteBudget) -> Self {
        Self {
            pool,
            cross,
            draining: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            tokens_prefilled: AtomicU64::new(0),
            tokens_generated: AtomicU64::new(0),
            images_encoded: AtomicU64::new(0),
            finished_stop: AtomicU64::new(0),
            finished_length: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            steps_failed: AtomicU64::new(0),
            last_step_nanos: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.draining.load(Relaxed) && !self.gone.load(Relaxed)
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    pub(crate) fn close(&self) {
        self.gone.store(true, Relaxed);
    }

    /// Why a request ends that the worker did not end itself.
    fn lost(&self) -> RequestError {
        if self.draining.load(Relaxed) {
            RequestError::ShuttingDown
        } else {
            RequestError::StepFailed
        }
    }

    pub(crate) fn count_step(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.last_step_nanos.store(nanos, Relaxed);
        self.steps.fetch_add(1, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Stats {
        Stats {
            waiting: self.waiting.load(Relaxed),
            running: self.running.load(Relaxed),
            blocks_total: self.pool.total(),
            blocks_used: self.pool.used(),
            cross_bytes_total: self.cross.total(),
            cross_bytes_used: self.cross.used(),
            tokens_prefilled: self.tokens_prefilled.load(Relaxed),
            tokens_generated: self.tokens_generated.load(Relaxed),
            images_encoded: self.images_encoded.load(Relaxed),
            finished_stop: self.finished_stop.load(Relaxed),
            finished_length: self.finished_length.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            failed: self.failed.load(Relaxed),
            steps: self.steps.load(Relaxed),
            steps_failed: self.steps_failed.load(Relaxed),
            last_step: Duration::from_nanos(self.last_step_nanos.load(Relaxed)),
        }
    }
}

/// How the worker ends a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    Finished(FinishReason),
    Failed(RequestError),
}

/// A request's place in the counters and its end of the stream.
///
/// Dropping it is what ends a request: it gives the place back, counts the ending and sends the
/// last event, in this order. A request that is dropped without a word was cancelled if its
/// client has gone; else it was lost, on the way out of a panic or with the command channel, and
/// fails. So each is accounted for once, whatever happens.
#[derive(Debug)]
pub(crate) struct Ticket {
    status: Arc<Status>,
    events: UnboundedSender<Event>,
    running: bool,
    ending: Option<Ending>,
}

impl Ticket {
    /// A place in the line, or the line's length if that is `bound` already.
    pub(crate) fn queue(
        status: &Arc<Status>,
        bound: usize,
        events: UnboundedSender<Event>,
    ) -> Result<Self, usize> {
        status
            .waiting
            .fetch_update(Relaxed, Relaxed, |n| (n < bound).then_some(n + 1))?;
        Ok(Self {
            status: Arc::clone(status),
            events,
            running: false,
            ending: None,
        })
    }

    /// Moves from the line to a seat.
    pub(crate) fn run(&mut self) {
        self.running = true;
        self.status.running.fetch_add(1, Relaxed);
        self.status.waiting.fetch_sub(1, Relaxed);
    }

    /// Sends a token of the answer. Nothing happens if the client has gone: the worker sees that
    /// before its next step.
    pub(crate) fn send(&self, token: Event) {
        self.status.tokens_generated.fetch_add(1, Relaxed);
        // An error means that the client has gone, which is dealt with between steps.
        let _ = self.events.send(token);
    }

    /// Has the client dropped its stream?
    pub(crate) fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }

    /// Fixes what will be said when the request is dropped.
    pub(crate) fn end(&mut self, ending: Ending) {
        self.ending = Some(ending);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let status = &self.status;
        let place = if self.running {
            &status.running
        } else {
            &status.waiting
        };
        place.fetch_sub(1, Relaxed);
        let (counter, last) = match self.ending.take() {
            Some(Ending::Finished(reason)) => {
                let counter = match reason {
                    FinishReason::Stop(_) | FinishReason::Complete => &status.finished_stop,
                    FinishReason::Length => &status.finished_length,
                };
                (counter, Event::Finished(reason))
            }
            Some(Ending::Failed(error)) => (&status.failed, Event::Failed(error)),
            None if self.events.is_closed() => {
                status.cancelled.fetch_add(1, Relaxed);
                return;
            }
            None => (&status.failed, Event::Failed(status.lost())),
        };
        counter.fetch_add(1, Relaxed);
        // As in `send`.
        let _ = self.events.send(last);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    fn status() -> Arc<Status> {
        Arc::new(Status::new(BlockPool::new(8), ByteBudget::new(0)))
    }

    #[test]
    fn the_line_is_bounded_and_a_seat_leaves_it() {
        let status = status();
        let (events, _stream) = unbounded_channel();
        let mut first = Ticket::queue(&status, 1, events.clone()).unwrap();
        assert_eq!(Ticket::queue(&status, 1, events.clone()).unwrap_err(), 1);
        first.run();
        let _second = Ticket::queue(&status, 1, events).unwrap();
        let stats = status.snapshot();
        assert_eq!((stats.waiting, stats.running), (1, 1));
    }

    #[test]
    fn whatever_is_dropped_is_counted_once_and_told_why() {
        let finished = Ending::Finished(FinishReason::Length);
        let failed = Ending::Failed(RequestError::InvalidLogits);
        for (ending, event) in [
            (Some(finished), Event::Finished(FinishReason::Length)),
            (Some(failed), Event::Failed(RequestError::InvalidLogits)),
            (None, Event::Failed(RequestError::StepFailed)),
        ] {
            let status = status();
            let (events, mut stream) = unbounded_channel();
            let mut ticket = Ticket::queue(&status, 1, events).unwrap();
            if let Some(ending) = ending {
                ticket.end(ending);
            }
            drop(ticket);
            assert_eq!(stream.try_recv().unwrap(), event);
            let stats = status.snapshot();
            let ended = stats.finished_stop + stats.finished_length + stats.failed;
            assert_eq!((ended, stats.waiting, stats.running), (1, 0, 0));
        }
    }

    #[test]
    fn what_is_dropped_after_its_client_has_gone_was_cancelled() {
        let status = status();
        let (events, stream) = unbounded_channel();
        let mut ticket = Ticket::queue(&status, 1, events).unwrap();
        ticket.run();
        drop(stream);
        assert!(ticket.is_cancelled());
        drop(ticket);
        let stats = status.snapshot();
        assert_eq!((stats.cancelled, stats.failed, stats.running), (1, 0, 0));
    }

    #[test]
    fn a_request_lost_while_draining_is_told_of_the_shutdown() {
        let status = status();
        let (events, mut stream) = unbounded_channel();
        let ticket = Ticket::queue(&status, 1, events).unwrap();
        status.drain();
        drop(ticket);
        let last = stream.try_recv().unwrap();
        assert_eq!(last, Event::Failed(RequestError::ShuttingDown));
    }
}
