//! Counters of the engine, and the account of every request.

mod ticket;
mod times;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::block_pool::BlockPool;
use crate::byte_budget::ByteBudget;
use crate::request::RequestError;
use times::Times;

pub use ticket::Timings;
pub(crate) use ticket::{Course, Ending, Line, Ticket};
pub use times::Distributions;

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
    /// Tokens of prompts that began to run, whether computed or found.
    pub prompt_tokens: u64,
    /// Tokens of prompts that were computed, again where a request had to step back.
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
    pub(crate) times: Times,
    /// No newcomers: the engine was told to shut down.
    draining: AtomicBool,
    /// The worker has stopped computing.
    gone: AtomicBool,
    waiting: AtomicUsize,
    running: AtomicUsize,
    pub(crate) prompt_tokens: AtomicU64,
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
            times: Times::new(),
            draining: AtomicBool::default(),
            gone: AtomicBool::default(),
            waiting: AtomicUsize::default(),
            running: AtomicUsize::default(),
            prompt_tokens: AtomicU64::default(),
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

    pub(crate) fn count_step(&self, tokens: usize, took: Duration) {
        self.times.step_tokens.number(tokens);
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

    pub(crate) fn distributions(&self) -> Distributions {
        self.times.snapshot()
    }

    pub(crate) fn snapshot(&self) -> Stats {
        Stats {
            waiting: self.waiting.load(Relaxed),
            running: self.running.load(Relaxed),
            blocks_total: self.pool.total(),
            blocks_used: self.pool.used(),
            cross_bytes_total: self.cross.total(),
            cross_bytes_used: self.cross.used(),
            prompt_tokens: self.prompt_tokens.load(Relaxed),
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
