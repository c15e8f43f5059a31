//! What a request took: tokens and time.

use serde::Serialize;
use utoipa::ToSchema;

/// Tokens read and written.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Usage {
    /// Of the prompt, each image's placeholders included.
    pub prompt_tokens: usize,
    /// The sum of the other two.
    pub total_tokens: usize,
    /// Of all answers together, the tokens that ended them included.
    pub completion_tokens: usize,
    /// Null unless the server was told to tell: clients compare `usage` as a whole.
    pub prompt_tokens_details: Option<PromptTokensDetails>,
    /// If the request asked for them (`return_timings`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
}

/// What is known of the prompt's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Those that were found in the cache and not computed.
    pub cached_tokens: usize,
}

/// Where the time of a request went, in milliseconds; of several answers, the one that took
/// longest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, ToSchema)]
pub struct Timings {
    /// Until it began to run.
    pub queue_ms: f64,
    /// From then until its last picture was encoded; 0 without pictures or where they were known.
    pub encode_ms: f64,
    /// From when it began to run to the first token.
    pub prefill_ms: f64,
    /// From the first token to the end.
    pub decode_ms: f64,
}

impl Usage {
    /// Sums up.
    #[must_use]
    pub fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            completion_tokens,
            prompt_tokens_details: None,
            timings: None,
        }
    }

    /// Of two prompts that one request asks about.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let details = (self.prompt_tokens_details, other.prompt_tokens_details);
        let slower = |(a, b): (Timings, Timings)| if a.total() < b.total() { b } else { a };
        Self {
            prompt_tokens_details: match details {
                (Some(a), Some(b)) => Some(PromptTokensDetails {
                    cached_tokens: a.cached_tokens.saturating_add(b.cached_tokens),
                }),
                (a, b) => a.or(b),
            },
            timings: self
                .timings
                .zip(other.timings)
                .map(slower)
                .or(self.timings)
                .or(other.timings),
            ..Self::new(
                self.prompt_tokens.saturating_add(other.prompt_tokens),
                self.completion_tokens
                    .saturating_add(other.completion_tokens),
            )
        }
    }
}

impl Timings {
    /// From submission to the end.
    fn total(&self) -> f64 {
        self.queue_ms + self.prefill_ms + self.decode_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_of_several_prompts_is_their_sum() {
        let usage = |prompt, completion, cached, queue_ms| Usage {
            prompt_tokens_details: Some(PromptTokensDetails {
                cached_tokens: cached,
            }),
            timings: Some(Timings {
                queue_ms,
                ..Timings::default()
            }),
            ..Usage::new(prompt, completion)
        };
        let sum = usage(3, 2, 1, 4.0).and(usage(5, 1, 2, 9.0));
        assert_eq!(sum, usage(8, 3, 3, 9.0));
        let plain = Usage::new(3, 2).and(Usage::new(5, 1));
        assert_eq!(plain, Usage::new(8, 3));
    }
}
