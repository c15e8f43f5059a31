//! Every way to say no, and what it looks like on the wire.

use std::borrow::Cow;

use axum::Json;
use axum::http::header::{CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use vlmd_api::{ErrorBody, ErrorDetail, ErrorType, FieldNames, Health};
use vlmd_engine::SubmitError;
use vlmd_media::{ErrorKind, MediaError};
use vlmd_models::PrepareError;

use crate::assets::AssetRefusal;
use crate::responses::ResponseRefusal;

/// Why a request is not answered.
///
/// The texts go to the client. Causes that are the server's own say so and no more; their
/// details are in the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Request(#[from] vlmd_api::RequestError),
    #[error(transparent)]
    Asset(#[from] AssetRefusal),
    #[error("`{field}` is Kosmos-2's alone: this model does not know it")]
    KosmosField { field: &'static str },
    #[error("a valid API key is required: `Authorization: Bearer <key>`")]
    Unauthorized,
    #[error("this API key may send {limit} requests a minute; the next is free in {wait} s")]
    TooManyRequests { limit: u32, wait: u32 },
    #[error("this API key may have {limit} requests under way at a time, and has")]
    TooManyAtOnce { limit: u32 },
    #[error("the URL may have at most {limit} bytes, this one has {given}")]
    UrlTooLong { limit: usize, given: usize },
    #[error("the header may have at most {limit} {what}, this one has {given}")]
    HeaderTooLarge {
        limit: usize,
        what: &'static str,
        given: usize,
    },
    #[error("the request {0}")]
    BadHead(&'static str),
    #[error("the request body must be JSON (`Content-Type: application/json`), got {0}")]
    ContentType(String),
    #[error(
        "the request body may have at most {limit} bytes (`--max-body-bytes`), this one {given}"
    )]
    BodyTooLarge { limit: usize, given: String },
    #[error("the request body did not arrive within {0} s (`--body-timeout`)")]
    BodyTimeout(u64),
    #[error("the request body broke off")]
    BodyBroken,
    #[error("there is no route `{0}`; GET /docs lists them")]
    UnknownRoute(String),
    #[error("`{path}` does not answer to {method}")]
    Method { path: String, method: String },
    #[error("the model `{name}` does not exist; this server has {served}")]
    UnknownModel { name: String, served: String },
    #[error(
        "At most {limit} image(s) may be provided in one request (`--max-images`), this one has {given}."
    )]
    TooManyImages {
        limit: usize,
        given: usize,
        field: Cow<'static, str>,
    },
    #[error("`messages[{index}].labels`: this model's answers cannot be steered by labels")]
    Labels { index: usize },
    #[error(
        "`{field}`: no picture is known by the name {}: send its data along. Pictures are known by \
         name for some time (`--image-uuid-memory`), for the API key and `cache_salt` that they were \
         sent with.", shown(.uuid)
    )]
    UnknownImage { field: String, uuid: String },
    #[error(
        "`{field}`: this model's chat template carries no tools, or writes calls in a form that is \
         not known; leave it out{}",
        if *.field == "tools" { " or set `tool_choice` to `none`" } else { "" }
    )]
    Tools { field: String },
    #[error("`{field}`: {source}")]
    Media { field: String, source: MediaError },
    #[error("`{field}`: {source}")]
    Prepare { field: String, source: PrepareError },
    #[error(
        "This model's maximum context length is {limit} tokens (`--max-model-len`), and `{field}` \
         takes {prompt} of them, which leaves no room for an answer."
    )]
    PromptTooLong {
        limit: usize,
        prompt: usize,
        field: Cow<'static, str>,
    },
    #[error(
        "This model's maximum context length is {limit} tokens (`--max-model-len`), but {prompt} \
         in the prompt and `{field}` of {wanted} make {}.",
        .prompt.saturating_add(*.wanted)
    )]
    AnswerTooLong {
        limit: usize,
        prompt: usize,
        wanted: usize,
        field: Cow<'static, str>,
    },
    #[error("`{field}` must name tokens below {vocab_size}, the size of the vocabulary, got {id}")]
    UnknownToken {
        field: Cow<'static, str>,
        id: u32,
        vocab_size: usize,
    },
    #[error("`{field}`: {problem}")]
    Grammar { field: String, problem: String },
    #[error("{limit} grammars of other requests are being compiled, and it takes too long")]
    GrammarsBusy { limit: usize },
    #[error("{}", .0.message())]
    NotReady(Health),
    #[error("{limit} requests are under way already (`--max-inflight`)")]
    Overloaded { limit: usize },
    #[error(transparent)]
    Response(#[from] ResponseRefusal),
    #[error("{0}")]
    Submit(SubmitError),
    #[error("{0}")]
    Generation(vlmd_engine::RequestError),
    #[error("the server failed to answer this request")]
    Internal,
}

/// What the wire says about a [`Refusal`], beside its text.
struct Class {
    status: StatusCode,
    kind: ErrorType,
    code: &'static str,
}

const fn class(status: StatusCode, kind: ErrorType, code: &'static str) -> Class {
    Class { status, kind, code }
}

const fn bad_request(code: &'static str) -> Class {
    class(
        StatusCode::BAD_REQUEST,
        ErrorType::InvalidRequestError,
        code,
    )
}

const fn unavailable(code: &'static str) -> Class {
    class(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorType::ServiceUnavailableError,
        code,
    )
}

const INTERNAL: Class = class(
    StatusCode::INTERNAL_SERVER_ERROR,
    ErrorType::ServerError,
    "internal_error",
);

impl Refusal {
    fn class(&self) -> Class {
        use ErrorType::{AuthenticationError, InvalidRequestError, NotFoundError, RateLimitError};
        match self {
            Self::Request(error) => bad_request(error.code()),
            Self::Asset(refusal) => class(refusal.status(), refusal.kind(), refusal.code()),
            Self::Unauthorized => class(
                StatusCode::UNAUTHORIZED,
                AuthenticationError,
                "invalid_api_key",
            ),
            Self::TooManyRequests { .. } => class(
                StatusCode::TOO_MANY_REQUESTS,
                RateLimitError,
                "rate_limit_exceeded",
            ),
            Self::TooManyAtOnce { .. } => class(
                StatusCode::TOO_MANY_REQUESTS,
                RateLimitError,
                "concurrency_limit_exceeded",
            ),
            Self::UrlTooLong { .. } => class(
                StatusCode::URI_TOO_LONG,
                InvalidRequestError,
                "url_too_long",
            ),
            Self::HeaderTooLarge { .. } => class(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                InvalidRequestError,
                "header_too_large",
            ),
            Self::BadHead(_) => bad_request("invalid_request_head"),
            Self::ContentType(_) => class(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                InvalidRequestError,
                "unsupported_content_type",
            ),
            Self::BodyTooLarge { .. } => class(
                StatusCode::PAYLOAD_TOO_LARGE,
                InvalidRequestError,
                "request_too_large",
            ),
            Self::BodyTimeout(_) => class(
                StatusCode::REQUEST_TIMEOUT,
                InvalidRequestError,
                "request_timeout",
            ),
            Self::BodyBroken => bad_request("incomplete_body"),
            Self::UnknownRoute(_) => class(StatusCode::NOT_FOUND, NotFoundError, "route_not_found"),
            Self::Method { .. } => class(
                StatusCode::METHOD_NOT_ALLOWED,
                InvalidRequestError,
                "method_not_allowed",
            ),
            Self::UnknownModel { .. } => {
                class(StatusCode::NOT_FOUND, NotFoundError, "model_not_found")
            }
            Self::TooManyImages { .. } => bad_request("too_many_images"),
            Self::Labels { .. } | Self::Tools { .. } | Self::KosmosField { .. } => {
                bad_request("unsupported_parameter")
            }
            Self::UnknownImage { .. } => bad_request("unknown_image_uuid"),
            Self::Media { source, .. } => media_class(source.kind()),
            Self::Prepare { source, .. } => match source {
                PrepareError::Template(_) => bad_request("invalid_messages"),
                PrepareError::Image { .. } => bad_request("invalid_image"),
                PrepareError::Tokenize(_) => bad_request("invalid_text"),
                PrepareError::Ending(_) => bad_request("unsupported_parameter"),
                _ => INTERNAL,
            },
            Self::PromptTooLong { .. } | Self::AnswerTooLong { .. } => {
                bad_request("context_length_exceeded")
            }
            Self::UnknownToken { .. } => bad_request("invalid_value"),
            Self::Grammar { .. } => bad_request("invalid_grammar"),
            Self::GrammarsBusy { .. } => unavailable("overloaded"),
            Self::Response(refusal) if refusal.is_not_found() => {
                class(StatusCode::NOT_FOUND, NotFoundError, refusal.code())
            }
            Self::Response(refusal) => bad_request(refusal.code()),
            Self::NotReady(_) => unavailable("not_ready"),
            Self::Overloaded { .. } => unavailable("overloaded"),
            Self::Submit(error) => match error {
                SubmitError::QueueFull { .. } | SubmitError::QueueTokens { .. } => {
                    unavailable("queue_full")
                }
                SubmitError::NotRunning => unavailable("not_ready"),
                SubmitError::TooLong { .. } => bad_request("context_length_exceeded"),
                SubmitError::PicturesTooLarge { .. } => bad_request("pictures_too_large"),
                _ => INTERNAL,
            },
            Self::Generation(vlmd_engine::RequestError::ShuttingDown) => {
                unavailable("shutting_down")
            }
            Self::Generation(vlmd_engine::RequestError::QueuedTooLong) => {
                unavailable("queue_timeout")
            }
            Self::Generation(vlmd_engine::RequestError::TimedOut) => class(
                StatusCode::GATEWAY_TIMEOUT,
                ErrorType::ServiceUnavailableError,
                "request_timeout",
            ),
            Self::Generation(vlmd_engine::RequestError::NothingAllowed) => {
                bad_request("no_token_allowed")
            }
            Self::Generation(_) | Self::Internal => INTERNAL,
        }
    }

    fn param(&self) -> Option<String> {
        match self {
            Self::Request(error) => error.param().map(str::to_owned),
            Self::Asset(refusal) => refusal.param(),
            Self::KosmosField { field } => Some((*field).into()),
            Self::UnknownModel { .. } => Some("model".into()),
            Self::Submit(SubmitError::TooLong { .. } | SubmitError::PicturesTooLarge { .. }) => {
                Some("messages".into())
            }
            Self::Response(refusal) => refusal.param().map(str::to_owned),
            Self::Labels { index } => Some(format!("messages[{index}].labels")),
            Self::Tools { field }
            | Self::UnknownImage { field, .. }
            | Self::Grammar { field, .. }
            | Self::Media { field, .. }
            | Self::Prepare { field, .. } => Some(field.clone()),
            Self::TooManyImages { field, .. }
            | Self::PromptTooLong { field, .. }
            | Self::AnswerTooLong { field, .. }
            | Self::UnknownToken { field, .. } => Some(field.to_string()),
            _ => None,
        }
    }

    /// Whether a conversation without its beginning might be answered.
    pub(crate) fn is_of_length(&self) -> bool {
        matches!(
            self,
            Self::PromptTooLong { .. }
                | Self::AnswerTooLong { .. }
                | Self::TooManyImages { .. }
                | Self::Submit(SubmitError::TooLong { .. } | SubmitError::PicturesTooLarge { .. })
        )
    }

    /// The same refusal where fields have the names of another dialect.
    pub(crate) fn renamed(mut self, names: &FieldNames) -> Self {
        match &mut self {
            Self::Tools { field }
            | Self::UnknownImage { field, .. }
            | Self::Grammar { field, .. }
            | Self::Media { field, .. }
            | Self::Prepare { field, .. } => *field = names.of(field),
            Self::TooManyImages { field, .. }
            | Self::PromptTooLong { field, .. }
            | Self::AnswerTooLong { field, .. }
            | Self::UnknownToken { field, .. } => *field = names.of(field).into(),
            _ => {}
        }
        self
    }

    /// Seconds after which the same request may do better.
    fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Asset(refusal) => refusal.retry_after(),
            Self::TooManyRequests { wait, .. } => Some(*wait),
            Self::TooManyAtOnce { .. } => Some(1),
            // A model takes its time to load.
            Self::NotReady(_) => Some(10),
            Self::Overloaded { .. }
            | Self::Media {
                source: MediaError::Busy,
                ..
            }
            | Self::Submit(SubmitError::QueueFull { .. } | SubmitError::QueueTokens { .. })
            | Self::Generation(vlmd_engine::RequestError::QueuedTooLong) => Some(1),
            Self::Submit(SubmitError::NotRunning)
            | Self::Generation(vlmd_engine::RequestError::ShuttingDown) => Some(5),
            _ => None,
        }
    }

    /// The status that goes with it.
    pub(crate) fn status(&self) -> StatusCode {
        self.class().status
    }

    /// The envelope.
    pub(crate) fn body(&self) -> ErrorBody {
        let class = self.class();
        let message = match self {
            // The cause is ours, and its words are for the log.
            Self::Prepare { .. } | Self::Media { .. } | Self::Submit(_)
                if class.status == StatusCode::INTERNAL_SERVER_ERROR =>
            {
                Self::Internal.to_string()
            }
            _ => self.to_string(),
        };
        ErrorBody {
            error: ErrorDetail {
                message,
                r#type: class.kind,
                param: self.param(),
                code: Cow::Borrowed(class.code),
            },
        }
    }

    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Unauthorized => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Self::NotReady(Health::DRAINING) => {
                Some((CONNECTION, HeaderValue::from_static("close")))
            }
            Self::BodyTooLarge { .. }
            | Self::BodyTimeout(_)
            | Self::Asset(AssetRefusal::TooLarge { .. })
            | Self::UrlTooLong { .. }
            | Self::HeaderTooLarge { .. }
            | Self::BadHead(_) => Some((CONNECTION, HeaderValue::from_static("close"))),
            _ => None,
        }
    }
}

/// What a response refuses, left with it for dialects that say it in another form.
#[derive(Debug, Clone)]
pub(crate) struct Refused(pub(crate) ErrorBody);

/// A client's word, short enough to repeat.
fn shown(word: &str) -> String {
    let mut start: String = word.chars().take(64).collect();
    if start.len() < word.len() {
        start.push_str("...");
    }
    format!("{start:?}")
}

fn media_class(kind: ErrorKind) -> Class {
    match kind {
        ErrorKind::InvalidUrl => bad_request("invalid_image_url"),
        ErrorKind::ForbiddenAddress => bad_request("image_url_forbidden"),
        ErrorKind::FetchFailed => bad_request("image_download_failed"),
        ErrorKind::TooLarge => bad_request("image_too_large"),
        ErrorKind::UnsupportedFormat | ErrorKind::InvalidImage => bad_request("invalid_image"),
        ErrorKind::Busy => unavailable("overloaded"),
        _ => INTERNAL,
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = ?self, "a request failed");
        }
        let body = self.body();
        let mut response = (status, Json(&body)).into_response();
        response.extensions_mut().insert(Refused(body));
        let headers = response.headers_mut();
        if let Some((name, value)) = self.header() {
            headers.insert(name, value);
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_inside_the_server_are_not_told() {
        let source = PrepareError::Tensor(candle_core::Error::Msg("secret at 0x7f".into()));
        let refusal = Refusal::Prepare {
            field: "messages".into(),
            source,
        };
        assert_eq!(refusal.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!refusal.body().error.message.contains("secret"));
        let refusal = Refusal::Submit(SubmitError::InvalidPrompt("secret".into()));
        assert!(!refusal.body().error.message.contains("secret"));
    }

    #[test]
    fn what_may_pass_tells_when_to_come_back() {
        for refusal in [
            Refusal::NotReady(Health::LOADING),
            Refusal::Overloaded { limit: 1 },
            Refusal::Submit(SubmitError::QueueFull {
                waiting: 1,
                limit: 1,
            }),
            Refusal::Generation(vlmd_engine::RequestError::ShuttingDown),
        ] {
            assert_eq!(refusal.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(refusal.retry_after().is_some(), "{refusal}");
        }
    }

    #[test]
    fn a_context_that_is_too_short_is_told_with_all_numbers() {
        let refusal = Refusal::AnswerTooLong {
            limit: 100,
            prompt: 60,
            wanted: 50,
            field: "max_tokens".into(),
        };
        let error = refusal.body().error;
        for number in ["100", "60", "50", "110"] {
            assert!(error.message.contains(number), "{}", error.message);
        }
        assert_eq!(error.param.as_deref(), Some("max_tokens"));
    }
}
