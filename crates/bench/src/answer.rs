//! An answer as it comes: what of it is content, when that came, and how many tokens it is.
//!
//! Times are taken as AIPerf takes them (its metrics reference, 0.13; genai-perf agrees): a chunk
//! counts if it carries text, reasoning or a tool call. The first one gives the time to the first
//! token, the last one the latency; those with a role, a finish reason or usage alone are none.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::failure::{Failure, message_of, printable};
use crate::sse::SseEvent;

/// What was measured of one answered request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// From sending to the first content; `None` where the answer was empty or not streamed.
    pub(crate) first: Option<Duration>,
    /// From sending to the last content, or to the end of an empty answer.
    pub(crate) latency: Duration,
    /// Between one chunk with content and the next.
    pub(crate) gaps: Vec<Duration>,
    /// Tokens of the prompt, as the server counts them.
    pub(crate) prompt_tokens: Option<u64>,
    /// Tokens of the answer; `None` where nobody has counted.
    pub(crate) output_tokens: Option<u64>,
    /// Who counted them.
    pub(crate) counted_by: CountedBy,
}

/// Who has counted the tokens of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CountedBy {
    /// The server, in `usage`.
    Usage,
    /// The client: chunks, which hold one token or more each.
    Chunks,
    /// Nobody: a whole answer without `usage`.
    Nobody,
}

impl Answer {
    /// Time between tokens after the first, `None` below two tokens:
    /// (latency - time to first token) / (tokens - 1).
    pub(crate) fn inter_token_latency(&self) -> Option<Duration> {
        let steps = u32::try_from(self.output_tokens?.checked_sub(1)?).ok()?;
        self.latency.checked_sub(self.first?)?.checked_div(steps)
    }
}

/// Reads a stream's events.
#[derive(Debug, Default)]
pub(crate) struct StreamReader {
    first: Option<Duration>,
    last: Option<Duration>,
    gaps: Vec<Duration>,
    usage: Option<Usage>,
    finished: bool,
    done: bool,
}

impl StreamReader {
    /// An event that came `at` after sending.
    ///
    /// # Errors
    /// [`Failure::InStream`] and [`Failure::Malformed`].
    pub(crate) fn event(&mut self, at: Duration, event: &SseEvent) -> Result<(), Failure> {
        if self.done {
            return Ok(());
        }
        if event.data.trim() == "[DONE]" {
            self.done = true;
            return Ok(());
        }
        let chunk = match serde_json::from_str::<Chunk>(&event.data) {
            Ok(chunk) => chunk,
            Err(_) if event.name == "error" => {
                return Err(Failure::InStream(printable(&event.data)));
            }
            Err(error) => return Err(Failure::Malformed(printable(&error.to_string()))),
        };
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            let message = message_of(&error).unwrap_or_else(|| error.to_string());
            return Err(Failure::InStream(printable(&message)));
        }
        let has_content = |choice: &Choice| choice.parts().any(Part::has_content);
        if chunk.choices.iter().any(has_content) {
            self.first.get_or_insert(at);
            if let Some(last) = self.last.replace(at) {
                self.gaps.push(at.saturating_sub(last));
            }
        }
        self.finished |= chunk
            .choices
            .iter()
            .any(|choice| choice.finish_reason.is_some());
        self.usage = chunk.usage.or(self.usage.take());
        Ok(())
    }

    /// The answer, if it is one, with the stream over `at` after sending.
    ///
    /// # Errors
    /// [`Failure::CutOff`] if nothing said that it is the end.
    pub(crate) fn finish(self, at: Duration) -> Result<Answer, Failure> {
        if !self.done && !self.finished {
            return Err(Failure::CutOff);
        }
        let chunks = self.gaps.len() as u64 + u64::from(self.first.is_some());
        let (output_tokens, counted_by) = match &self.usage {
            Some(usage) => (usage.completion_tokens, CountedBy::Usage),
            None => (chunks, CountedBy::Chunks),
        };
        Ok(Answer {
            first: self.first,
            latency: self.last.unwrap_or(at),
            gaps: self.gaps,
            prompt_tokens: self.usage.map(|usage| usage.prompt_tokens),
            output_tokens: Some(output_tokens),
            counted_by,
        })
    }
}

/// Reads a whole answer that was complete `at` after sending.
///
/// # Errors
/// [`Failure::Malformed`], and [`Failure::InStream`] for an error with a status of success.
pub(crate) fn whole(at: Duration, body: &[u8]) -> Result<Answer, Failure> {
    let answer: Chunk = serde_json::from_slice(body)
        .map_err(|error| Failure::Malformed(printable(&error.to_string())))?;
    if let Some(error) = answer.error.filter(|error| !error.is_null()) {
        let message = message_of(&error).unwrap_or_else(|| error.to_string());
        return Err(Failure::InStream(printable(&message)));
    }
    if answer.choices.is_empty() {
        return Err(Failure::Malformed(
            "`choices` is missing or empty".to_owned(),
        ));
    }
    let counted_by = match answer.usage {
        Some(_) => CountedBy::Usage,
        None => CountedBy::Nobody,
    };
    Ok(Answer {
        first: None,
        latency: at,
        gaps: Vec::new(),
        prompt_tokens: answer.usage.as_ref().map(|usage| usage.prompt_tokens),
        output_tokens: answer.usage.map(|usage| usage.completion_tokens),
        counted_by,
    })
}

/// A chunk of a stream or a whole answer, as far as it is measured.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Part>,
    message: Option<Part>,
    finish_reason: Option<String>,
}

impl Choice {
    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.delta.iter().chain(&self.message)
    }
}

#[derive(Deserialize)]
struct Part {
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<Value>>,
}

impl Part {
    fn has_content(&self) -> bool {
        let texts = [&self.content, &self.reasoning_content, &self.reasoning];
        texts.into_iter().flatten().any(|text| !text.is_empty())
            || self
                .tool_calls
                .as_ref()
                .is_some_and(|calls| !calls.is_empty())
    }
}

#[derive(Debug, Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#;
    const TEXT: &str = r#"{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}"#;
    const THOUGHT: &str = r#"{"choices":[{"delta":{"reasoning_content":"hm","content":null}}]}"#;
    const CALL: &str = r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#;
    const END: &str = r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#;
    const USAGE: &str =
        r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14}}"#;

    fn read(events: &[(u64, &str)], end: u64) -> Result<Answer, Failure> {
        let mut reader = StreamReader::default();
        for (at, data) in events {
            let event = SseEvent {
                name: String::new(),
                data: (*data).to_owned(),
            };
            reader.event(Duration::from_millis(*at), &event)?;
        }
        reader.finish(Duration::from_millis(end))
    }

    #[test]
    fn times_are_those_of_content() {
        let events = [
            (10, ROLE),
            (100, THOUGHT),
            (130, TEXT),
            (180, CALL),
            (300, END),
            (310, USAGE),
            (320, "[DONE]"),
        ];
        let answer = read(&events, 400).unwrap();
        let ms = Duration::from_millis;
        assert_eq!((answer.first, answer.latency), (Some(ms(100)), ms(180)));
        assert_eq!(answer.gaps, [ms(30), ms(50)]);
        assert_eq!(
            (answer.prompt_tokens, answer.output_tokens),
            (Some(9), Some(5))
        );
        assert_eq!(answer.counted_by, CountedBy::Usage);
        // 80 ms over 5 - 1 tokens.
        assert_eq!(answer.inter_token_latency(), Some(ms(20)));
    }

    #[test]
    fn without_usage_chunks_are_counted() {
        let answer = read(&[(1, ROLE), (2, TEXT), (3, TEXT), (4, END)], 5).unwrap();
        assert_eq!(
            (answer.output_tokens, answer.counted_by),
            (Some(2), CountedBy::Chunks)
        );
        assert_eq!(answer.prompt_tokens, None);
        let single = read(&[(2, TEXT), (4, END)], 5).unwrap();
        assert_eq!(single.inter_token_latency(), None);
    }

    #[test]
    fn an_empty_answer_is_one() {
        let answer = read(&[(1, ROLE), (2, END), (3, "[DONE]")], 4).unwrap();
        assert_eq!(
            (answer.first, answer.latency),
            (None, Duration::from_millis(4))
        );
        assert_eq!(answer.output_tokens, Some(0));
    }

    #[test]
    fn half_an_answer_is_none() {
        assert_eq!(read(&[(1, TEXT)], 2), Err(Failure::CutOff));
        assert_eq!(read(&[], 2), Err(Failure::CutOff));
        let error = r#"{"error":{"object":"error","message":"boom","code":500}}"#;
        assert_eq!(
            read(&[(1, TEXT), (2, error)], 3),
            Err(Failure::InStream("boom".into()))
        );
        assert!(matches!(
            read(&[(1, "<html>")], 3),
            Err(Failure::Malformed(_))
        ));
        let named = SseEvent {
            name: "error".into(),
            data: "out of memory".into(),
        };
        let failed = StreamReader::default().event(Duration::ZERO, &named);
        assert_eq!(failed, Err(Failure::InStream("out of memory".into())));
    }

    #[test]
    fn whole_answers_have_a_latency_only() {
        let body = r#"{"choices":[{"message":{"role":"assistant","content":"a"},"finish_reason":"stop"}],
            "usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
        let at = Duration::from_millis(50);
        let answer = whole(at, body.as_bytes()).unwrap();
        assert_eq!(
            (answer.first, answer.latency, answer.output_tokens),
            (None, at, Some(4))
        );
        let uncounted = r#"{"choices":[{"message":{"content":"a"}}],"error":null}"#;
        let answer = whole(at, uncounted.as_bytes()).unwrap();
        assert_eq!(
            (answer.output_tokens, answer.counted_by),
            (None, CountedBy::Nobody)
        );
        assert!(matches!(whole(at, b"{}"), Err(Failure::Malformed(_))));
        assert!(matches!(whole(at, b"[]"), Err(Failure::Malformed(_))));
    }
}
