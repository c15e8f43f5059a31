//! Tokenizer, chat template, incremental detokenizer and stop strings.

/// The model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer;
