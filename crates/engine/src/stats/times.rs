//! How long requests take, and how large they are.
//!
//! Buckets are vLLM's, so that dashboards made for it work, with three more below 10 ms for the
//! gaps between tokens.

use crate::histogram::{Distribution, Histogram};

const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];

const BETWEEN_TOKENS: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
    5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];

const REQUEST: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

const STEP_TOKENS: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
];

const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0,
    20_000.0, 50_000.0, 100_000.0, 200_000.0,
];

const CHOICES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

macro_rules! times {
    ($($(#[$doc:meta])* $name:ident: $kind:ident($bounds:ident),)*) => {
        /// The live histograms.
        #[derive(Debug)]
        pub(crate) struct Times {
            $(pub(crate) $name: Histogram,)*
        }

        /// How long requests took and how large they were, since the engine started. Times are in
        /// seconds.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Distributions {
            $($(#[$doc])* pub $name: Distribution,)*
        }

        impl Times {
            pub(crate) fn new() -> Self {
                Self { $($name: Histogram::$kind($bounds),)* }
            }

            pub(crate) fn snapshot(&self) -> Distributions {
                Distributions { $($name: self.$name.snapshot(),)* }
            }
        }
    };
}

times! {
    /// From submission to the first entry.
    queue: seconds(REQUEST),
    /// From submission to the first token.
    first_token: seconds(FIRST_TOKEN),
    /// From one token to the next.
    between_tokens: seconds(BETWEEN_TOKENS),
    /// Of each answer, the mean of those.
    per_token: seconds(BETWEEN_TOKENS),
    /// From submission to the end.
    whole: seconds(REQUEST),
    /// From entry to the first token.
    prefill: seconds(REQUEST),
    /// From the first token to the last.
    decode: seconds(REQUEST),
    /// From entry to the last token.
    inference: seconds(REQUEST),
    /// Of a turn of the vision encoder.
    encode: seconds(FIRST_TOKEN),
    /// Tokens of a prompt.
    prompt_tokens: numbers(TOKENS),
    /// Tokens of an answer.
    answer_tokens: numbers(TOKENS),
    /// Most tokens that an answer might have had.
    max_tokens: numbers(TOKENS),
    /// Answers to a request.
    choices: numbers(CHOICES),
    /// Tokens that a step computed.
    step_tokens: numbers(STEP_TOKENS),
}
