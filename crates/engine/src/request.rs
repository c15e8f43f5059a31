//! What goes into the engine and what comes out of it.

use std::time::Duration;

use vlmd_backend::Prepared;

use crate::constraint::Constraint;
use crate::stats::Timings;

/// How the next token is chosen. Ranges are the API's to check; the engine takes them as right.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy. Otherwise logits are divided by it.
    pub temperature: f32,
    /// Smallest set of tokens whose probabilities reach this sum; 1 keeps all. In (0, 1].
    pub top_p: f32,
    /// Only the k most probable tokens; `None` keeps all.
    pub top_k: Option<u32>,
    /// Drops tokens below this share of the most probable one's probability. In [0, 1].
    pub min_p: f32,
    /// Only tokens whose information is close to what the distribution has on average, the fewest
    /// that reach this sum; 1 is off. In (0, 1]. Locally typical sampling (Meister et al. 2022, as
    /// transformers' `TypicalLogitsWarper`).
    pub typical_p: f32,
    /// Same seed, same request: same answer, whatever runs beside it. `None` takes one from the
    /// operating system.
    pub seed: Option<u64>,
    /// Divides the logits of tokens seen in prompt or answer (multiplies where negative);
    /// 1 is off (Keskar et al. 2019, as in transformers' `RepetitionPenaltyLogitsProcessor`).
    pub repetition_penalty: f32,
    /// Subtracted once per occurrence in the answer; 0 is off.
    pub frequency_penalty: f32,
    /// Subtracted once if the answer has the token; 0 is off.
    pub presence_penalty: f32,
    /// No run of this many tokens comes twice, counted over prompt and answer; 0 is off (as in
    /// transformers' `NoRepeatNGramLogitsProcessor`).
    pub no_repeat_ngram_size: usize,
    /// The only tokens that may be chosen, in any order; `None` allows all.
    pub allowed_tokens: Option<Vec<u32>>,
    /// Runs of tokens that the answer must not have (as in transformers'
    /// `NoBadWordsLogitsProcessor`). The prompt does not count.
    pub bad_words: Vec<Vec<u32>>,
    /// Added to single tokens' logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// Report the chosen token's log probability and those of this many of the best.
    pub logprobs: Option<usize>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            typical_p: 1.0,
            seed: None,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            no_repeat_ngram_size: 0,
            allowed_tokens: None,
            bad_words: Vec::new(),
            logit_bias: Vec::new(),
            logprobs: None,
        }
    }
}

/// When an answer ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of the answer, at least 1. The context may end it earlier.
    pub max_tokens: usize,
    /// Stop tokens are suppressed until the answer has this many.
    pub min_tokens: usize,
    /// Tokens that end the answer. They are reported, so that the caller may show or drop them.
    pub stop_ids: Vec<u32>,
    /// Tokens that prompt and answer come to in the end, where this answer is only a part of it
    /// and more requests follow; `None` is what `max_tokens` tells. A model may compute by it.
    pub context: Option<usize>,
}

/// A prompt to be answered.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// The prompt.
    pub prompt: Prepared,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// When to stop.
    pub limits: Limits,
    /// What the answer may say at all; `None` is anything.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Answers, at least 1. They share the computation of the prompt. Where a seed is given, each
    /// after the first has the one after it.
    pub choices: usize,
    /// How it is placed among others.
    pub service: Service,
    /// Report the log probabilities of the prompt's tokens and those of this many of the best at
    /// each place. Goes with the first answer.
    pub prompt_logprobs: Option<usize>,
}

impl GenerateRequest {
    /// One answer, with nothing out of the ordinary.
    #[must_use]
    pub fn new(prompt: Prepared, sampling: Sampling, limits: Limits) -> Self {
        Self {
            prompt,
            sampling,
            limits,
            constraint: None,
            choices: 1,
            service: Service::default(),
            prompt_logprobs: None,
        }
    }
}

/// How a request is placed among others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Smaller is served earlier, as in vLLM; 0 is ordinary. Ten seconds of waiting count as much
    /// as one step of it, so that nobody waits for ever.
    pub priority: i32,
    /// Only requests with equal salts share cached prefixes.
    pub cache_salt: Vec<u8>,
    /// Time in which it must begin to run, from submission. It then fails with `QueuedTooLong`.
    pub entry_within: Option<Duration>,
    /// Time in which it must end, from submission. It then fails with `TimedOut`.
    pub end_within: Option<Duration>,
}

/// A token's log probability, with the best ones at its position.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Of the token that was chosen, or that stands there.
    pub chosen: f32,
    /// How many tokens are at least as probable, itself included.
    pub rank: usize,
    /// The most probable tokens, best first, as many as were asked for and are possible at all.
    pub top: Vec<(u32, f32)>,
}

/// How probable a token of the prompt was at its place.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptScore {
    /// Its id; where a picture stands, that of a filler.
    pub id: u32,
    /// Raw model probabilities.
    pub logprobs: Logprobs,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// By this stop token.
    Stop(u32),
    /// The request's constraint allows nothing to follow.
    Complete,
    /// By `max_tokens`, or at the end of the context.
    Length,
}

/// What a request's stream carries: tokens, then exactly one `Finished` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Before the first token, if they were asked for: the log probabilities of the prompt's
    /// tokens. `None` for the first, which nothing comes before, and where the model gave no
    /// numbers.
    Prompt(Vec<Option<PromptScore>>),
    /// The next token of the answer.
    Token {
        /// Its id.
        id: u32,
        /// If they were asked for: raw model probabilities, before penalties and temperature.
        logprobs: Option<Logprobs>,
    },
    /// Before `Finished`: where the time went.
    Timings(Timings),
    /// The answer is complete.
    Finished(FinishReason),
    /// The answer ends here for want of the engine; other requests are unharmed.
    Failed(RequestError),
}

/// Why the engine gave up on one request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A step that this request was part of failed.
    #[error("the model failed while computing this request")]
    StepFailed,
    /// The logits were not numbers.
    #[error("the model produced no usable probabilities for this request")]
    InvalidLogits,
    /// What the request allows and what it rules out leave no token to go on with.
    #[error(
        "the request rules out every token that could come next (`allowed_token_ids`, `bad_words`, \
         `no_repeat_ngram_size`, `min_tokens`, or the format of the answer)"
    )]
    NothingAllowed,
    /// The constraint on the answer could not be kept.
    #[error("the answer could not be held to the requested format")]
    ConstraintFailed,
    /// It did not get to run in the time that it had for that.
    #[error("the request waited for its turn longer than it may")]
    QueuedTooLong,
    /// It did not end in the time that it had.
    #[error("the request took longer than it may")]
    TimedOut,
    /// The engine stopped before the answer was complete.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Why a request was not taken at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The waiting line has its full length.
    #[error("{waiting} answers are waiting already, and no more than {limit} may")]
    QueueFull {
        /// Answers in the line.
        waiting: usize,
        /// Most that may be.
        limit: usize,
    },
    /// The prompts in the waiting line have their full length together.
    #[error(
        "the prompts that are waiting have {waiting} tokens, with this one's {prompt} more than \
         the {limit} that they may"
    )]
    QueueTokens {
        /// Tokens of the prompts in the line.
        waiting: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// Most tokens that may wait.
        limit: usize,
    },
    /// The prompt and the answer it may give exceed what a sequence can hold.
    #[error("prompt of {prompt} tokens leaves no room in a context of {limit}")]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Most tokens of a sequence.
        limit: usize,
    },
    /// What the answer would look at does not fit into the memory for it, not even alone.
    #[error(
        "the pictures take {needed} bytes of cross-attention memory, of which there are {limit}; \
         the server's operator can raise `--cross-attention-memory`"
    )]
    PicturesTooLarge {
        /// Bytes of keys and values of the pictures.
        needed: usize,
        /// Bytes that all requests share.
        limit: usize,
    },
    /// The prompt contradicts itself or the model: a fault of its processor, not of the client.
    #[error("the prepared prompt cannot be computed: {0}")]
    InvalidPrompt(String),
    /// The worker is gone or going.
    #[error("the engine is not running")]
    NotRunning,
}
