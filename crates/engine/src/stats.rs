//! Counters of the engine, and the account of every request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::block_pool::BlockPool;
use crate::byte_budget::ByteBudget;
use crate::request::{Event, FinishReason, RequestError, SubmitError};

/// Guesses of one step that are counted apart.
pub const SPEC_POSITIONS: usize = 16;

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
    /// Of those, the ones whose time was over.
    pub timed_out: u64,
    /// Of those, the ones whose logits were no numbers.
    pub corrupted: u64,
    /// Requests that were refused because the line was full.
    pub rejected_requests: u64,
    /// Requests that were refused because the line's prompts were too long together.
    pub rejected_tokens: u64,
    /// Tokens of the prompts in the line.
    pub waiting_tokens: usize,
    /// How often a running request had to step back for lack of blocks.
    pub preemptions: u64,
    /// Tokens of prompts that were looked up among cached prefixes.
    pub prefix_queries: u64,
    /// Those that were found.
    pub prefix_hits: u64,
    /// Pictures that were looked up among encoded ones.
    pub encoder_queries: u64,
    /// Those that were found.
    pub encoder_hits: u64,
    /// Bytes of features that are kept for pictures that come again.
    pub encoder_cache_bytes: u64,
    /// Steps of single requests that computed guesses.
    pub spec_drafts: u64,
    /// Tokens that were guessed.
    pub spec_draft_tokens: u64,
    /// Those that were right.
    pub spec_accepted_tokens: u64,
    /// How often the first, the second, ... guess of a step was right; the last counts all beyond.
    pub spec_accepted_per_position: [u64; SPEC_POSITIONS],
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
    timed_out: AtomicU64,
    corrupted: AtomicU64,
    rejected_requests: AtomicU64,
    rejected_tokens: AtomicU64,
    waiting_tokens: AtomicUsize,
    pub(crate) preemptions: AtomicU64,
    pub(crate) prefix_queries: AtomicU64,
    pub(crate) prefix_hits: AtomicU64,
    pub(crate) encoder_queries: AtomicU64,
    pub(crate) encoder_hits: AtomicU64,
    pub(crate) encoder_cache_bytes: AtomicU64,
    spec_drafts: AtomicU64,
    spec_draft_tokens: AtomicU64,
    spec_accepted_tokens: AtomicU64,
    spec_accepted_per_position: [AtomicU64; SPEC_POSITIONS],
    steps: AtomicU64,
    pub(crate) steps_failed: AtomicU64,
    last_step_nanos: AtomicU64,
}

impl Status {
    pub(crate) fn new(pool: BlockPool, cross: ByteBudget) -> Self {
        Self {
            pool,
            cross,
            draining: AtomicBool::default(),
            gone: AtomicBool::default(),
            waiting: AtomicUsize::default(),
            running: AtomicUsize::default(),
            tokens_prefilled: AtomicU64::default(),
            tokens_generated: AtomicU64::default(),
            images_encoded: AtomicU64::default(),
            finished_stop: AtomicU64::default(),
            finished_length: AtomicU64::default(),
            cancelled: AtomicU64::default(),
            failed: AtomicU64::default(),
            timed_out: AtomicU64::default(),
            corrupted: AtomicU64::default(),
            rejected_requests: AtomicU64::default(),
            rejected_tokens: AtomicU64::default(),
            waiting_tokens: AtomicUsize::default(),
            preemptions: AtomicU64::default(),
            prefix_queries: AtomicU64::default(),
            prefix_hits: AtomicU64::default(),
            encoder_queries: AtomicU64::default(),
            encoder_hits: AtomicU64::default(),
            encoder_cache_bytes: AtomicU64::default(),
            spec_drafts: AtomicU64::default(),
            spec_draft_tokens: AtomicU64::default(),
            spec_accepted_tokens: AtomicU64::default(),
            spec_accepted_per_position: Default::default(),
            steps: AtomicU64::default(),
            steps_failed: AtomicU64::default(),
            last_step_nanos: AtomicU64::default(),
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

    /// Notes that `guessed` tokens were guessed in a request's step and the first `right` of them
    /// were right.
    pub(crate) fn count_guesses(&self, guessed: usize, right: usize) {
        if guessed == 0 {
            return;
        }
        self.spec_drafts.fetch_add(1, Relaxed);
        self.spec_draft_tokens.fetch_add(guessed as u64, Relaxed);
        self.spec_accepted_tokens.fetch_add(right as u64, Relaxed);
        for position in 0..right {
            let counted = position.min(SPEC_POSITIONS - 1);
            self.spec_accepted_per_position[counted].fetch_add(1, Relaxed);
        }
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
            timed_out: self.timed_out.load(Relaxed),
            corrupted: self.corrupted.load(Relaxed),
            rejected_requests: self.rejected_requests.load(Relaxed),
            rejected_tokens: self.rejected_tokens.load(Relaxed),
            waiting_tokens: self.waiting_tokens.load(Relaxed),
            preemptions: self.preemptions.load(Relaxed),
            prefix_queries: self.prefix_queries.load(Relaxed),
            prefix_hits: self.prefix_hits.load(Relaxed),
            encoder_queries: self.encoder_queries.load(Relaxed),
            encoder_hits: self.encoder_hits.load(Relaxed),
            encoder_cache_bytes: self.encoder_cache_bytes.load(Relaxed),
            spec_drafts: self.spec_drafts.load(Relaxed),
            spec_draft_tokens: self.spec_draft_tokens.load(Relaxed),
            spec_accepted_tokens: self.spec_accepted_tokens.load(Relaxed),
            spec_accepted_per_position: self
                .spec_accepted_per_position
                .each_ref()
                .map(|count| count.load(Relaxed)),
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

impl Ending {
    pub(crate) const TIMED_OUT: Self = Self::Failed(RequestError::TimedOut);
    pub(crate) const QUEUED_TOO_LONG: Self = Self::Failed(RequestError::QueuedTooLong);
    pub(crate) const STEP_FAILED: Self = Self::Failed(RequestError::StepFailed);
}

/// How long the line may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    /// Answers that wait.
    pub(crate) answers: usize,
    /// Tokens of their prompts.
    pub(crate) tokens: usize,
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
    /// Tokens of the prompt that count as waiting while it does.
    tokens: usize,
    ending: Option<Ending>,
}

impl Ticket {
    /// A place in the line for an answer to a prompt of `tokens` tokens, or why there is none.
    ///
    /// A prompt that is longer than the line may be finds a place while nobody else waits.
    pub(crate) fn queue(
        status: &Arc<Status>,
        line: Line,
        tokens: usize,
        events: UnboundedSender<Event>,
    ) -> Result<Self, SubmitError> {
        let join = |n: usize| (n < line.answers).then_some(n + 1);
        let joined = status.waiting.fetch_update(Relaxed, Relaxed, join);
        if let Err(waiting) = joined {
            status.rejected_requests.fetch_add(1, Relaxed);
            let limit = line.answers;
            return Err(SubmitError::QueueFull { waiting, limit });
        }
        let add = |sum: usize| {
            let more = sum.saturating_add(tokens);
            (sum == 0 || more <= line.tokens).then_some(more)
        };
        if let Err(waiting) = status.waiting_tokens.fetch_update(Relaxed, Relaxed, add) {
            status.waiting.fetch_sub(1, Relaxed);
            status.rejected_tokens.fetch_add(1, Relaxed);
            return Err(SubmitError::QueueTokens {
                waiting,
                prompt: tokens,
                limit: line.tokens,
            });
        }
        Ok(Self {
            status: Arc::clone(status),
            events,
            running: false,
            tokens,
            ending: None,
        })
    }

    /// Moves from the line to a seat.
    pub(crate) fn run(&mut self) {
        if !self.running {
            self.running = true;
            self.status.running.fetch_add(1, Relaxed);
            self.leave_line();
        }
    }

    /// Moves back to the line.
    pub(crate) fn requeue(&mut self) {
        if self.running {
            self.running = false;
            self.status.waiting.fetch_add(1, Relaxed);
            self.status.waiting_tokens.fetch_add(self.tokens, Relaxed);
            self.status.running.fetch_sub(1, Relaxed);
        }
    }

    fn leave_line(&self) {
        self.status.waiting.fetch_sub(1, Relaxed);
        self.status.waiting_tokens.fetch_sub(self.tokens, Relaxed);
    }

    /// Sends what is no token.
    pub(crate) fn tell(&self, event: Event) {
        // As in `send`.
        let _ = self.events.send(event);
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
        if self.running {
            status.running.fetch_sub(1, Relaxed);
        } else {
            self.leave_line();
        }
        let (counter, last) = match self.ending.take() {
            Some(Ending::Finished(reason)) => {
                let counter = match reason {
                    FinishReason::Stop(_) | FinishReason::Complete => &status.finished_stop,
                    FinishReason::Length => &status.finished_length,
                };
                (counter, Event::Finished(reason))
            }
            Some(Ending::Failed(error)) => {
                match error {
                    RequestError::TimedOut | RequestError::QueuedTooLong => {
                        status.timed_out.fetch_add(1, Relaxed);
                    }
                    RequestError::InvalidLogits => {
                        status.corrupted.fetch_add(1, Relaxed);
                    }
                    _ => {}
                }
                (&status.failed, Event::Failed(error))
            }
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

    const LINE: Line = Line {
        answers: 2,
        tokens: 10,
    };

    #[test]
    fn the_line_is_bounded_and_a_seat_leaves_it() {
        let status = status();
        let (events, _stream) = unbounded_channel();
        let queue = |tokens| Ticket::queue(&status, LINE, tokens, events.clone());
        let counts = || {
            let stats = status.snapshot();
            (stats.waiting, stats.waiting_tokens, stats.running)
        };
        let mut first = queue(6).unwrap();
        assert_eq!(
            queue(5).unwrap_err(),
            SubmitError::QueueTokens {
                waiting: 6,
                prompt: 5,
                limit: 10
            }
        );
        let second = queue(4).unwrap();
        assert_eq!(
            queue(0).unwrap_err(),
            SubmitError::QueueFull {
                waiting: 2,
                limit: 2
            }
        );
        first.run();
        assert_eq!(counts(), (1, 4, 1));
        drop(second);
        assert_eq!(counts(), (0, 0, 1));
        let _long = queue(99).unwrap();
        assert_eq!(counts(), (1, 99, 1), "nobody else waits");
        first.requeue();
        assert_eq!(counts(), (2, 105, 0));
        drop(first);
        assert_eq!(counts(), (1, 99, 0));
        let stats = status.snapshot();
        assert_eq!((stats.rejected_requests, stats.rejected_tokens), (1, 1));
    }

    #[test]
    fn whatever_is_dropped_is_counted_once_and_told_why() {
        let finished = Ending::Finished(FinishReason::Length);
        let failed = Ending::Failed(RequestError::InvalidLogits);
        for (ending, event) in [
            (
                Some(Ending::TIMED_OUT),
                Event::Failed(RequestError::TimedOut),
            ),
            (Some(finished), Event::Finished(FinishReason::Length)),
            (Some(failed), Event::Failed(RequestError::InvalidLogits)),
            (None, Event::Failed(RequestError::StepFailed)),
        ] {
            let status = status();
            let (events, mut stream) = unbounded_channel();
            let mut ticket = Ticket::queue(&status, LINE, 1, events).unwrap();
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
        let mut ticket = Ticket::queue(&status, LINE, 1, events).unwrap();
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
        let ticket = Ticket::queue(&status, LINE, 1, events).unwrap();
        status.drain();
        drop(ticket);
        let last = stream.try_recv().unwrap();
        assert_eq!(last, Event::Failed(RequestError::ShuttingDown));
    }
}
