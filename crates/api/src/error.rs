//! The error envelope, and why a request body is refused.

use std::borrow::Cow;

use serde::Serialize;
use utoipa::ToSchema;

use crate::FieldNames;

/// Why a request body is refused, before any model is asked.
///
/// Each message names the field in backticks, what it must be, and what it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The body is not JSON at all.
    #[error(
        "the request body is not valid JSON: {0} (NaN and Infinity are not JSON, and text must be UTF-8)"
    )]
    Syntax(String),
    /// A required field is absent or null.
    #[error("`{field}` is required")]
    Missing {
        /// Path of the field.
        field: String,
    },
    /// A field has another JSON type than it must have.
    #[error("`{field}` must be {expected}, got {found}")]
    Type {
        /// Path of the field.
        field: String,
        /// The type that it must have.
        expected: &'static str,
        /// The value, shortened.
        found: String,
    },
    /// A field has the right type and a value out of its range.
    #[error("`{field}` must be {bound}, got {value}")]
    Value {
        /// Path of the field.
        field: String,
        /// The range, or the values that it may take.
        bound: String,
        /// The value, shortened.
        value: String,
    },
    /// A known field asks for what this version cannot do.
    #[error(
        "`{field}` is not supported by this server: leave it out or set it to {neutral}, got {value}"
    )]
    Unsupported {
        /// Path of the field.
        field: String,
        /// The value that is accepted because it changes nothing.
        neutral: &'static str,
        /// The value, shortened.
        value: String,
    },
    /// Two fields contradict each other.
    #[error("`{field}` {problem}")]
    Conflict {
        /// Path of the field to change.
        field: String,
        /// What is wrong, naming the other field.
        problem: String,
    },
}

impl RequestError {
    /// Path of the field at fault, `messages[0].content[1].type` for example.
    #[must_use]
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::Syntax(_) => None,
            Self::Missing { field }
            | Self::Type { field, .. }
            | Self::Value { field, .. }
            | Self::Unsupported { field, .. }
            | Self::Conflict { field, .. } => Some(field),
        }
    }

    /// The same error where the fields have the names of another dialect.
    pub(crate) fn renamed(mut self, names: &FieldNames) -> Self {
        match &mut self {
            Self::Syntax(_) => {}
            Self::Missing { field }
            | Self::Type { field, .. }
            | Self::Value { field, .. }
            | Self::Unsupported { field, .. }
            | Self::Conflict { field, .. } => *field = names.of(field),
        }
        self
    }

    /// The envelope's `code`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Syntax(_) => "invalid_json",
            Self::Missing { .. } => "missing_required_parameter",
            Self::Type { .. } => "invalid_type",
            Self::Value { .. } => "invalid_value",
            Self::Unsupported { .. } => "unsupported_parameter",
            Self::Conflict { .. } => "conflicting_parameters",
        }
    }
}

/// Every answer with a status of 400 or above.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong, in OpenAI's shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// For people: the field, the bound and the value.
    pub message: String,
    /// The class of error.
    pub r#type: ErrorType,
    /// Path of the request field at fault, if it was one.
    pub param: Option<String>,
    /// For programs: one word for the cause.
    #[schema(value_type = String)]
    pub code: Cow<'static, str>,
}

/// Classes of errors, after OpenAI's `error.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorType {
    /// The request has to change.
    InvalidRequestError,
    /// The API key is missing or wrong.
    AuthenticationError,
    /// The API key's limits are used up; see `Retry-After`.
    RateLimitError,
    /// There is no such model or route.
    NotFoundError,
    /// The server cannot take the request at the moment; the same request may succeed later.
    ServiceUnavailableError,
    /// The server failed.
    ServerError,
}

/// An error after the first chunk of a stream, sent as a frame of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StreamErrorBody {
    /// What went wrong.
    pub error: StreamErrorDetail,
}

/// [`ErrorDetail`] with `"object": "error"` inside.
///
/// ChatNVIDIA takes a frame without it for an empty chunk, and the answer ends silently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StreamErrorDetail {
    /// Always `error`.
    #[schema(value_type = String)]
    object: &'static str,
    /// What went wrong.
    #[serde(flatten)]
    detail: ErrorDetail,
}

impl From<ErrorBody> for StreamErrorBody {
    fn from(body: ErrorBody) -> Self {
        Self {
            error: StreamErrorDetail {
                object: "error",
                detail: body.error,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body() -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                message: "`n` must be between 1 and 16, got 0".into(),
                r#type: ErrorType::InvalidRequestError,
                param: Some("n".into()),
                code: "invalid_value".into(),
            },
        }
    }

    #[test]
    fn envelope_has_the_four_fields_of_openai() {
        assert_eq!(
            serde_json::to_value(body()).unwrap(),
            json!({"error": {"message": "`n` must be between 1 and 16, got 0",
                "type": "invalid_request_error", "param": "n", "code": "invalid_value"}})
        );
    }

    #[test]
    fn stream_frame_names_itself_an_error_inside_the_envelope() {
        let frame = serde_json::to_value(StreamErrorBody::from(body())).unwrap();
        assert_eq!(frame["error"]["object"], "error");
        assert_eq!(frame["error"]["param"], "n");
    }
}
