//! Between text and tokens: tokenizer, chat template, incremental detokenizer, stop strings.
//!
//! A request passes through this crate twice.
//!
//! **In.** Whatever the client wrote is first made harmless with [`Tokenizer::shield`] (or
//! [`Tokenizer::shield_json`] for template arguments), then [`ChatTemplate::render`] puts the
//! control tokens of the model around it, and [`Tokenizer::encode`] turns the result into ids. A
//! control token that the template wrote is one id; the same characters typed by a client are
//! ordinary text.
//!
//! **Out.** [`Detokenizer`] turns sampled ids into text as they come, never half a character, and
//! [`StopMatcher`] cuts that text at the first stop string, even one that spans several tokens.
//! [`ToolParser`] takes calls of tools out of it. Where a request says what its answer must be,
//! [`constraint`] says which token may come next.
//!
//! Nothing here does I/O, and nothing here bounds the length of its input except
//! [`TemplateLimits`]; the callers do both. All types are cheap to share between threads.

mod added;
mod byte_level;
pub mod constraint;
mod continuation;
mod detokenizer;
mod error;
mod library;
mod sentencepiece;
mod shield;
mod stop;
mod template;
#[cfg(test)]
mod testing;
mod tokenizer;
mod tools;

pub use continuation::{cut_at_mark, mark_end};
pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use stop::{Progress, StopMatcher};
pub use template::{ChatTemplate, SpecialTokens, TemplateFiles, TemplateLimits};
pub use tokenizer::Tokenizer;
pub use tools::{CallGrammar, Piece as ToolPiece, ToolFamily, ToolParser};
