//! Everything that can go wrong with text.

/// Why text could not be tokenised, rendered or decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A tokenizer file is not one, or asks for something that is not supported.
    #[error("the tokenizer cannot be loaded: {0}")]
    InvalidTokenizer(String),
    /// The tokenizer refuses a text.
    #[error("the text cannot be tokenised: {0}")]
    Encode(String),
    /// The tokenizer refuses a sequence of token ids.
    #[error("the tokens cannot be decoded: {0}")]
    Decode(String),
    /// A configuration file that belongs to the tokenizer or the template is malformed.
    #[error("`{file}` is malformed: {reason}")]
    InvalidConfig {
        /// Name of the file.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A chat template does not compile. The model's fault, never the client's.
    #[error("the chat template does not compile: {0}")]
    InvalidTemplate(String),
    /// The template called `raise_exception`; the text is the template author's.
    #[error("{0}")]
    Refused(String),
    /// The conversation makes the template fail.
    #[error("the chat template cannot render this conversation: {0}")]
    Render(String),
    /// Rendering would take more work than the budget allows.
    #[error("rendering the chat template takes more than the budget of {fuel} steps")]
    OutOfFuel {
        /// The budget, in template instructions; see [`TemplateLimits::fuel`].
        ///
        /// [`TemplateLimits::fuel`]: crate::TemplateLimits::fuel
        fuel: u64,
    },
    /// The rendered prompt is too long.
    #[error("the rendered prompt is longer than the limit of {limit} bytes")]
    OutputTooLong {
        /// The limit; see [`TemplateLimits::output_bytes`].
        ///
        /// [`TemplateLimits::output_bytes`]: crate::TemplateLimits::output_bytes
        limit: usize,
    },
    /// A template argument that the server sets itself.
    #[error("`chat_template_kwargs.{0}` is set by the server and cannot be given")]
    ReservedKwarg(String),
}
