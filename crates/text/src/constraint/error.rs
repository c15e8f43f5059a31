//! Why a language cannot be had, or kept to.

/// Why no grammar can be made of a source. All but [`Self::Vocabulary`] are the source's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// The source, or a part of it, is larger than it may be.
    #[error("{what} may have at most {bound} {unit}, this one has {given}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// What is counted.
        unit: &'static str,
        /// How many are allowed.
        bound: usize,
        /// How many there are.
        given: usize,
    },
    /// The source is nested too deeply.
    #[error("{what} may be nested at most {bound} levels deep")]
    TooDeep {
        /// What is nested.
        what: &'static str,
        /// How deep it may be.
        bound: usize,
    },
    /// A number in the source is out of its range.
    #[error("`{at}` must be {bound}, got {given}")]
    Number {
        /// Where it stands.
        at: String,
        /// What it must be.
        bound: String,
        /// The value, shortened.
        given: String,
    },
    /// A keyword of JSON Schema that is not enforced. Ignoring it would allow documents that the
    /// schema forbids.
    #[error("the keyword `{keyword}` at `{at}` of the JSON schema is not supported: {advice}")]
    Keyword {
        /// The keyword.
        keyword: String,
        /// The schema that has it, as a JSON pointer with `#` in front.
        at: String,
        /// What to do instead.
        advice: &'static str,
    },
    /// The source does not say a language.
    #[error("{0}")]
    Invalid(String),
    /// There is a language, and the model's tokens cannot spell any text of it.
    #[error("no text that the grammar allows can be written in this model's tokens")]
    Unwritable,
    /// The model's vocabulary cannot be matched against grammars.
    #[error("this model's vocabulary cannot be constrained: {0}")]
    Vocabulary(String),
}

/// Why an answer cannot go on under its grammar. For the log: it may quote the answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MatchError {
    /// The parser refuses the token.
    #[error("token {id} is not allowed here: {reason}")]
    Token {
        /// The token.
        id: u32,
        /// The parser's words.
        reason: String,
    },
    /// A bound on the parser's work is reached, or it is broken.
    #[error("the parser cannot go on: {0}")]
    Parser(String),
}

/// The first line of the parser's words, which go on with its state, shortened.
pub(super) fn words(error: impl std::fmt::Display) -> String {
    const MOST: usize = 400;
    let text = error.to_string();
    let text = text.split("\n<").next().unwrap_or_default().trim();
    let text = text.strip_prefix("panic: ").unwrap_or(text);
    // Bounds that it has no words for.
    let text = if text.starts_with("assertion") {
        "it is too large"
    } else {
        text
    };
    let mut short: String = text.chars().take(MOST).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}
