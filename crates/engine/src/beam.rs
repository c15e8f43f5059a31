//! Beam search: the most probable answers instead of drawn ones.
//!
//! After transformers' `GenerationMixin._beam_search` (4.51): each step keeps the `width` best
//! continuations of all beams that go on; one that ends becomes an answer if it is among the best
//! `width` of all at that time; an answer's score is its log probability over a power of its
//! length.
//!
//! Each step of each beam is a request for one token, whose prompt is all that came before. So
//! beams are batched with everybody else's work, may step back, and fail alone; what they share is
//! found in the prefix cache.

use futures::StreamExt;
use futures::future::try_join_all;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::engine::Engine;
use crate::request::{
    Event, FinishReason, GenerateRequest, Limits, RequestError, Sampling, SubmitError,
};
use crate::stream::EventStream;

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BeamSearch {
    /// Beams, at least 1.
    pub width: usize,
    /// Power of an answer's length by which its log probability is divided: above 0 favours long
    /// answers, below short ones.
    pub length_penalty: f32,
    /// End as soon as there are `width` answers, instead of when no beam can get better than the
    /// worst of them.
    pub early_stopping: bool,
}

/// An answer that is not complete.
#[derive(Debug, Clone, Default)]
struct Beam {
    ids: Vec<u32>,
    logprob: f32,
}

/// An answer that is.
#[derive(Debug, Clone)]
struct Hypothesis {
    ids: Vec<u32>,
    score: f32,
    reason: FinishReason,
}

/// The best answers so far, at most as many as beams.
#[derive(Debug)]
struct Hypotheses {
    search: BeamSearch,
    found: Vec<Hypothesis>,
}

impl Hypotheses {
    fn score(&self, logprob: f32, length: usize) -> f32 {
        logprob / (length as f32).powf(self.search.length_penalty)
    }

    /// The one that was found later makes room for equals.
    fn add(&mut self, beam: Beam, reason: FinishReason) {
        let score = self.score(beam.logprob, beam.ids.len());
        let at = self.found.partition_point(|other| other.score >= score);
        let ids = beam.ids;
        self.found.insert(at, Hypothesis { ids, score, reason });
        self.found.truncate(self.search.width);
    }

    /// Whether it is of no use to go on from beams of `length` tokens, the best of which has
    /// `logprob`.
    fn is_complete(&self, logprob: f32, length: usize) -> bool {
        let Some(worst) = self.found.last() else {
            return false;
        };
        self.found.len() >= self.search.width
            && (self.search.early_stopping || worst.score >= self.score(logprob, length))
    }
}

/// What a search does between steps.
struct Search {
    engine: Engine,
    request: GenerateRequest,
    hypotheses: Hypotheses,
    beams: Vec<Beam>,
}

impl Engine {
    /// Searches for answers to `request`, of which only prompt, limits, service and number of
    /// choices count. Gives a stream for each, best first, and what must be polled for anything
    /// to happen: it ends with the last event, or when all streams are dropped. Tokens come when
    /// the search is over.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn search(
        &self,
        request: GenerateRequest,
        search: BeamSearch,
    ) -> Result<(Vec<EventStream>, impl Future<Output = ()> + Send + use<>), SubmitError> {
        let choices = request.choices.max(1);
        let (senders, streams): (Vec<_>, Vec<_>) =
            (0..choices).map(|_| unbounded_channel()).unzip();
        let state = Search {
            engine: self.clone(),
            request,
            hypotheses: Hypotheses {
                search: BeamSearch {
                    width: search.width.max(choices),
                    ..search
                },
                found: Vec::new(),
            },
            beams: vec![Beam::default()],
        };
        // What is wrong with the request shows now.
        let first = vec![state.submit(&state.beams[0])?];
        let streams = streams.into_iter();
        let streams = streams.map(|events| EventStream::new(events, None));
        let streams = streams.collect();
        Ok((streams, state.run(first, senders)))
    }
}

impl Search {
    /// Asks for the best next tokens of a beam.
    fn submit(&self, beam: &Beam) -> Result<EventStream, SubmitError> {
        let request = &self.request;
        let mut prompt = request.prompt.clone();
        let context = prompt
            .tokens
            .len()
            .saturating_add(request.limits.max_tokens);
        prompt.tokens.extend_from_slice(&beam.ids);
        let sampling = Sampling {
            temperature: 0.0,
            logprobs: Some(self.candidates() + request.limits.stop_ids.len()),
            ..Sampling::default()
        };
        let limits = Limits {
            max_tokens: 1,
            context: Some(context),
            ..Limits::default()
        };
        let mut step = GenerateRequest::new(prompt, sampling, limits);
        step.service = request.service.clone();
        let streams = if beam.ids.is_empty() {
            self.engine.submit(step)
        } else {
            self.engine.submit_anyway(step)
        };
        streams?.pop().ok_or(SubmitError::NotRunning)
    }

    /// Continuations that are looked at: enough to keep all beams if the best ones end.
    fn candidates(&self) -> usize {
        let ends = self.request.limits.stop_ids.len();
        (1 + ends).max(2) * self.hypotheses.search.width
    }

    async fn run(mut self, first: Vec<EventStream>, senders: Vec<UnboundedSender<Event>>) {
        let mut streams = first;
        let room = self.engine.max_model_len() - self.request.prompt.tokens.len();
        let longest = self.request.limits.max_tokens.clamp(1, room);
        for length in 1..=longest {
            let next = try_join_all(streams.drain(..).map(best_tokens)).await;
            if senders.iter().all(UnboundedSender::is_closed) {
                return;
            }
            let step = next.and_then(|next| {
                let goes_on = self.step(&next, length, length == longest);
                let beams = self.beams.iter().filter(|_| goes_on);
                let submitted = beams.map(|beam| self.submit(beam));
                submitted
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|_| RequestError::ShuttingDown)
            });
            match step {
                Ok(next) if next.is_empty() => break,
                Ok(next) => streams = next,
                Err(error) => {
                    for sender in &senders {
                        // An error means that the client has gone.
                        let _ = sender.send(Event::Failed(error.clone()));
                    }
                    return;
                }
            }
        }
        self.tell(&senders);
    }

    /// Takes the best tokens after each beam, which has `length` with them. False if the search is
    /// over, as it is with the `last` ones.
    fn step(&mut self, next: &[Vec<(u32, f32)>], length: usize, last: bool) -> bool {
        let limits = &self.request.limits;
        let early = length <= limits.min_tokens;
        let ends = |id: u32| limits.stop_ids.contains(&id);
        let mut candidates: Vec<(usize, u32, f32)> = Vec::new();
        for (index, (beam, tokens)) in self.beams.iter().zip(next).enumerate() {
            let tokens = tokens.iter().filter(|(id, _)| !(early && ends(*id)));
            candidates.extend(tokens.map(|&(id, logprob)| (index, id, beam.logprob + logprob)));
        }
        let best_first = |a: &(usize, u32, f32), b: &(usize, u32, f32)| {
            let by_score = b.2.total_cmp(&a.2);
            by_score.then((a.0, a.1).cmp(&(b.0, b.1)))
        };
        candidates.sort_unstable_by(best_first);
        candidates.truncate(self.candidates());
        let width = self.hypotheses.search.width;
        let mut beams = Vec::with_capacity(width);
        for (rank, (index, id, logprob)) in candidates.into_iter().enumerate() {
            let mut ids = self.beams[index].ids.clone();
            ids.push(id);
            let beam = Beam { ids, logprob };
            let reason = if ends(id) {
                Some(FinishReason::Stop(id))
            } else {
                last.then_some(FinishReason::Length)
            };
            match reason {
                None if beams.len() < width => beams.push(beam),
                Some(reason) if rank < width => self.hypotheses.add(beam, reason),
                _ => {}
            }
        }
        self.beams = beams;
        let best = self.beams.first();
        best.is_some_and(|best| !self.hypotheses.is_complete(best.logprob, length))
    }

    /// Sends the best answers.
    fn tell(self, senders: &[UnboundedSender<Event>]) {
        let mut found = self.hypotheses.found.into_iter();
        for sender in senders {
            // As many answers as beams are wanted at most; where a vocabulary gives fewer, the
            // rest have none.
            let end = match found.next() {
                Some(Hypothesis { ids, reason, .. }) => {
                    for id in ids {
                        let _ = sender.send(Event::Token { id, logprobs: None });
                    }
                    Event::Finished(reason)
                }
                None => Event::Failed(RequestError::NothingAllowed),
            };
            let _ = sender.send(end);
        }
    }
}

/// The most probable tokens that a step found.
async fn best_tokens(mut stream: EventStream) -> Result<Vec<(u32, f32)>, RequestError> {
    while let Some(event) = stream.next().await {
        match event {
            Event::Token {
                logprobs: Some(logprobs),
                ..
            } => return Ok(logprobs.top),
            Event::Failed(error) => return Err(error),
            _ => {}
        }
    }
    Err(RequestError::ShuttingDown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beam(len: usize, logprob: f32) -> Beam {
        Beam {
            ids: vec![7; len],
            logprob,
        }
    }

    #[test]
    fn the_best_by_length_are_kept_and_tell_when_to_end() {
        let mut hypotheses = Hypotheses {
            search: BeamSearch {
                width: 2,
                length_penalty: 1.0,
                early_stopping: false,
            },
            found: Vec::new(),
        };
        assert!(!hypotheses.is_complete(0.0, 1));
        hypotheses.add(beam(2, -4.0), FinishReason::Length);
        assert!(!hypotheses.is_complete(-100.0, 1), "there is one of two");
        hypotheses.add(beam(4, -6.0), FinishReason::Length);
        hypotheses.add(beam(1, -9.0), FinishReason::Length);
        let scores: Vec<f32> = hypotheses.found.iter().map(|h| h.score).collect();
        assert_eq!(scores, [-1.5, -2.0]);
        assert!(!hypotheses.is_complete(-5.0, 3));
        assert!(hypotheses.is_complete(-6.0, 3));
        hypotheses.search.early_stopping = true;
        assert!(hypotheses.is_complete(-5.0, 3));
    }
}
