//! All answers to one request, from submission to the last event.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::Stream;
use tokio_util::sync::CancellationToken;
use vlmd_api::{ChatRequest, PromptTokensDetails, StopReason, Usage};
use vlmd_engine::{
    BeamSearch, Event, EventStream, GenerateRequest, Limits, RequestError, Sampling, Service,
    SubmitError, Timings,
};
use vlmd_text::constraint::Grammar;

use crate::answer::{Answer, Piece, Style};
use crate::constraint::Constrained;
use crate::error::Refusal;
use crate::metrics::Outcome;
use crate::pace::Pace;
use crate::prompt::Prompt;
use crate::state::{Admission, AppState, ServedModel};
use crate::tool_calls::{self, CallReaders};

/// The answers to one request while the engine writes them.
///
/// Dropping it gives up what is not finished.
#[derive(Debug)]
pub(crate) struct Generation {
    /// `None` once an answer has ended.
    streams: Vec<Option<EventStream>>,
    answers: Vec<Answer>,
    calls: CallReaders,
    pace: Pace,
    /// Why there will be nothing more, while there is still something to be sent.
    failure: Option<Refusal>,
    abort: CancellationToken,
    account: Account,
}

/// Counts and logs how a request ended, however it did.
#[derive(Debug)]
struct Account {
    state: AppState,
    prompt_tokens: usize,
    completion_tokens: usize,
    open: usize,
    failed: bool,
    start: Instant,
    first_token_ms: Option<u128>,
    /// Of the answer that took longest.
    timings: Option<Timings>,
    tells_timings: bool,
    /// The request's, which a stream outlives the handler in.
    span: tracing::Span,
    _admission: Admission,
}

impl Generation {
    /// Checks what depends on the prompt's length and the model, and puts the request into the
    /// engine's line.
    pub(crate) fn submit(
        state: &AppState,
        admission: Admission,
        model: &ServedModel,
        request: &ChatRequest,
        prompt: &Prompt,
        grammar: Option<&Grammar>,
    ) -> Result<Self, Refusal> {
        let prompt_tokens = prompt.prepared.tokens.len();
        let limits = limits(model, request, prompt)?;
        let style = Arc::new(style(model, request, &limits));
        let sampling = Sampling {
            bad_words: prompt.bad_words.clone(),
            ..sampling(&model.default_sampling, request)
        };
        let generate = GenerateRequest {
            constraint: grammar.map(Constrained::start),
            choices: request.n.unwrap_or(1) as usize,
            prompt_logprobs: request.prompt_logprobs.map(|count| count as usize),
            service: Service {
                priority: request.priority(),
                cache_salt: prompt.salt.clone(),
                entry_within: state.config().queue_timeout,
                end_within: state.config().request_timeout,
            },
            ..GenerateRequest::new(prompt.prepared.clone(), sampling, limits)
        };
        let streams = start(model, request, generate).map_err(Refusal::Submit)?;
        let streams: Vec<_> = streams.into_iter().map(Some).collect();
        let open = streams.len();
        Ok(Self {
            answers: streams
                .iter()
                .map(|_| Answer::new(Arc::clone(&style), prompt.continued()))
                .collect::<Result<_, _>>()?,
            calls: CallReaders::new(model, request, open),
            pace: Pace::new(state.config().stream_interval, open),
            failure: None,
            streams,
            abort: state.aborted(),
            account: Account {
                state: state.clone(),
                prompt_tokens,
                completion_tokens: 0,
                open,
                failed: false,
                start: Instant::now(),
                first_token_ms: None,
                timings: None,
                tells_timings: request.return_timings.unwrap_or(false),
                span: tracing::Span::current(),
                _admission: admission,
            },
        })
    }

    /// Number of answers.
    pub(crate) fn len(&self) -> usize {
        self.answers.len()
    }

    /// Tokens so far, and with the end of the answers what else there is to tell.
    pub(crate) fn usage(&self) -> Usage {
        let account = &self.account;
        let mut usage = Usage::new(account.prompt_tokens, account.completion_tokens);
        let Some(timings) = account.timings else {
            return usage;
        };
        let millis = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        usage.timings = account.tells_timings.then(|| vlmd_api::Timings {
            queue_ms: millis(timings.queue),
            encode_ms: millis(timings.encode),
            prefill_ms: millis(timings.prefill),
            decode_ms: millis(timings.decode),
        });
        let details = account.state.config().prompt_tokens_details;
        usage.prompt_tokens_details = details.then_some(PromptTokensDetails {
            cached_tokens: timings.cached_tokens,
        });
        usage
    }

    /// The next piece of any answer with that answer's index; `None` when all have ended. After
    /// an error, which ends all of them, as well.
    pub(crate) async fn next(&mut self) -> Option<Result<(usize, Piece), Refusal>> {
        while self.failure.is_none() {
            match self.step().await? {
                Ok((index, piece, tokens)) => {
                    if let Some(piece) = self.pace.push(index, piece, tokens) {
                        return Some(Ok((index, piece)));
                    }
                }
                Err(refusal) => self.failure = Some(refusal),
            }
        }
        match self.pace.rest() {
            Some(held) => Some(Ok(held)),
            None => self.failure.take().map(Err),
        }
    }

    /// What the next event of the engine adds, to which answer, and in how many tokens.
    async fn step(&mut self) -> Option<Result<(usize, Piece, usize), Refusal>> {
        if self.streams.iter().all(Option::is_none) {
            return None;
        }
        let abort = self.abort.clone();
        let (index, event) = tokio::select! {
            biased;
            () = abort.cancelled() => {
                return Some(Err(self.fail(Refusal::Generation(RequestError::ShuttingDown))));
            }
            next = poll_fn(|context| poll_streams(&mut self.streams, context)) => next,
        };
        let Some(event) = event else {
            return Some(Err(self.fail(Answer::broken())));
        };
        let answer = &mut self.answers[index];
        let before = answer.tokens();
        let piece = match answer.push(event) {
            Ok(piece) => piece,
            Err(refusal) => return Some(Err(self.fail(refusal))),
        };
        let tokens = answer.tokens() - before;
        self.account.count(tokens);
        self.account.time(piece.timings);
        if let Some(end) = &piece.end {
            // Of an answer that its text has ended, the engine does not know yet.
            let stream = self.streams[index].take();
            if matches!(end.stop, Some(StopReason::Text(_))) {
                let timings = stream.and_then(EventStream::complete);
                self.account.time(timings);
            }
            self.account.open -= 1;
            let metrics = self.account.state.metrics();
            metrics.ended(Outcome::Finished(end.reason));
        }
        Some(Ok((index, self.calls.read(index, piece), tokens)))
    }

    fn fail(&mut self, refusal: Refusal) -> Refusal {
        self.streams.iter_mut().for_each(|stream| *stream = None);
        self.account.failed = true;
        refusal
    }
}

/// Hands a request to the engine: to draw, or to search.
fn start(
    model: &ServedModel,
    request: &ChatRequest,
    generate: GenerateRequest,
) -> Result<Vec<EventStream>, SubmitError> {
    if !request.use_beam_search.unwrap_or(false) {
        return model.engine.submit(generate);
    }
    let search = BeamSearch {
        width: request.best_of.unwrap_or(1) as usize,
        length_penalty: request.length_penalty.unwrap_or(1.0),
        early_stopping: request.early_stopping.unwrap_or(false),
    };
    let (streams, searching) = model.engine.search(generate, search)?;
    // It ends by itself when the streams are dropped.
    tokio::spawn(searching);
    Ok(streams)
}

/// Whichever stream has an event, with its index; `None` for a stream that broke off.
fn poll_streams(
    streams: &mut [Option<EventStream>],
    context: &mut Context<'_>,
) -> Poll<(usize, Option<Event>)> {
    for (index, stream) in streams.iter_mut().enumerate() {
        if let Some(stream) = stream
            && let Poll::Ready(event) = Pin::new(stream).poll_next(context)
        {
            return Poll::Ready((index, event));
        }
    }
    Poll::Pending
}

impl Account {
    fn time(&mut self, timings: Option<Timings>) {
        let whole = |timings: &Timings| timings.queue + timings.prefill + timings.decode;
        self.timings = self.timings.into_iter().chain(timings).max_by_key(whole);
    }

    fn count(&mut self, tokens: usize) {
        self.completion_tokens += tokens;
        if tokens > 0 && self.first_token_ms.is_none() {
            self.first_token_ms = Some(self.start.elapsed().as_millis());
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let outcome = match (self.open, self.failed) {
            (0, _) => "finished",
            (_, true) => Outcome::Failed.as_str(),
            (_, false) => Outcome::Aborted.as_str(),
        };
        for _ in 0..self.open {
            self.state.metrics().ended(if self.failed {
                Outcome::Failed
            } else {
                Outcome::Aborted
            });
        }
        #[cfg(feature = "otlp")]
        crate::telemetry::phases(&self.span, self.start, self.first_token_ms, self.timings);
        let _entered = self.span.enter();
        let millis = |of: fn(Timings) -> Duration| self.timings.map(|t| of(t).as_millis());
        tracing::info!(
            outcome,
            prompt_tokens = self.prompt_tokens,
            completion_tokens = self.completion_tokens,
            first_token_ms = self.first_token_ms,
            queue_ms = millis(|timings| timings.queue),
            encode_ms = millis(|timings| timings.encode),
            prefill_ms = millis(|timings| timings.prefill),
            decode_ms = millis(|timings| timings.decode),
            cached_tokens = self.timings.map(|timings| timings.cached_tokens),
            total_ms = self.start.elapsed().as_millis(),
            "generated"
        );
    }
}

/// When the answers end; refuses what the context or the vocabulary cannot hold.
fn limits(model: &ServedModel, request: &ChatRequest, made: &Prompt) -> Result<Limits, Refusal> {
    let limit = model.engine.max_model_len();
    let prompt = made.prepared.tokens.len();
    let room = limit.checked_sub(prompt).filter(|room| *room > 0);
    let Some(room) = room else {
        return Err(Refusal::PromptTooLong {
            limit,
            prompt,
            field: made.origin.field().into(),
        });
    };
    let max_tokens = match request.max_new_tokens() {
        None => room.min(made.origin.default_max_tokens(model)),
        Some(wanted) if wanted as usize <= room => wanted as usize,
        Some(wanted) => {
            return Err(Refusal::AnswerTooLong {
                limit,
                prompt,
                wanted: wanted as usize,
                field: request.max_new_tokens_field().into(),
            });
        }
    };
    let mut stop_ids = request.stop_token_ids.clone();
    if !request.ignore_eos() {
        stop_ids.extend(model.processor.stop_ids());
    }
    Ok(Limits {
        context: None,
        max_tokens,
        min_tokens: request.min_tokens.unwrap_or(0) as usize,
        stop_ids,
    })
}

/// Refuses token ids that the model does not have.
pub(crate) fn check_token_ids(model: &ServedModel, request: &ChatRequest) -> Result<(), Refusal> {
    let biased = request.logit_bias.keys().map(|id| ("logit_bias", *id));
    let stopping = request.stop_token_ids.iter();
    let stopping = stopping.map(|id| ("stop_token_ids", *id));
    let allowed = request.allowed_token_ids.iter().flatten();
    let allowed = allowed.map(|id| ("allowed_token_ids", *id));
    match biased
        .chain(stopping)
        .chain(allowed)
        .find(|(_, id)| *id as usize >= model.vocab_size)
    {
        None => Ok(()),
        Some((field, id)) => Err(Refusal::UnknownToken {
            field: field.into(),
            id,
            vocab_size: model.vocab_size,
        }),
    }
}

fn style(model: &ServedModel, request: &ChatRequest, limits: &Limits) -> Style {
    let own: BTreeSet<u32> = request.stop_token_ids.iter().copied().collect();
    // An id that ends every answer anyway is no reason of the request's.
    let always = if request.ignore_eos() {
        &[]
    } else {
        model.processor.stop_ids()
    };
    let skip_special_tokens = request.skip_special_tokens.unwrap_or(true);
    Style {
        tokenizer: Arc::clone(model.processor.tokenizer()),
        stop_ids: limits.stop_ids.iter().copied().collect(),
        own_stop_ids: own.into_iter().filter(|id| !always.contains(id)).collect(),
        stops: request.stops().to_vec(),
        include_stop: request.include_stop_str_in_output.unwrap_or(false),
        skip_special_tokens,
        call_mark: tool_calls::mark(model, request),
        grounding: model.processor.grounding().filter(|_| skip_special_tokens),
        min_tokens: limits.min_tokens,
    }
}

fn sampling(defaults: &Sampling, request: &ChatRequest) -> Sampling {
    Sampling {
        temperature: request.temperature.unwrap_or(defaults.temperature),
        top_p: request.top_p.unwrap_or(defaults.top_p),
        top_k: request.top_k().unwrap_or(defaults.top_k),
        min_p: request.min_p.unwrap_or(defaults.min_p),
        typical_p: request.typical_p.unwrap_or(defaults.typical_p),
        // Negative seeds are as good as others: only their bits matter.
        seed: request.seed.map(i64::cast_unsigned),
        repetition_penalty: request
            .repetition_penalty()
            .unwrap_or(defaults.repetition_penalty),
        frequency_penalty: request
            .frequency_penalty
            .unwrap_or(defaults.frequency_penalty),
        presence_penalty: request
            .presence_penalty
            .unwrap_or(defaults.presence_penalty),
        no_repeat_ngram_size: request
            .no_repeat_ngram_size
            .map_or(defaults.no_repeat_ngram_size, |size| size as usize),
        allowed_tokens: request.allowed_token_ids.clone(),
        bad_words: Vec::new(),
        logit_bias: request
            .logit_bias
            .iter()
            .map(|(id, bias)| (*id, *bias))
            .collect(),
        logprobs: request.wanted_logprobs().map(|count| count as usize),
    }
}
