//! Anthropic's error envelope.

use serde::Serialize;
use utoipa::ToSchema;

/// Every answer with a status of 400 or above, and the event `error` of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AnthropicErrorBody)]
pub struct ApiErrorBody {
    /// Always `error`.
    #[schema(value_type = String)]
    pub r#type: &'static str,
    /// What went wrong.
    pub error: ApiError,
    /// As the header `request-id` has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AnthropicError)]
pub struct ApiError {
    /// The class of error.
    pub r#type: ApiErrorType,
    /// For people: the field, the bound and the value.
    pub message: String,
}

/// Classes of errors, one for each status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AnthropicErrorType)]
#[serde(rename_all = "snake_case")]
pub enum ApiErrorType {
    /// The request has to change.
    InvalidRequestError,
    /// The API key is missing or wrong: 401.
    AuthenticationError,
    /// The API key does not allow it: 403.
    PermissionError,
    /// There is no such model or route: 404.
    NotFoundError,
    /// The body is too large: 413.
    RequestTooLarge,
    /// Too many requests: 429.
    RateLimitError,
    /// The server failed: 500.
    ApiError,
    /// The server cannot take the request at the moment: 503.
    OverloadedError,
    /// The answer took too long: 504.
    TimeoutError,
}

impl ApiErrorType {
    /// The class that goes with an HTTP status.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            401 => Self::AuthenticationError,
            403 => Self::PermissionError,
            404 => Self::NotFoundError,
            413 => Self::RequestTooLarge,
            429 => Self::RateLimitError,
            503 | 529 => Self::OverloadedError,
            504 => Self::TimeoutError,
            500.. => Self::ApiError,
            _ => Self::InvalidRequestError,
        }
    }
}

impl ApiErrorBody {
    /// The envelope of an error.
    #[must_use]
    pub fn new(status: u16, message: String, request_id: Option<String>) -> Self {
        Self {
            r#type: "error",
            error: ApiError {
                r#type: ApiErrorType::of_status(status),
                message,
            },
            request_id,
        }
    }
}
