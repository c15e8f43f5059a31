//! Answers as server-sent events.
//!
//! The frames of a stream, each `data: {json}` and an empty line:
//!
//! 1. for every answer, a chunk with `role` and empty content, as soon as the request is in line,
//!    and one with what it repeats of the conversation, if it does (`echo`);
//! 2. chunks with text or calls of tools, of all answers as they come; a chunk is never empty;
//! 3. for every answer, once, a chunk with `finish_reason`, no text, and what the answer points
//!    at if it does;
//! 4. if asked for, a chunk without choices that carries the usage;
//! 5. `[DONE]`, after an error frame as well.
//!
//! A comment keeps the connection alive while nothing is to be said.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use futures::Stream;
use serde::Serialize;
use vlmd_api::{
    ChatChunk, ChoiceLogprobs, ChunkChoice, Delta, HostedChunk, StreamErrorBody, StreamOptions,
    TokenLogprob,
};

use crate::answer::Piece;
use crate::error::Refusal;
use crate::generation::Generation;

/// Silence after which a comment is sent. Proxies commonly close after 30 or 60 seconds.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What all chunks of a stream share.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) options: Option<StreamOptions>,
    pub(crate) logprobs: bool,
    /// How the chunks of a conversation's answer differ from others.
    pub(crate) manner: Manner,
}

/// How the answer to a conversation is told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manner {
    /// With what each answer begins.
    pub(crate) echo: Option<String>,
    /// Whether calls have their older name.
    pub(crate) functions: bool,
}

/// Makes a frame of a chunk.
pub(crate) type Write = fn(ChatChunk) -> Option<Event>;

/// Chunks as OpenAI sends them.
#[expect(
    clippy::needless_pass_by_value,
    reason = "other dialects make theirs of it"
)]
pub(crate) fn chat(chunk: ChatChunk) -> Option<Event> {
    event(&chunk)
}

/// Chunks as NVIDIA's hosted models send them.
pub(crate) fn hosted(chunk: ChatChunk) -> Option<Event> {
    event(&HostedChunk::from(chunk))
}

#[derive(Debug)]
struct Frames {
    /// `None` once the last frame is in the queue.
    generation: Option<Generation>,
    envelope: Envelope,
    write: Write,
    /// Log probabilities of tokens whose text is not out yet, for each answer.
    withheld: Vec<Vec<TokenLogprob>>,
    queue: VecDeque<Event>,
}

/// Sends the answers while they are written. The response body owns the generation, so a client
/// that goes away gives it up.
pub(crate) fn respond(generation: Generation, envelope: Envelope, write: Write) -> Response {
    stream(frames(Frames::new(generation, envelope, write)))
}

/// A response of `frames`, with a comment where there are none for long.
pub(crate) fn stream(
    frames: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
) -> Response {
    response(frames, KeepAlive::new().interval(KEEP_ALIVE).text("ping"))
}

/// A response of `frames`, with `keep_alive` where there are none for long.
pub(crate) fn response(
    frames: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
    keep_alive: KeepAlive,
) -> Response {
    let mut response = Sse::new(frames).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (CACHE_CONTROL, "no-cache"),
        // nginx would collect chunks into its buffer.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn frames(frames: Frames) -> impl Stream<Item = Result<Event, Infallible>> {
    futures::stream::unfold(frames, |mut frames| async move {
        loop {
            if let Some(event) = frames.queue.pop_front() {
                return Some((Ok(event), frames));
            }
            // Nothing queued and nothing to come: the end.
            let next = frames.generation.as_mut()?.next().await;
            match next {
                Some(Ok((index, piece))) => frames.piece(index, piece),
                Some(Err(refusal)) => {
                    frames.queue.extend(broken_off(&refusal));
                    frames.done();
                }
                None => frames.finish(),
            }
        }
    })
}

impl Frames {
    fn new(generation: Generation, envelope: Envelope, write: Write) -> Self {
        let count = generation.len();
        let mut frames = Self {
            generation: Some(generation),
            envelope,
            write,
            withheld: vec![Vec::new(); count],
            queue: VecDeque::new(),
        };
        for index in 0..count {
            frames.choice(index, Delta::opening(), Piece::default());
            if let Some(echo) = frames.envelope.manner.echo.clone() {
                frames.choice(index, Delta::text(echo), Piece::default());
            }
        }
        frames
    }

    fn piece(&mut self, index: usize, mut piece: Piece) {
        let mut logprobs = std::mem::take(&mut self.withheld[index]);
        logprobs.append(&mut piece.logprobs);
        let text = Some(std::mem::take(&mut piece.text));
        let calls = Some(std::mem::take(&mut piece.calls));
        let text = text.filter(|text| !text.is_empty()).map(Delta::text);
        let calls = calls.filter(|calls| !calls.is_empty()).map(Delta::calls);
        for delta in text.into_iter().chain(calls) {
            let spoken = Piece {
                logprobs: std::mem::take(&mut logprobs),
                ..Piece::default()
            };
            self.choice(index, delta, spoken);
        }
        if piece.end.is_some() {
            piece.logprobs = logprobs;
            let delta = Delta {
                entities: piece.entities.take(),
                ..Delta::default()
            };
            self.choice(index, delta, piece);
        } else {
            self.withheld[index] = logprobs;
        }
    }

    /// Queues a chunk of one answer; of `piece`, all but its text and calls.
    fn choice(&mut self, index: usize, delta: Delta, piece: Piece) {
        let (finish_reason, stop_reason) = match piece.end {
            Some(end) => (Some(end.reason), end.stop),
            None => (None, None),
        };
        let logprobs =
            (!piece.logprobs.is_empty() && self.envelope.logprobs).then_some(ChoiceLogprobs {
                content: piece.logprobs,
            });
        let choice = ChunkChoice {
            // At most `MAX_CHOICES`.
            index: index as u32,
            delta,
            logprobs,
            finish_reason,
            stop_reason,
        };
        let choice = if self.envelope.manner.functions {
            choice.in_functions()
        } else {
            choice
        };
        let continuous = self
            .envelope
            .options
            .is_some_and(|options| options.include_usage && options.continuous_usage_stats);
        self.chunk(vec![choice], continuous);
    }

    fn chunk(&mut self, choices: Vec<ChunkChoice>, with_usage: bool) {
        let usage = self.generation.as_ref().map(Generation::usage);
        let chunk = ChatChunk {
            id: self.envelope.id.clone(),
            object: ChatChunk::OBJECT,
            created: self.envelope.created,
            model: self.envelope.model.clone(),
            choices,
            usage: usage.filter(|_| with_usage),
        };
        self.queue.extend((self.write)(chunk));
    }

    fn finish(&mut self) {
        if self
            .envelope
            .options
            .is_some_and(|options| options.include_usage)
        {
            self.chunk(Vec::new(), true);
        }
        self.done();
    }

    fn done(&mut self) {
        self.generation = None;
        self.queue.push_back(done());
    }
}

/// A stream of these texts as one answer, without an engine behind it.
#[cfg(fuzzing)]
pub(crate) fn of_texts(texts: Vec<String>) -> Response {
    let mut spoken = Frames {
        generation: None,
        envelope: Envelope {
            id: String::new(),
            created: 0,
            model: texts.first().cloned().unwrap_or_default(),
            options: None,
            logprobs: false,
            manner: Manner::default(),
        },
        write: chat,
        withheld: vec![Vec::new()],
        queue: VecDeque::new(),
    };
    for text in texts {
        let piece = Piece {
            text,
            ..Piece::default()
        };
        spoken.piece(0, piece);
    }
    spoken.done();
    Sse::new(frames(spoken)).into_response()
}

/// A frame as an event.
pub(crate) fn event(frame: &impl Serialize) -> Option<Event> {
    // Nothing in a frame can fail to be written as JSON.
    Event::default()
        .json_data(frame)
        .inspect_err(|error| tracing::error!(%error, "a frame was lost"))
        .ok()
}

/// The frame that tells why a stream breaks off.
pub(crate) fn broken_off(refusal: &Refusal) -> Option<Event> {
    if refusal.status().is_server_error() {
        tracing::error!(error = %refusal, "a stream broke off");
    }
    event(&StreamErrorBody::from(refusal.body()))
}

/// The last frame of every stream.
pub(crate) fn done() -> Event {
    Event::default().data("[DONE]")
}
