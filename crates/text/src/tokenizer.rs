//! The model's tokenizer, and the border between control tokens and text.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::error::TextError;
use crate::library::Library;
use crate::sentencepiece::SentencePiece;
use crate::shield::{self, Shield};

/// A Hugging Face `tokenizer.json` or a SentencePiece `tokenizer.model`, with control tokens kept
/// apart from what users write.
///
/// # Shielding
///
/// Text of a client goes through [`shield`](Self::shield) before it reaches a chat template.
/// [`encode`](Self::encode) then takes control tokens in shielded stretches as plain text, and
/// those around them as control tokens. Shielded are
///
/// - every added token marked `special`,
/// - every other added token, or user-defined symbol of SentencePiece, that looks like markup,
///   `<...>`, `[...]` or `{...}` (`</s>`, `<tool_call>`): files mark control tokens carelessly,
/// - literals named with [`with_shielded`](Self::with_shielded),
///
/// less those named with [`with_recognised`](Self::with_recognised). Other added tokens (runs of
/// spaces, words added by fine-tuning) are vocabulary, and users' text may use them.
///
/// Text without a shielded literal is tokenised exactly as the tokenizers library, or the
/// sentencepiece library, does it.
#[derive(Debug)]
pub struct Tokenizer {
    engine: Engine,
    shield: Shield,
    shielded: HashSet<String>,
    recognised: HashSet<String>,
}

#[derive(Debug)]
pub(crate) enum Engine {
    Library(Box<Library>),
    SentencePiece(Box<SentencePiece>),
}

impl Tokenizer {
    /// Reads the contents of a `tokenizer.json`.
    ///
    /// Truncation and padding that the file asks for are switched off: a prompt is served whole or
    /// refused.
    ///
    /// # Errors
    /// [`TextError::InvalidTokenizer`] where the file is not one, or has a decoder that strips
    /// characters from the right, which cannot be streamed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TextError> {
        let library = Library::from_bytes(bytes)?;
        let shielded = library
            .added_tokens()
            .filter(|(token, special)| *special || is_markup(token))
            .map(|(token, _)| token)
            .collect();
        Self::new(Engine::Library(Box::new(library)), shielded)
    }

    /// Reads the contents of a SentencePiece model, BPE or Unigram: the `tokenizer.model` of a
    /// `.nemo` archive.
    ///
    /// Ids and texts are those of the sentencepiece library, version 0.2.3. User-defined symbols
    /// are found wherever they stand, blanks are treated as the model wants it, and the blank that
    /// most models put in front of a text is put there once, whatever the text begins with.
    /// Control symbols (`<s>`, `</s>`) are never found in a text, and no id is put around one: the
    /// argument `add_special_tokens` of [`encode`](Self::encode) makes no difference.
    ///
    /// # Errors
    /// [`TextError::InvalidTokenizer`] where the file is not one, is damaged, has more than 16 MiB,
    /// 2^20 pieces or 1024 bytes for a piece, is a model of words or characters, or has rules for
    /// decoded text (`denormalizer_spec`), which cannot be streamed.
    pub fn from_sentencepiece(bytes: &[u8]) -> Result<Self, TextError> {
        let model = SentencePiece::from_bytes(bytes)?;
        let shielded = model.symbols().filter(|symbol| is_markup(symbol)).collect();
        Self::new(Engine::SentencePiece(Box::new(model)), shielded)
    }

    fn new(engine: Engine, shielded: HashSet<String>) -> Result<Self, TextError> {
        let shield = Shield::new(Vec::new(), None)?;
        Self {
            engine,
            shield,
            shielded,
            recognised: HashSet::new(),
        }
        .rebuild_shield()
    }

    /// Shields `literals` too.
    ///
    /// Made for placeholders that are no token but that a processor looks for in the rendered
    /// prompt. A literal may be just the beginning of what is looked for: `<|image_` breaks
    /// `<|image_1|>` and its like.
    ///
    /// # Errors
    /// [`TextError::InvalidTokenizer`] where there are too many literals to search for.
    pub fn with_shielded(mut self, literals: &[&str]) -> Result<Self, TextError> {
        self.shielded
            .extend(literals.iter().map(|&literal| literal.to_owned()));
        self.rebuild_shield()
    }

    /// Lets users write the control tokens `literals` (Kosmos-2's `<grounding>`, say).
    ///
    /// # Errors
    /// As [`with_shielded`](Self::with_shielded).
    pub fn with_recognised(mut self, literals: &[&str]) -> Result<Self, TextError> {
        self.recognised
            .extend(literals.iter().map(|&literal| literal.to_owned()));
        self.rebuild_shield()
    }

    fn rebuild_shield(mut self) -> Result<Self, TextError> {
        let literals: Vec<String> = self
            .shielded
            .difference(&self.recognised)
            .cloned()
            .collect();
        let disguises = match &mut self.engine {
            Engine::Library(library) => library.shield(&literals),
            Engine::SentencePiece(model) => model.shield(&literals),
        }?;
        self.shield = Shield::new(literals, disguises)?;
        Ok(self)
    }

    /// `text` such that [`encode`](Self::encode) takes all of it as plain text.
    ///
    /// The result is for chat templates and `encode` only: it may hold an invisible noncharacter
    /// (U+FDD0), which is removed from `text` itself if it is there. Use
    /// [`unshield`](Self::unshield) to show it to anyone.
    pub fn shield<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.shield.apply(text)
    }

    /// Shields every string in `value`, names of fields included.
    #[must_use]
    pub fn shield_json(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.shield(text).into_owned()),
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.shield_json(item)).collect())
            }
            Value::Object(fields) => Value::Object(self.shield_map(fields)),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    /// [`shield_json`](Self::shield_json) for the fields of an object, such as template arguments.
    #[must_use]
    pub fn shield_map(&self, fields: &Map<String, Value>) -> Map<String, Value> {
        fields
            .iter()
            .map(|(name, value)| (self.shield(name).into_owned(), self.shield_json(value)))
            .collect()
    }

    /// Takes the marks of [`shield`](Self::shield) out of `text` again.
    pub fn unshield<'t>(&self, text: &'t str) -> Cow<'t, str> {
        shield::remove(text)
    }

    /// Token ids of `text`, which may hold shielded stretches.
    ///
    /// With `add_special_tokens` the tokenizer's post-processor puts its own tokens around the text
    /// (usually a beginning-of-sequence token in front). SentencePiece models have none.
    ///
    /// # Errors
    /// [`TextError::Encode`] where the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        match &self.engine {
            Engine::Library(library) => library.encode(text, add_special_tokens),
            Engine::SentencePiece(model) => Ok(model.encode(text)),
        }
    }

    /// Text of `ids` as the tokenizer's library decodes them; unknown ids decode to nothing.
    ///
    /// # Errors
    /// [`TextError::Decode`] where the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        match &self.engine {
            Engine::Library(library) => library.decode(ids, skip_special_tokens),
            Engine::SentencePiece(model) => Ok(model.decode(ids, skip_special_tokens)),
        }
    }

    /// Id of a token, given as the vocabulary spells it.
    #[must_use]
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        match &self.engine {
            Engine::Library(library) => library.token_to_id(token),
            Engine::SentencePiece(model) => model.token_to_id(token),
        }
    }

    /// The token with this id, as the vocabulary spells it.
    #[must_use]
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        match &self.engine {
            Engine::Library(library) => library.id_to_token(id),
            Engine::SentencePiece(model) => model.id_to_token(id),
        }
    }

    /// Whether decoding without special tokens leaves this one out.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        match &self.engine {
            Engine::Library(library) => library.is_special(id),
            Engine::SentencePiece(model) => model.is_special(id),
        }
    }

    /// Number of tokens, added ones included. Ids need not be contiguous.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        match &self.engine {
            Engine::Library(library) => library.vocab_size(),
            Engine::SentencePiece(model) => model.vocab_size(),
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }
}

/// Whether a literal is shaped like a control token rather than like text.
fn is_markup(literal: &str) -> bool {
    let bracketed = |open, close| literal.starts_with(open) && literal.ends_with(close);
    literal.len() > 2
        && (bracketed('<', '>') || bracketed('[', ']') || bracketed('{', '}'))
        && !literal.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests;
