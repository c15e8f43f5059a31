//! The body of `POST /invocations`, SageMaker's one route for everything.

use serde_json::Value;

use crate::{ChatRequest, CompletionRequest, RequestError};

/// A request whose route its fields tell.
#[derive(Debug, Clone, PartialEq)]
pub enum Invocation {
    /// It has `messages`.
    Chat(Box<ChatRequest>),
    /// It has a `prompt` and no `messages`.
    Completion(Box<CompletionRequest>),
}

impl Invocation {
    /// Reads and checks a request body.
    ///
    /// # Errors
    /// The first thing that is wrong with it; see [`RequestError`].
    pub fn from_slice(body: &[u8]) -> Result<Self, RequestError> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| RequestError::Syntax(error.to_string()))?;
        let has = |name: &str| value.get(name).is_some_and(|value| !value.is_null());
        if has("prompt") && !has("messages") {
            return CompletionRequest::from_value(value)
                .map(Box::new)
                .map(Self::Completion);
        }
        ChatRequest::from_value(value).map(Box::new).map(Self::Chat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_fields_tell_what_is_asked() {
        let chat = br#"{"model": "m", "messages": [{"role": "user", "content": "a"}]}"#;
        assert!(matches!(
            Invocation::from_slice(chat),
            Ok(Invocation::Chat(_))
        ));
        let text = br#"{"model": "m", "prompt": "a", "messages": null}"#;
        assert!(matches!(
            Invocation::from_slice(text),
            Ok(Invocation::Completion(_))
        ));
        let neither = Invocation::from_slice(br#"{"model": "m"}"#).unwrap_err();
        assert_eq!(neither.param(), Some("messages"));
        assert_eq!(
            Invocation::from_slice(b"[]").unwrap_err().code(),
            "invalid_type"
        );
    }
}
