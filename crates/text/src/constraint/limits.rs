//! How large a client's grammar may be, and what it may cost.

use llguidance::api::ParserLimits;

/// Longest source in bytes, a schema as compact JSON. Schemas of large public APIs have a quarter.
pub const MAX_SOURCE_BYTES: usize = 128 << 10;

/// Deepest nesting of a schema, a regular expression or a grammar's brackets. Schemas that tools
/// generate have about ten levels; each costs stack while it is compiled.
pub const MAX_NESTING: usize = 64;

/// Most strings of a choice.
pub const MAX_CHOICES: usize = 4096;

/// Largest `minLength`, `maxItems` and their like, and largest count in a regular expression or a
/// grammar. A repetition is unfolded, at least in part, while it is compiled and matched.
pub const MAX_REPEAT: u64 = 4096;

/// Most symbols in the productions of a compiled grammar.
pub const MAX_GRAMMAR_SYMBOLS: usize = 200_000;

/// Most states of an answer's lexer, each of one or two kilobytes.
pub const MAX_LEXER_STATES: usize = 50_000;

/// Most compiled grammars that are remembered.
pub const MAX_CACHED_GRAMMARS: usize = 64;

/// Longest token that is looked at, in bytes: the parser's trie is not deeper.
pub(super) const MAX_TOKEN_BYTES: usize = 1000;

/// What the parser may spend. The fuel is llguidance's own choice, about 20 ms for a grammar's
/// lexer and 15 ms for a token's mask.
pub(super) fn parser_limits() -> ParserLimits {
    ParserLimits {
        max_grammar_size: MAX_GRAMMAR_SYMBOLS,
        max_lexer_states: MAX_LEXER_STATES,
        // Errors would quote the grammar and the answer.
        verbose_errors: false,
        ..ParserLimits::default()
    }
}
