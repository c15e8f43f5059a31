//! Why a response is not to be had.

/// Why a response is not to be had, or not to be gone on from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResponseRefusal {
    #[error(
        "there is no response `{0}`: responses are kept for some time (`--responses-keep`), \
         within a bound on memory (`--responses-store`), for the API key that they were asked with"
    )]
    Unknown(String),
    #[error(
        "`previous_response_id`: there is no response `{0}`: responses are kept for some time \
         (`--responses-keep`), within a bound on memory (`--responses-store`), for the API key that \
         they were asked with; send the conversation itself"
    )]
    UnknownPrevious(String),
    #[error("`previous_response_id`: the response `{id}` is {status} and nothing to go on from")]
    Unfinished { id: String, status: &'static str },
    #[error("`background`: this server keeps no responses (`--responses-store`)")]
    NoStore,
    #[error(
        "`background`: a response of {bytes} bytes cannot be kept, {limit} are left at most (`--responses-store`)"
    )]
    TooLarge { bytes: usize, limit: usize },
    #[error("the response `{0}` cannot be cancelled: only those with `background` can")]
    Foreground(String),
}

impl ResponseRefusal {
    /// Whether it is the path that leads nowhere.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "response_not_found",
            Self::UnknownPrevious(_) => "previous_response_not_found",
            Self::Unfinished { .. } => "previous_response_unfinished",
            Self::NoStore => "unsupported_parameter",
            Self::TooLarge { .. } => "response_too_large",
            Self::Foreground(_) => "response_not_in_background",
        }
    }

    /// Field of the request at fault, if it is one.
    pub(crate) fn param(&self) -> Option<&'static str> {
        match self {
            Self::UnknownPrevious(_) | Self::Unfinished { .. } => Some("previous_response_id"),
            Self::NoStore | Self::TooLarge { .. } => Some("background"),
            Self::Unknown(_) | Self::Foreground(_) => None,
        }
    }
}
