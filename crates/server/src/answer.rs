//! From the engine's events to the text of one answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vlmd_api::{
    Entity, FinishReason, PromptLogprob, StopReason, TokenLogprob, ToolCallDelta, TopLogprob,
};
use vlmd_engine::{
    Event, FinishReason as EngineFinish, Logprobs, PromptScore, RequestError, Timings,
};
use vlmd_models::Grounded;
use vlmd_text::{Detokenizer, StopMatcher, TextError, Tokenizer};

use crate::error::Refusal;

/// How the answers of a request are written; the same for all of them.
#[derive(Debug, Clone)]
pub(crate) struct Style {
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// Tokens at which the engine ends the answer, the model's own and the request's.
    pub(crate) stop_ids: BTreeSet<u32>,
    /// Those that the request added: only they are given as the reason.
    pub(crate) own_stop_ids: BTreeSet<u32>,
    pub(crate) stops: Vec<String>,
    pub(crate) include_stop: bool,
    pub(crate) skip_special_tokens: bool,
    /// The mark before a call where it is a special token, which is kept if others are not.
    pub(crate) call_mark: Option<(u32, &'static str)>,
    /// For models that point at what they name: takes an answer apart. Its text is then given as
    /// a whole, when it is complete: a tag may stand for a phrase that is out already.
    pub(crate) grounding: Option<fn(&str) -> Grounded>,
    /// Stop strings are not looked for in the first tokens.
    pub(crate) min_tokens: usize,
}

/// For each token of a prompt, by token id: itself and the most probable ones.
pub(crate) type PromptLogprobs = Vec<Option<BTreeMap<u32, PromptLogprob>>>;

/// What an event adds to an answer.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) logprobs: Vec<TokenLogprob>,
    /// Before the first token, if they were asked for: of the prompt's tokens.
    pub(crate) prompt_logprobs: Option<PromptLogprobs>,
    /// Before the last piece: where the answer's time went.
    pub(crate) timings: Option<Timings>,
    /// From models that call tools.
    pub(crate) calls: Vec<ToolCallDelta>,
    /// With the last piece, from models that point at what they name.
    pub(crate) entities: Option<Vec<Entity>>,
    /// Set with the last piece.
    pub(crate) end: Option<End>,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) reason: FinishReason,
    pub(crate) stop: Option<StopReason>,
}

/// One answer while it is written.
#[derive(Debug)]
pub(crate) struct Answer {
    style: Arc<Style>,
    detokenizer: Detokenizer,
    matcher: StopMatcher,
    tokens: usize,
    /// What is kept until it can be taken apart.
    whole: String,
}

impl Answer {
    /// An answer of its own, or one that continues the text of the tokens `before` it.
    pub(crate) fn new(style: Arc<Style>, before: &[u32]) -> Result<Self, Refusal> {
        let tokenizer = Arc::clone(&style.tokenizer);
        let detokenizer = Detokenizer::after(tokenizer, style.skip_special_tokens, before);
        Ok(Self {
            detokenizer: detokenizer.map_err(|error| undecodable(&error))?,
            matcher: StopMatcher::new(style.stops.clone(), style.include_stop),
            style,
            tokens: 0,
            whole: String::new(),
        })
    }

    /// Tokens so far, the one that ends the answer included.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Takes the next event. After a piece with an end there must be no other.
    pub(crate) fn push(&mut self, event: Event) -> Result<Piece, Refusal> {
        match event {
            Event::Token { id, logprobs } => {
                self.tokens += 1;
                let piece = self.token(id).map_err(|error| undecodable(&error))?;
                let mut piece = self.grounded(piece);
                if let Some(logprobs) = logprobs {
                    let entry = self
                        .logprob(id, &logprobs)
                        .map_err(|error| undecodable(&error))?;
                    piece.logprobs.push(entry);
                }
                Ok(piece)
            }
            Event::Prompt(scores) => {
                let scores = scores
                    .iter()
                    .map(|score| self.prompt_logprob(score.as_ref()));
                let scores = scores.collect::<Result<_, _>>();
                Ok(Piece {
                    prompt_logprobs: Some(scores.map_err(|error| undecodable(&error))?),
                    ..Piece::default()
                })
            }
            Event::Timings(timings) => Ok(Piece {
                timings: Some(timings),
                ..Piece::default()
            }),
            Event::Finished(finish) => {
                let piece = self.finish(finish).map_err(|error| undecodable(&error))?;
                Ok(self.grounded(piece))
            }
            Event::Failed(error) => Err(Refusal::Generation(error)),
        }
    }

    /// The stream ended without a last event: the engine is gone.
    pub(crate) fn broken() -> Refusal {
        Refusal::Generation(RequestError::ShuttingDown)
    }

    fn token(&mut self, id: u32) -> Result<Piece, TextError> {
        // The engine ends the answer at a stop token, so its text is the last.
        if self.style.stop_ids.contains(&id) && !self.style.include_stop {
            return Ok(Piece::default());
        }
        let text = match self.style.call_mark {
            Some((mark, literal)) if mark == id => {
                let mut text = self.detokenizer.flush()?.unwrap_or_default();
                text.push_str(literal);
                text
            }
            _ => self.detokenizer.push(id)?.unwrap_or_default(),
        };
        Ok(self.text(text))
    }

    /// Looks for stop strings, once `min_tokens` are there.
    fn text(&mut self, text: String) -> Piece {
        if self.tokens <= self.style.min_tokens {
            return Piece {
                text,
                ..Piece::default()
            };
        }
        let progress = self.matcher.push(&text);
        let stop = progress
            .stopped
            .and_then(|index| self.style.stops.get(index));
        Piece {
            text: progress.emit,
            end: stop.map(|stop| End {
                reason: FinishReason::Stop,
                stop: Some(StopReason::Text(stop.clone())),
            }),
            ..Piece::default()
        }
    }

    fn finish(&mut self, finish: EngineFinish) -> Result<Piece, TextError> {
        let rest = self.detokenizer.flush()?.unwrap_or_default();
        let mut piece = self.text(rest);
        if piece.end.is_some() {
            return Ok(piece);
        }
        piece.text.push_str(&self.matcher.flush());
        piece.end = Some(match finish {
            EngineFinish::Length => End {
                reason: FinishReason::Length,
                stop: None,
            },
            EngineFinish::Complete => End {
                reason: FinishReason::Stop,
                stop: None,
            },
            EngineFinish::Stop(id) => End {
                reason: FinishReason::Stop,
                stop: self
                    .style
                    .own_stop_ids
                    .contains(&id)
                    .then_some(StopReason::Token(id)),
            },
        });
        Ok(piece)
    }

    /// Keeps the text back until it ends, and takes it apart then.
    fn grounded(&mut self, mut piece: Piece) -> Piece {
        let Some(ground) = self.style.grounding else {
            return piece;
        };
        self.whole.push_str(&std::mem::take(&mut piece.text));
        if piece.end.is_some() {
            let Grounded { text, entities } = ground(&self.whole);
            let entity =
                |entity: vlmd_models::Entity| Entity::new(entity.phrase, entity.span, entity.boxes);
            piece.entities = Some(entities.into_iter().map(entity).collect());
            piece.text = text;
        }
        piece
    }

    /// The token that stands there comes last, so that it has its own rank even if it is among
    /// the best.
    fn prompt_logprob(
        &self,
        score: Option<&PromptScore>,
    ) -> Result<Option<BTreeMap<u32, PromptLogprob>>, TextError> {
        let Some(PromptScore { id, logprobs }) = score else {
            return Ok(None);
        };
        let best = (1..).zip(&logprobs.top);
        let best = best.map(|(rank, &(id, logprob))| (id, logprob, rank));
        let own = (*id, logprobs.chosen, logprobs.rank);
        let entries = best.chain([own]).map(|(id, logprob, rank)| {
            let text = token_text(&self.style.tokenizer, id)?;
            Ok((id, PromptLogprob::new(text, logprob, rank)))
        });
        entries.collect::<Result<_, _>>().map(Some)
    }

    fn logprob(&self, id: u32, logprobs: &Logprobs) -> Result<TokenLogprob, TextError> {
        let entry = |id, logprob| {
            token_text(&self.style.tokenizer, id).map(|text| TopLogprob::new(text, logprob))
        };
        let top = logprobs
            .top
            .iter()
            .map(|&(id, logprob)| entry(id, logprob))
            .collect::<Result<_, _>>()?;
        Ok(TokenLogprob::new(entry(id, logprobs.chosen)?, top))
    }
}

/// A token's text as it reads in the middle of an answer.
///
/// Decoders of the SentencePiece kind drop the space at the start of a text, so the token is
/// decoded behind itself and the first one taken off.
pub(crate) fn token_text(tokenizer: &Tokenizer, id: u32) -> Result<String, TextError> {
    let alone = tokenizer.decode(&[id], false)?;
    let twice = tokenizer.decode(&[id, id], false)?;
    Ok(match twice.strip_prefix(&alone) {
        Some(text) if !text.is_empty() => text.to_owned(),
        _ => alone,
    })
}

fn undecodable(error: &TextError) -> Refusal {
    tracing::error!(%error, "an answer cannot be decoded");
    Refusal::Internal
}
