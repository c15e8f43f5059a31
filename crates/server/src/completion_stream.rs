//! Text completions as server-sent events.
//!
//! As [`sse`], with chunks of text: none opens an answer, but the prompt if it is repeated, and the
//! last text of an answer and its `finish_reason` come in one.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::response::Response;
use axum::response::sse::Event;
use futures::stream::{BoxStream, SelectAll, StreamExt as _};
use vlmd_api::{TextChunk, TextChunkChoice, TextCompletion, TextLogprobs, TokenLogprob, Usage};

use crate::answer::{Piece, PromptLogprobs};
use crate::echo::{Echo, SILENT, Wanted};
use crate::entrance::Completing;
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
    /// What each generation's answers repeat, until they have.
    echoes: Vec<Option<Echo>>,
    wanted: Wanted,
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
pub(crate) fn respond(
    completing: Vec<Completing>,
    n: usize,
    wanted: Wanted,
    envelope: Envelope,
) -> Response {
    let (generations, echoes): (Vec<_>, Vec<_>) = completing
        .into_iter()
        .map(|one| (one.generation, one.echo))
        .unzip();
    let mut frames = Frames {
        usages: generations.iter().map(Generation::usage).collect(),
        answers: (0..generations.len() * n)
            .map(|_| Sent::default())
            .collect(),
        said: Some(generations.into_iter().enumerate().map(said).collect()),
        n,
        echoes,
        wanted,
        envelope,
        queue: VecDeque::new(),
    };
    if wanted.logprobs.is_none() {
        (0..frames.echoes.len()).for_each(|generation| frames.echo(generation, None));
    }
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
            Ok((index, mut piece)) => {
                if let Some(scores) = piece.prompt_logprobs.take() {
                    self.echo(said.generation, Some(&scores));
                }
                self.piece(said.generation * self.n + index, piece);
            }
            Err(refusal) => {
                self.queue.extend(sse::broken_off(&refusal));
                self.done();
            }
        }
    }

    /// Repeats a prompt in front of its answers, if it is to be and has not been.
    fn echo(&mut self, generation: usize, scores: Option<&PromptLogprobs>) {
        let Some(echo) = self.echoes[generation].take() else {
            return;
        };
        let logprobs = scores.zip(self.wanted.logprobs);
        let logprobs = logprobs.map(|(scores, top)| echo.logprobs(scores, top));
        for index in generation * self.n..(generation + 1) * self.n {
            let end = logprobs.as_ref().and_then(TextLogprobs::end);
            self.answers[index].offset = end.unwrap_or(0);
            self.choice(TextChunkChoice {
                index,
                text: echo.text.clone(),
                logprobs: logprobs.clone(),
                finish_reason: None,
                stop_reason: None,
            });
        }
    }

    fn piece(&mut self, index: usize, mut piece: Piece) {
        if self.wanted.is_silent {
            piece = Piece {
                end: piece.end.map(|_| SILENT),
                ..Piece::default()
            };
        }
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
        self.choice(TextChunkChoice {
            index,
            text: piece.text,
            logprobs,
            finish_reason,
            stop_reason,
        });
    }

    fn choice(&mut self, choice: TextChunkChoice) {
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
            usage: usage
                .filter(|_| with_usage)
                .map(|usage| self.wanted.usage(usage)),
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
