//! Text completions as server-sent events.
//!
//! As [`sse`], with chunks of text: none opens an answer, and the last text of an answer and its
//! `finish_reason` come in one.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::response::Response;
use axum::response::sse::Event;
use futures::stream::{BoxStream, SelectAll, StreamExt as _};
use vlmd_api::{TextChunk, TextChunkChoice, TextCompletion, TextLogprobs, TokenLogprob, Usage};

use crate::answer::Piece;
use crate::error::Refusal;
use crate::generation::Generation;
use crate::sse::{self, Envelope};

/// What one of the generations says next, and its tokens so far.
struct Said {
    generation: usize,
    next: Result<(usize, Piece), Refusal>,
    usage: Usage,
}

struct Frames {
    /// `None` once the last frame is in the queue.
    said: Option<SelectAll<BoxStream<'static, Said>>>,
    /// Of each generation.
    usages: Vec<Usage>,
    answers: Vec<Sent>,
    /// Answers of each generation.
    n: usize,
    envelope: Envelope,
    queue: VecDeque<Event>,
}

/// What of an answer is not out yet, beside its text.
#[derive(Debug, Default)]
struct Sent {
    /// Log probabilities of tokens whose text is to come.
    withheld: Vec<TokenLogprob>,
    /// Characters of the tokens before.
    offset: usize,
}

/// Sends the answers to all prompts, each of which has `n`, while they are written. The response
/// body owns the generations, so a client that goes away gives them up.
pub(crate) fn respond(generations: Vec<Generation>, n: usize, envelope: Envelope) -> Response {
    let frames = Frames {
        usages: generations.iter().map(Generation::usage).collect(),
        answers: (0..generations.len() * n)
            .map(|_| Sent::default())
            .collect(),
        said: Some(generations.into_iter().enumerate().map(said).collect()),
        n,
        envelope,
        queue: VecDeque::new(),
    };
    sse::stream(futures::stream::unfold(frames, |mut frames| async move {
        let event = frames.next().await?;
        Some((Ok::<_, Infallible>(event), frames))
    }))
}

/// What a generation says until it ends.
fn said((generation, answers): (usize, Generation)) -> BoxStream<'static, Said> {
    futures::stream::unfold(answers, move |mut answers| async move {
        let next = answers.next().await?;
        let usage = answers.usage();
        let said = Said {
            generation,
            next,
            usage,
        };
        Some((said, answers))
    })
    .boxed()
}

impl Frames {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            // Nothing queued and nothing to come: the end.
            match self.said.as_mut()?.next().await {
                Some(said) => self.take(said),
                None => self.finish(),
            }
        }
    }

    fn take(&mut self, said: Said) {
        self.usages[said.generation] = said.usage;
        match said.next {
            Ok((index, piece)) => self.piece(said.generation * self.n + index, piece),
            Err(refusal) => {
                self.queue.extend(sse::broken_off(&refusal));
                self.done();
            }
        }
    }

    fn piece(&mut self, index: usize, mut piece: Piece) {
        let sent = &mut self.answers[index];
        sent.withheld.append(&mut piece.logprobs);
        if piece.text.is_empty() && piece.end.is_none() {
            return;
        }
        let tokens = std::mem::take(&mut sent.withheld);
        let logprobs = self.envelope.logprobs.then(|| {
            let logprobs = TextLogprobs::new(tokens, sent.offset);
            sent.offset = logprobs.end().unwrap_or(sent.offset);
            logprobs
        });
        let (finish_reason, stop_reason) = match piece.end {
            Some(end) => (Some(end.reason), end.stop),
            None => (None, None),
        };
        let choice = TextChunkChoice {
            index,
            text: piece.text,
            logprobs,
            finish_reason,
            stop_reason,
        };
        let options = self.envelope.options;
        let continuous = options.is_some_and(|o| o.include_usage && o.continuous_usage_stats);
        self.chunk(vec![choice], continuous);
    }

    fn chunk(&mut self, choices: Vec<TextChunkChoice>, with_usage: bool) {
        let usage = self.usages.iter().copied().reduce(Usage::and);
        let chunk = TextChunk {
            id: self.envelope.id.clone(),
            object: TextCompletion::OBJECT,
            created: self.envelope.created,
            model: self.envelope.model.clone(),
            choices,
            usage: usage.filter(|_| with_usage),
        };
        self.queue.extend(sse::event(&chunk));
    }

    fn finish(&mut self) {
        if self.envelope.options.is_some_and(|o| o.include_usage) {
            self.chunk(Vec::new(), true);
        }
        self.done();
    }

    fn done(&mut self) {
        self.said = None;
        self.queue.push_back(sse::done());
    }
}
