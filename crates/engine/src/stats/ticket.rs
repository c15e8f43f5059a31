//! The account of one answer.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::Status;
use crate::request::{Event, FinishReason, RequestError, SubmitError};

/// Where the time of an answer went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// From submission to the first entry.
    pub queue: Duration,
    /// From the first entry to the first token, pictures included.
    pub prefill: Duration,
    /// Of that, until the last picture was encoded; zero without pictures or where they were
    /// known.
    pub encode: Duration,
    /// From the first token to the end.
    pub decode: Duration,
    /// Tokens of the prompt that were found in the cache.
    pub cached_tokens: usize,
    /// How often it had to step back.
    pub preemptions: u32,
}

/// When what happened to an answer.
#[derive(Debug)]
struct Timeline {
    queued: Instant,
    entered: Option<Instant>,
    seen: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
    tokens: usize,
    cached_tokens: usize,
    preemptions: u32,
}

impl Timeline {
    fn new() -> Self {
        Self {
            queued: Instant::now(),
            entered: None,
            seen: None,
            first: None,
            last: None,
            tokens: 0,
            cached_tokens: 0,
            preemptions: 0,
        }
    }

    fn timings(&self, end: Instant) -> Timings {
        let entered = self.entered.unwrap_or(end);
        let first = self.first.unwrap_or(end);
        Timings {
            queue: entered - self.queued,
            prefill: first - entered,
            encode: self.seen.map_or(Duration::ZERO, |seen| seen - entered),
            decode: end - first,
            cached_tokens: self.cached_tokens,
            preemptions: self.preemptions,
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

impl Line {
    pub(crate) const ENDLESS: Self = Self {
        answers: usize::MAX,
        tokens: usize::MAX,
    };
}

/// What the two ends of an answer's stream know in common.
#[derive(Debug)]
pub(crate) struct Course {
    timeline: Mutex<Timeline>,
    /// The reader has all that it wants.
    satisfied: AtomicBool,
}

impl Course {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            timeline: Mutex::new(Timeline::new()),
            satisfied: AtomicBool::new(false),
        })
    }

    fn timeline(&self) -> MutexGuard<'_, Timeline> {
        // Nothing that could panic runs under this lock.
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reader wants no more: what is there is the answer.
    pub(crate) fn satisfy(&self) -> Timings {
        self.satisfied.store(true, Relaxed);
        self.timeline().timings(Instant::now())
    }
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
    course: Arc<Course>,
    ending: Option<Ending>,
}

impl Ticket {
    /// Places in the line for all answers to a prompt of `tokens` tokens, or why there are none.
    ///
    /// A prompt that is longer than the line may be finds its place while nobody else waits.
    pub(crate) fn queue(
        status: &Arc<Status>,
        line: Line,
        tokens: usize,
        answers: Vec<UnboundedSender<Event>>,
    ) -> Result<Vec<Self>, SubmitError> {
        let count = answers.len();
        let join = |waiting: usize| {
            let more = waiting.saturating_add(count);
            (more <= line.answers).then_some(more)
        };
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
            status.waiting.fetch_sub(count, Relaxed);
            status.rejected_tokens.fetch_add(1, Relaxed);
            return Err(SubmitError::QueueTokens {
                waiting,
                prompt: tokens,
                limit: line.tokens,
            });
        }
        let ticket = |(choice, events)| Self {
            status: Arc::clone(status),
            events,
            running: false,
            // The prompt waits once.
            tokens: if choice == 0 { tokens } else { 0 },
            course: Course::new(),
            ending: None,
        };
        Ok(answers.into_iter().enumerate().map(ticket).collect())
    }

    /// What the other end of the stream is to know.
    pub(crate) fn course(&self) -> Arc<Course> {
        Arc::clone(&self.course)
    }

    /// Moves from the line to a seat.
    pub(crate) fn run(&mut self) {
        if !self.running {
            self.running = true;
            self.status.running.fetch_add(1, Relaxed);
            self.leave_line();
        }
        let mut timeline = self.course.timeline();
        if timeline.entered.is_none() {
            let now = Instant::now();
            timeline.entered = Some(now);
            self.status.times.queue.time(now - timeline.queued);
        }
    }

    /// Notes how much of the prompt was found in the cache at the first entry.
    pub(crate) fn note_cached(&mut self, tokens: usize) {
        let mut timeline = self.course.timeline();
        if timeline.preemptions == 0 {
            timeline.cached_tokens = tokens;
        }
    }

    /// Notes that another picture is encoded.
    pub(crate) fn note_seen(&mut self) {
        self.course.timeline().seen = Some(Instant::now());
    }

    /// Moves back to the line.
    pub(crate) fn requeue(&mut self) {
        if self.running {
            self.running = false;
            self.course.timeline().preemptions += 1;
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
    pub(crate) fn send(&mut self, token: Event) {
        self.status.tokens_generated.fetch_add(1, Relaxed);
        self.clock();
        // An error means that the client has gone, which is dealt with between steps.
        let _ = self.events.send(token);
    }

    fn clock(&mut self) {
        let (now, times) = (Instant::now(), &self.status.times);
        let mut timeline = self.course.timeline();
        timeline.tokens += 1;
        match timeline.last.replace(now) {
            Some(last) => times.between_tokens.time(now - last),
            None => {
                timeline.first = Some(now);
                times.first_token.time(now - timeline.queued);
                if let Some(entered) = timeline.entered {
                    times.prefill.time(now - entered);
                }
            }
        }
    }

    /// Takes an answer that is complete into the distributions.
    fn finish(&self) -> Timings {
        let (end, times) = (Instant::now(), &self.status.times);
        let timeline = self.course.timeline();
        let timings = timeline.timings(end);
        times.whole.time(end - timeline.queued);
        times.inference.time(timings.prefill + timings.decode);
        times.decode.time(timings.decode);
        times.answer_tokens.number(timeline.tokens);
        let (first, last) = (timeline.first, timeline.last);
        if let (Some(first), Some(last), Ok(gaps @ 1..)) = (
            first,
            last,
            u32::try_from(timeline.tokens.saturating_sub(1)),
        ) {
            times.per_token.time((last - first) / gaps);
        }
        timings
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
        let status = Arc::clone(&self.status);
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
                let timings = self.finish();
                // As in `send`.
                let _ = self.events.send(Event::Timings(timings));
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
            // As good as a stop token to everyone but the engine.
            None if self.events.is_closed() && self.course.satisfied.load(Relaxed) => {
                self.finish();
                status.finished_stop.fetch_add(1, Relaxed);
                return;
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
    use crate::block_pool::BlockPool;
    use crate::byte_budget::ByteBudget;

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
        let queue = |tokens| {
            let tickets = Ticket::queue(&status, LINE, tokens, vec![events.clone()]);
            tickets.map(|mut tickets| tickets.remove(0))
        };
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
        // All answers to a prompt find a place, or none.
        let more = vec![events.clone(), events.clone()];
        let error = Ticket::queue(&status, LINE, 0, more).unwrap_err();
        let (waiting, limit) = (1, 2);
        assert_eq!(error, SubmitError::QueueFull { waiting, limit });
        assert_eq!(counts(), (1, 99, 0));
        let stats = status.snapshot();
        assert_eq!((stats.rejected_requests, stats.rejected_tokens), (2, 1));
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
            let mut ticket = Ticket::queue(&status, LINE, 1, vec![events])
                .unwrap()
                .remove(0);
            if let Some(ending) = ending {
                ticket.end(ending);
            }
            drop(ticket);
            if matches!(event, Event::Finished(_)) {
                let before = stream.try_recv().unwrap();
                assert!(matches!(before, Event::Timings(_)), "{before:?}");
            }
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
        let mut ticket = Ticket::queue(&status, LINE, 1, vec![events])
            .unwrap()
            .remove(0);
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
        let ticket = Ticket::queue(&status, LINE, 1, vec![events])
            .unwrap()
            .remove(0);
        status.drain();
        drop(ticket);
        let last = stream.try_recv().unwrap();
        assert_eq!(last, Event::Failed(RequestError::ShuttingDown));
    }
}
