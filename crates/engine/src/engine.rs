//! The handle.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc::unbounded_channel, watch};
use vlmd_backend::{ImageInput, KvCache, Model, ModelSpec};

use crate::block_pool::BlockPool;
use crate::byte_budget::ByteBudget;
use crate::config::{EngineConfig, StartError};
use crate::prefix::Chain;
use crate::prompt;
use crate::request::{GenerateRequest, SubmitError};
use crate::sampler::Sampler;
use crate::scheduler::Rank;
use crate::sequence::{Deadlines, Parts, Prompt, Scores, Sequence, Voice};
use crate::stats::{Distributions, Line, Stats, Status, Ticket};
use crate::stream::EventStream;
use crate::worker::{Command, Worker};

/// A running engine. Clones are handles to the same one; when the last is dropped the worker
/// finishes what it has taken and ends.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    commands: mpsc::Sender<Command>,
    status: Arc<Status>,
    /// Closes when the worker's thread ends.
    alive: watch::Receiver<()>,
    spec: ModelSpec,
    max_model_len: usize,
    line: Line,
    prefix_cache: bool,
    started: Instant,
    /// Of the next request.
    numbers: AtomicU64,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("spec", &self.inner.spec)
            .field("max_model_len", &self.inner.max_model_len)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// A request that was found right, with a ticket for each answer; `None` without any.
    fn sequence(
        &self,
        request: GenerateRequest,
        cross_bytes: usize,
        tickets: Vec<Ticket>,
    ) -> Option<Sequence> {
        let GenerateRequest {
            mut prompt,
            sampling,
            limits,
            constraint,
            choices: _,
            service,
            prompt_logprobs,
        } = request;
        let now = Instant::now();
        let times = &self.status.times;
        let len = prompt.tokens.len();
        times.prompt_tokens.number(len);
        times.max_tokens.number(limits.max_tokens);
        times.choices.number(tickets.len());
        let max_len = len
            .saturating_add(limits.max_tokens.max(1))
            .min(self.max_model_len);
        let voice = |choice: u64, ticket| {
            let mut sampling = sampling.clone();
            // Equal seeds would give equal answers.
            sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(choice));
            let text = prompt::text(&prompt);
            let sampler = Sampler::new(sampling, constraint.clone(), text);
            let sampler = sampler.after(&prompt.tokens);
            Voice { sampler, ticket }
        };
        let voices = (0..).zip(tickets);
        let mut voices: VecDeque<Voice> = voices
            .map(|(choice, ticket)| voice(choice, ticket))
            .collect();
        let voice = voices.pop_front()?;
        // Fillers may be any number, and a model may look up all rows before it splices.
        for span in &prompt.spans {
            prompt.tokens[span.tokens.clone()].fill(0);
        }
        let context = limits.context.unwrap_or(max_len).min(self.max_model_len);
        let long = self.spec.long_beyond.is_some_and(|most| context > most);
        let arrived = now.duration_since(self.started).as_millis();
        let arrived = u64::try_from(arrived).unwrap_or(u64::MAX);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let within = |time: Option<Duration>| time.and_then(|time| now.checked_add(time));
        let shared = Prompt {
            len,
            keys: prompt.images.iter().map(ImageInput::key).collect(),
            spans: prompt.spans,
            cross: prompt.cross,
            images: prompt.images,
            limits,
            max_len,
            context: context.max(max_len),
            cross_bytes,
        };
        let parts = Parts {
            rank: Rank::new(arrived, service.priority, number),
            prompt: Arc::new(shared),
            tokens: prompt.tokens,
            chain: self
                .prefix_cache
                .then(|| Chain::new(&service.cache_salt, long)),
            scores: prompt_logprobs.map(|top| Scores {
                top,
                tokens: Vec::new(),
            }),
            deadlines: Deadlines {
                entry: within(service.entry_within),
                end: within(service.end_within),
            },
            voice,
            others: voices,
        };
        Some(Sequence::new(parts, &self.status.pool))
    }
}

impl Engine {
    /// Allocates the cache, starts the worker and waits until the model has answered a first,
    /// tiny forward pass: an engine that exists is ready. Blocks meanwhile, so it does not belong
    /// on an async worker.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(model: Box<dyn Model>, config: EngineConfig) -> Result<Self, StartError> {
        let spec = model.spec().clone();
        let max_model_len = config.resolve(&spec)?;
        let blocks = config.kv_blocks;
        let cache = KvCache::new(&spec, blocks, config.kv_dtype, model.device())
            .map_err(|source| StartError::Cache { blocks, source })?;
        // `resolve` bounds the blocks far below `u32::MAX`.
        let pool = BlockPool::new(blocks as u32);
        let status = Arc::new(Status::new(pool, ByteBudget::new(config.cross_bytes)));
        let (commands, inbox) = mpsc::channel();
        let worker = Worker::new(model, cache, &config, Arc::clone(&status), inbox);

        let (alive_guard, alive) = watch::channel(());
        let (warm, warmed) = mpsc::channel();
        let theirs = Arc::clone(&status);
        thread::Builder::new()
            .name("vlmd-engine".to_owned())
            .spawn(move || {
                // Dropped last, however the thread ends.
                let _alive = alive_guard;
                live(worker, &theirs, &warm);
            })?;
        warmed
            .recv()
            .unwrap_or_else(|_| Err("the engine's thread ended".to_owned()))
            .map_err(StartError::WarmUp)?;
        Ok(Self {
            inner: Arc::new(Inner {
                commands,
                status,
                alive,
                spec,
                max_model_len,
                line: Line {
                    answers: config.max_queue,
                    tokens: config.max_queued_tokens,
                },
                prefix_cache: config.prefix_cache,
                started: Instant::now(),
                numbers: AtomicU64::new(0),
            }),
        })
    }

    /// Puts a request into the line and gives the events of each of its answers, at least one. An
    /// answer that would outgrow [`Engine::max_model_len`] ends there with `Length`.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub fn submit(&self, request: GenerateRequest) -> Result<Vec<EventStream>, SubmitError> {
        self.submit_to(request, self.inner.line)
    }

    /// Goes on with something that has been taken already, however long the line is.
    pub(crate) fn submit_anyway(
        &self,
        request: GenerateRequest,
    ) -> Result<Vec<EventStream>, SubmitError> {
        self.submit_to(request, Line::ENDLESS)
    }

    fn submit_to(
        &self,
        request: GenerateRequest,
        line: Line,
    ) -> Result<Vec<EventStream>, SubmitError> {
        let inner = &*self.inner;
        if !inner.status.is_open() {
            return Err(SubmitError::NotRunning);
        }
        prompt::check(&request.prompt, &inner.spec).map_err(SubmitError::InvalidPrompt)?;
        let prompt = request.prompt.tokens.len();
        let limit = inner.max_model_len;
        if prompt >= limit {
            return Err(SubmitError::TooLong { prompt, limit });
        }
        let needed = request
            .prompt
            .cross_features()
            .saturating_mul(inner.spec.cross_feature_bytes);
        let cross_limit = inner.status.cross.total();
        if needed > cross_limit {
            return Err(SubmitError::PicturesTooLarge {
                needed,
                limit: cross_limit,
            });
        }
        let answers = request.choices.max(1);
        let (events, streams): (Vec<_>, Vec<_>) = (0..answers).map(|_| unbounded_channel()).unzip();
        let tickets = Ticket::queue(&inner.status, line, prompt, events)?;
        let courses = tickets.iter().map(|ticket| Some(ticket.course()));
        let streams = streams.into_iter().zip(courses);
        let streams = streams
            .map(|(events, course)| EventStream::new(events, course))
            .collect();
        let sequence = Box::new(
            inner
                .sequence(request, needed, tickets)
                .ok_or(SubmitError::NotRunning)?,
        );
        inner
            .commands
            .send(Command::Submit(sequence))
            .map_err(|_| SubmitError::NotRunning)?;
        Ok(streams)
    }

    /// Most tokens of one request, prompt and answer together: the configured bound or what the
    /// cache holds.
    #[must_use]
    pub fn max_model_len(&self) -> usize {
        self.inner.max_model_len
    }

    /// Token ids of a prompt must be below.
    #[must_use]
    pub fn input_vocab_size(&self) -> usize {
        self.inner.spec.input_vocab_size
    }

    /// What the engine is doing and has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.status.snapshot()
    }

    /// How long requests took and how large they were.
    #[must_use]
    pub fn distributions(&self) -> Distributions {
        self.inner.status.distributions()
    }

    /// Does the model answer, and are newcomers welcome? False for good once the worker is gone
    /// or [`Engine::shutdown`] was called.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inner.status.is_open()
    }

    /// Refuses newcomers from now on. What was taken, running or waiting, has `drain` to finish;
    /// the rest then fails with `ShuttingDown`, after the step that is being computed. A second
    /// call may bring the end forward. Returns at once; [`Engine::stopped`] waits.
    pub fn shutdown(&self, drain: Duration) {
        self.inner.status.drain();
        // An end beyond what the clock can express is no deadline.
        let deadline = Instant::now().checked_add(drain);
        // An error means that the worker has ended already.
        let _ = self.inner.commands.send(Command::Shutdown(deadline));
    }

    /// Waits until the worker has ended and every stream has had its last event.
    pub async fn stopped(&self) {
        let mut alive = self.inner.alive.clone();
        while alive.changed().await.is_ok() {}
    }
}

/// The life of the worker's thread.
fn live(mut worker: Worker, status: &Status, warm: &mpsc::Sender<Result<(), String>>) {
    let answer = worker.probe();
    let answered = answer.is_ok();
    // `start` waits for this; were it gone, the channel of commands would be, too.
    let _ = warm.send(answer);
    if answered {
        // A step's panics are caught where they happen. Another one is a fault of the engine
        // itself: it ends here, and dropping the worker ends every stream.
        let run = catch_unwind(AssertUnwindSafe(|| worker.run()));
        if run.is_err() {
            tracing::error!("the engine's thread panicked: the engine stops");
        }
    }
    status.close();
    drop(worker);
}
