//! What goes into the engine and what comes out of it.

use vlmd_backend::Prepared;

use crate::constraint::Constraint;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of the answer, at least 1. The context may end it earlier.
    pub max_tokens: usize,
    /// Stop tokens are suppressed until the answer has this many.
    pub min_tokens: usize,
    /// Tokens that end the answer. They are reported, so that the caller may show or drop them.
    pub stop_ids: Vec<u32>,
}

/// One answer to be generated.
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
}

/// A token's log probability, with the best ones at its position.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Of the token that was chosen.
    pub chosen: f32,
    /// The most probable tokens, best first, as many as were asked for and are possible at all.
    pub top: Vec<(u32, f32)>,
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
    /// The next token of the answer.
    Token {
        /// Its id.
        id: u32,
        /// If they were asked for: raw model probabilities, before penalties and temperature.
        logprobs: Option<Logprobs>,
    },
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
    /// The engine stopped before the answer was complete.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Why a request was not taken at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The waiting line has its full length.
    #[error("{waiting} requests are waiting already")]
    QueueFull {
        /// Length of the line.
        waiting: usize,
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
