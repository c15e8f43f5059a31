//! The model's tokenizer, and the border between control tokens and text.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use tokenizers::{
    AddedToken, DecoderWrapper, Encoding, Model, Normalizer, OffsetType, PreTokenizedString,
    PreTokenizer, Token,
};

use crate::added::AddedTokens;
use crate::error::TextError;
use crate::shield::{self, SENTINEL, Shield};

/// A Hugging Face `tokenizer.json`, with control tokens kept apart from what users write.
///
/// # Shielding
///
/// Text of a client goes through [`shield`](Self::shield) before it reaches a chat template.
/// [`encode`](Self::encode) then takes control tokens in shielded stretches as plain text, and
/// those around them as control tokens. Shielded are
///
/// - every added token marked `special`,
/// - every other added token that looks like markup, `<...>`, `[...]` or `{...}` (`</s>`,
///   `<tool_call>`): files mark control tokens carelessly,
/// - literals named with [`with_shielded`](Self::with_shielded),
///
/// less those named with [`with_recognised`](Self::with_recognised). Other added tokens (runs of
/// spaces, words added by fine-tuning) are vocabulary, and users' text may use them.
///
/// Text without a shielded literal is tokenised exactly as the tokenizers library does it.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    raw: AddedTokens,
    normalized: AddedTokens,
    shield: Shield,
    shielded: HashSet<String>,
    recognised: HashSet<String>,
    /// Shielded literals that the model's own vocabulary holds too.
    in_vocabulary: HashMap<u32, String>,
    special: HashSet<u32>,
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
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(invalid)?;
        inner.with_truncation(None).map_err(invalid)?;
        inner.with_padding(None);
        if inner.get_decoder().is_some_and(strips_right) {
            return Err(TextError::InvalidTokenizer(
                "a `Strip` decoder with `stop` above 0 is not supported".into(),
            ));
        }

        let mut added: Vec<(u32, AddedToken)> =
            inner.get_added_tokens_decoder().into_iter().collect();
        added.sort_unstable_by_key(|(id, _)| *id);
        let special = added
            .iter()
            .map(|(id, _)| *id)
            .filter(|&id| {
                // The library compares the text of the token, not its flag, when it decodes.
                let vocabulary = inner.get_added_vocabulary();
                inner
                    .id_to_token(id)
                    .is_some_and(|token| vocabulary.is_special_token(&token))
            })
            .collect();
        let shielded = added
            .iter()
            .filter(|(_, token)| token.special || is_markup(&token.content))
            .map(|(_, token)| token.content.clone())
            .collect();
        let (raw, normalized) = searches(&inner, added)?;
        let shield = Shield::new(Vec::new(), &[], None)?;
        Self {
            inner,
            raw,
            normalized,
            shield,
            shielded,
            recognised: HashSet::new(),
            in_vocabulary: HashMap::new(),
            special,
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
        let mut normalized = Vec::new();
        for (_, token) in self.inner.get_added_tokens_decoder() {
            if token.normalized && literals.contains(&token.content) {
                normalized.push(normalize(&self.inner, &token.content)?);
            }
        }
        self.in_vocabulary = literals
            .iter()
            .filter_map(|literal| {
                let id = self.inner.get_model().token_to_id(literal)?;
                Some((id, literal.clone()))
            })
            .collect();
        self.shield = Shield::new(literals, &normalized, self.inner.get_normalizer())?;
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
    /// (usually a beginning-of-sequence token in front).
    ///
    /// # Errors
    /// [`TextError::Encode`] where the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        let encoding = if text.contains(SENTINEL) {
            self.encode_shielded(text)
                .and_then(|encoding| self.inner.post_process(encoding, None, add_special_tokens))
        } else {
            self.inner.encode_fast(text, add_special_tokens)
        };
        let encoding = encoding.map_err(|error| TextError::Encode(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The stages of the library's `encode`, with the sentinels taken out in between.
    fn encode_shielded(&self, text: &str) -> tokenizers::Result<Encoding> {
        // Some pre-tokenizers treat the piece at offset 0 differently.
        let mut text = PreTokenizedString::from(text.trim_start_matches(SENTINEL));
        text.split(|_, piece| Ok(self.raw.split(&piece)))?;
        text.split(|_, mut piece| {
            if piece.get().contains(SENTINEL) {
                piece.filter(|c| c != SENTINEL);
            }
            if let Some(normalizer) = self.inner.get_normalizer() {
                normalizer.normalize(&mut piece)?;
            }
            Ok(self.normalized.split(&piece))
        })?;
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut text)?;
        }
        text.tokenize(|piece| self.tokenize_plain(piece.get()))?;
        text.into_encoding(None, 0, OffsetType::None)
    }

    /// Tokenises text without added tokens in it.
    ///
    /// A model whose own vocabulary holds control tokens (Unigram lists `</s>`, with the best score
    /// there is) may find one there in shielded text. The text is then cut in the middle of it.
    fn tokenize_plain(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        let tokens = self.inner.get_model().tokenize(text)?;
        let cuts: Vec<usize> = tokens
            .iter()
            .filter_map(|token| {
                let literal = self.in_vocabulary.get(&token.id)?;
                let (start, end) = token.offsets;
                // The unknown token is a control token too, and stands for anything.
                let found = text.get(start..end)? == literal;
                let cut = start + literal.chars().next()?.len_utf8();
                (found && cut < end).then_some(cut)
            })
            .collect();
        if cuts.is_empty() {
            return Ok(tokens);
        }
        let mut result = Vec::with_capacity(tokens.len() + cuts.len());
        let mut done = 0;
        for cut in cuts.into_iter().chain([text.len()]) {
            result.extend(self.tokenize_plain(&text[done..cut])?);
            done = cut;
        }
        Ok(result)
    }

    /// Text of `ids` as the tokenizers library decodes them; unknown ids decode to nothing.
    ///
    /// # Errors
    /// [`TextError::Decode`] where the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        self.inner
            .decode(ids, skip_special_tokens)
            .map_err(|error| TextError::Decode(error.to_string()))
    }

    /// Id of a token, given as the vocabulary spells it.
    #[must_use]
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token with this id, as the vocabulary spells it.
    #[must_use]
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether decoding without special tokens leaves this one out.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Number of tokens, added ones included. Ids need not be contiguous.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    pub(crate) fn decoder(&self) -> Option<&DecoderWrapper> {
        self.inner.get_decoder()
    }
}

/// The two searches of the library: tokens to find in raw text, tokens to find after
/// normalisation.
fn searches(
    inner: &tokenizers::Tokenizer,
    added: Vec<(u32, AddedToken)>,
) -> Result<(AddedTokens, AddedTokens), TextError> {
    let (mut raw, mut normalized) = (Vec::new(), Vec::new());
    for (id, token) in added {
        if token.normalized {
            normalized.push((normalize(inner, &token.content)?, id, token));
        } else {
            raw.push((token.content.clone(), id, token));
        }
    }
    // A token that normalises to nothing cannot be found.
    normalized.retain(|(text, ..)| !text.is_empty());
    Ok((AddedTokens::new(raw)?, AddedTokens::new(normalized)?))
}

fn normalize(inner: &tokenizers::Tokenizer, text: &str) -> Result<String, TextError> {
    let mut text = tokenizers::NormalizedString::from(text);
    if let Some(normalizer) = inner.get_normalizer() {
        normalizer.normalize(&mut text).map_err(invalid)?;
    }
    Ok(text.get().to_owned())
}

/// Whether a literal is shaped like a control token rather than like text.
fn is_markup(literal: &str) -> bool {
    let bracketed = |open, close| literal.starts_with(open) && literal.ends_with(close);
    literal.len() > 2
        && (bracketed('<', '>') || bracketed('[', ']') || bracketed('{', '}'))
        && !literal.contains(char::is_whitespace)
}

fn strips_right(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::Strip(strip) => strip.stop > 0,
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(strips_right),
        _ => false,
    }
}

fn invalid(error: impl std::fmt::Display) -> TextError {
    TextError::InvalidTokenizer(error.to_string())
}

#[cfg(test)]
mod tests;
