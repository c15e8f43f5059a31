//! Token ids to text, as they come.
//!
//! [`Detokenizer`] promises that its output, put together, is what [`Tokenizer::decode`] makes of
//! all the ids at once, and that each piece is whole characters. A token alone cannot be decoded,
//! so four strategies exist, by the tokenizer and its decoder:
//!
//! - *SentencePiece*: what a piece means depends on little of what was before, which its decoder
//!   keeps.
//! - *Byte level* (GPT-2 and its heirs): tokens are bytes. Bytes are buffered and everything up to
//!   an unfinished character goes out.
//! - *Byte fallback* (SentencePiece BPE): a run of byte tokens is text if all of it is valid UTF-8,
//!   and one replacement character for each byte if not. Only the token after the run decides, so a
//!   run is held until then; it is rarely longer than a word.
//! - *Everything else* is text per token.
//!
//! In the last two, how a token is spelled depends on whether something stands before it (a
//! leading space is stripped at the start of the text only). New tokens are therefore decoded
//! behind the tokens of the piece before, whose own text is then taken off. Each token is decoded
//! at most three times, whatever the length of the answer.

use std::sync::Arc;

use tokenizers::DecoderWrapper;

use crate::byte_level::token_bytes;
use crate::error::TextError;
use crate::sentencepiece::Decoder;
use crate::tokenizer::{Engine, Tokenizer};

/// Context tokens that are kept when the last piece had no text of its own.
const MAX_CONTEXT: usize = 8;

/// Tokens that are held because their text ends in a replacement character: as many as the longest
/// character has bytes.
const MAX_UNFINISHED: usize = 4;

/// Turns the ids of one answer into text.
///
/// Ids unknown to the tokenizer, and special ones if those are skipped, yield no text. The
/// `clean_up_tokenization_spaces` of Hugging Face configurations is not applied: it would rewrite
/// text that has gone out already.
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    SentencePiece(Decoder),
    Bytes(Vec<u8>),
    Window(Window),
}

#[derive(Debug)]
struct Window {
    rule: Rule,
    /// Ids whose text has gone out, kept for what they do to the next ones.
    context: Vec<u32>,
    /// Ids without text so far.
    pending: Vec<u32>,
}

/// When the pending tokens must wait for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// While the last is a byte token.
    ByteRun,
    /// While the text ends in a replacement character, for a few tokens.
    Replacement,
}

impl Detokenizer {
    /// For an answer of its own: the ids of the prompt have no influence, as in the reference
    /// implementation, so a leading space that the tokenizer strips at the start of a text is
    /// stripped at the start of the answer.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        let state = match tokenizer.engine() {
            Engine::SentencePiece(model) => State::SentencePiece(model.decoder(skip_special)),
            Engine::Library(library) => State::of(library.decoder()),
        };
        Self {
            tokenizer,
            skip_special,
            state,
        }
    }

    /// For an answer that continues the text of `before`, of which the last few ids are enough: a
    /// leading space that stands between the two is part of the answer.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn after(
        tokenizer: Arc<Tokenizer>,
        skip_special: bool,
        before: &[u32],
    ) -> Result<Self, TextError> {
        let mut detokenizer = Self::new(tokenizer, skip_special);
        for &id in &before[before.len().saturating_sub(MAX_CONTEXT)..] {
            detokenizer.push(id)?;
        }
        // What is unfinished has been told with the text before.
        detokenizer.flush()?;
        Ok(detokenizer)
    }

    /// Takes the next id; text if this completes some.
    ///
    /// # Errors
    /// [`TextError::Decode`] where the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TextError> {
        let Self {
            tokenizer,
            skip_special,
            state,
        } = self;
        let token = || {
            let is_skipped = *skip_special && tokenizer.is_special(id);
            (!is_skipped).then(|| tokenizer.id_to_token(id)).flatten()
        };
        let text = match state {
            State::SentencePiece(decoder) => {
                let mut text = String::new();
                decoder.push(id, &mut text);
                text
            }
            State::Bytes(bytes) => {
                bytes.extend(token().iter().flat_map(|token| token_bytes(token)));
                take_characters(bytes)
            }
            State::Window(window) => {
                let Some(token) = token() else {
                    return Ok(None);
                };
                window.pending.push(id);
                if window.rule == Rule::ByteRun && byte_of(&token).is_some() {
                    return Ok(None);
                }
                window.advance(tokenizer, false)?
            }
        };
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// What is left when no more ids come; bytes that never became a character are replacement
    /// characters.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn flush(&mut self) -> Result<Option<String>, TextError> {
        let text = match &mut self.state {
            State::SentencePiece(decoder) => {
                let mut text = String::new();
                decoder.finish(&mut text);
                text
            }
            State::Bytes(bytes) => {
                let text = String::from_utf8_lossy(bytes).into_owned();
                bytes.clear();
                text
            }
            State::Window(window) if window.pending.is_empty() => String::new(),
            State::Window(window) => window.advance(&self.tokenizer, true)?,
        };
        Ok(Some(text).filter(|text| !text.is_empty()))
    }
}

impl State {
    fn of(decoder: Option<&DecoderWrapper>) -> Self {
        if decoder.is_some_and(is_byte_level) {
            return Self::Bytes(Vec::new());
        }
        Self::Window(Window {
            rule: if decoder.is_some_and(has_byte_fallback) {
                Rule::ByteRun
            } else {
                Rule::Replacement
            },
            context: Vec::new(),
            pending: Vec::new(),
        })
    }
}

impl Window {
    /// The text of the pending tokens, which become the context; nothing if they must wait.
    fn advance(&mut self, tokenizer: &Tokenizer, last: bool) -> Result<String, TextError> {
        let before = tokenizer.decode(&self.context, false)?;
        self.context.extend(&self.pending);
        let mut text = tokenizer.decode(&self.context, false)?;
        let unfinished = self.rule == Rule::Replacement
            && text.ends_with(char::REPLACEMENT_CHARACTER)
            && self.pending.len() < MAX_UNFINISHED;
        if unfinished && !last {
            self.context
                .truncate(self.context.len() - self.pending.len());
            return Ok(String::new());
        }
        text.drain(..common_prefix(&before, &text));
        // A context without text would not shield the next token from what happens to a first one.
        let keep = if tokenizer.decode(&self.pending, false)?.is_empty() {
            MAX_CONTEXT.max(self.pending.len())
        } else {
            self.pending.len()
        };
        self.context
            .drain(..self.context.len().saturating_sub(keep));
        self.pending.clear();
        Ok(text)
    }
}

/// Length in bytes of what two texts begin with, in whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars()
        .zip(b.chars())
        .take_while(|(a, b)| a == b)
        .map(|(c, _)| c.len_utf8())
        .sum()
}

/// Takes everything but an unfinished character at the end.
fn take_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut unfinished = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        unfinished = 0;
        if !chunk.invalid().is_empty() {
            unfinished = chunk.invalid().len();
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    let end = bytes.len() - unfinished;
    let is_open = std::str::from_utf8(&bytes[end..])
        .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none());
    if is_open {
        text.pop();
        bytes.drain(..end);
    } else {
        bytes.clear();
    }
    text
}

pub(crate) fn is_byte_level(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteLevel(_) => true,
        DecoderWrapper::Sequence(sequence) => match sequence.get_decoders() {
            [only] => is_byte_level(only),
            _ => false,
        },
        _ => false,
    }
}

pub(crate) fn has_byte_fallback(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteFallback(_) => true,
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(has_byte_fallback),
        _ => false,
    }
}

/// The byte of a token like `<0x0A>`, as the library's `ByteFallback` decoder recognises it.
pub(crate) fn byte_of(token: &str) -> Option<u8> {
    let shaped = token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
    let digits = token.get(3..5).filter(|_| shaped)?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests;
