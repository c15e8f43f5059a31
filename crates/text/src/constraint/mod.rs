//! Structured output: answers that must belong to a language.
//!
//! A [`GrammarSource`] says what the language is. [`GrammarCompiler::compile`] makes a [`Grammar`]
//! of it, once per source, and [`Grammar::start`] a [`Matcher`] for each answer, which says before
//! every token which ones may come ([`Matcher::mask`]), and which must ([`Matcher::forced`]).
//!
//! The parser is llguidance's: an Earley parser over a lexer of derivatives of regular
//! expressions, walked along a trie of the vocabulary. What is ours is everything around it:
//!
//! | module | does |
//! |---|---|
//! | `vocabulary` | the bytes of every token, whatever kind of tokenizer it is of |
//! | `source` | the languages, and how each becomes one of llguidance's |
//! | `schema` | checks JSON schemas: what is not enforced is refused by name |
//! | `lark` | grammars that clients write, schemas within them |
//! | `gbnf` | the same in the notation of llama.cpp |
//! | `compiler` | compiles, within bounds, and remembers |
//! | `matcher` | one answer |
//!
//! # Bounds
//!
//! A grammar comes from a client, so all of the work on it is bounded: the size of the source and
//! its nesting here, the size of what becomes of it and the work of each step in the parser
//! ([`MAX_SOURCE_BYTES`] and its neighbours). Compilation cannot be interrupted; the bounds are
//! such that it ends.

mod cache;
mod compiler;
mod error;
mod gbnf;
mod lark;
mod limits;
mod matcher;
mod schema;
mod source;
mod vocabulary;

pub use compiler::GrammarCompiler;
pub use error::{GrammarError, MatchError};
pub(crate) use lark::literal;
pub use limits::{
    MAX_CACHED_GRAMMARS, MAX_CHOICES, MAX_GRAMMAR_SYMBOLS, MAX_LEXER_STATES, MAX_NESTING,
    MAX_REPEAT, MAX_SOURCE_BYTES,
};
pub use matcher::{Grammar, Matcher};
pub use source::GrammarSource;

#[cfg(test)]
mod tests;
