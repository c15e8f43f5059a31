//! A `tokenizer.json`, worked by the tokenizers library.

use std::collections::{HashMap, HashSet};
use std::panic::catch_unwind;

use serde::de::IgnoredAny;
use tokenizers::normalizer::Range as Referential;
use tokenizers::{
    AddedToken, DecoderWrapper, Encoding, Model, NormalizedString, Normalizer, NormalizerWrapper,
    OffsetType, PreTokenizedString, PreTokenizer, Token,
};

use crate::added::AddedTokens;
use crate::error::TextError;
use crate::shield::{Disguises, Literals, SENTINEL};

/// The library's tokenizer, and its stages once more for text with sentinels in it.
#[derive(Debug)]
pub(crate) struct Library {
    inner: tokenizers::Tokenizer,
    raw: AddedTokens,
    normalized: AddedTokens,
    /// Shielded literals that the model's own vocabulary holds too.
    in_vocabulary: HashMap<u32, String>,
    special: HashSet<u32>,
}

impl Library {
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, TextError> {
        let mut inner = read(bytes)?;
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
        let (raw, normalized) = searches(&inner, added)?;
        Ok(Self {
            inner,
            raw,
            normalized,
            in_vocabulary: HashMap::new(),
            special,
        })
    }

    /// Added tokens, and whether the file marks them `special`.
    pub(crate) fn added_tokens(&self) -> impl Iterator<Item = (String, bool)> {
        let added = self.inner.get_added_tokens_decoder();
        added
            .into_values()
            .map(|token| (token.content, token.special))
    }

    /// Prepares for text in which `literals` are broken.
    pub(crate) fn shield(
        &mut self,
        literals: &[String],
    ) -> Result<Option<Box<dyn Disguises>>, TextError> {
        self.in_vocabulary = literals
            .iter()
            .filter_map(|literal| {
                let id = self.inner.get_model().token_to_id(literal)?;
                Some((id, literal.clone()))
            })
            .collect();
        let mut normalized = Vec::new();
        for (_, token) in self.inner.get_added_tokens_decoder() {
            if token.normalized && literals.contains(&token.content) {
                normalized.push(normalize(&self.inner, &token.content)?);
            }
        }
        Ok(match self.inner.get_normalizer() {
            Some(normalizer) if !normalized.is_empty() => Some(Box::new(Normalized {
                normalizer: normalizer.clone(),
                literals: Literals::new(normalized)?,
            })),
            _ => None,
        })
    }

    pub(crate) fn encode(
        &self,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, TextError> {
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
    pub(crate) fn encode_shielded(&self, text: &str) -> tokenizers::Result<Encoding> {
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

    pub(crate) fn decode(
        &self,
        ids: &[u32],
        skip_special_tokens: bool,
    ) -> Result<String, TextError> {
        self.inner
            .decode(ids, skip_special_tokens)
            .map_err(|error| TextError::Decode(error.to_string()))
    }

    pub(crate) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    pub(crate) fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    pub(crate) fn decoder(&self) -> Option<&DecoderWrapper> {
        self.inner.get_decoder()
    }
}

/// For tokens that the library looks for in normalised text.
#[derive(Debug)]
struct Normalized {
    normalizer: NormalizerWrapper,
    literals: Literals,
}

impl Disguises for Normalized {
    fn find(&self, text: &str, starts: &mut Vec<usize>) {
        let mut normalized = NormalizedString::from(text);
        if self.normalizer.normalize(&mut normalized).is_err() {
            // Encoding will report it: the same normaliser runs there.
            return;
        }
        for found in self.literals.find(normalized.get()) {
            if let Some(original) = normalized.convert_offsets(Referential::Normalized(found))
                && original.start < text.len()
            {
                starts.push(original.start);
            }
        }
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
    let mut text = NormalizedString::from(text);
    if let Some(normalizer) = inner.get_normalizer() {
        normalizer.normalize(&mut text).map_err(invalid)?;
    }
    Ok(text.get().to_owned())
}

fn strips_right(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::Strip(strip) => strip.stop > 0,
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(strips_right),
        _ => false,
    }
}

/// What the library reads, which panics on some of what it cannot: it unwraps a decoder that is no
/// JSON, for one.
fn read(bytes: &[u8]) -> Result<tokenizers::Tokenizer, TextError> {
    // Says where it is no JSON.
    serde_json::from_slice::<IgnoredAny>(bytes).map_err(invalid)?;
    let read = || {
        let tokenizer = tokenizers::Tokenizer::from_bytes(bytes)?;
        // A post-processor that puts tokens around texts which it does not describe panics with
        // the first: better now. Whether there is a token for no text is not asked.
        let _ = tokenizer.encode("", true);
        Ok::<_, tokenizers::Error>(tokenizer)
    };
    match catch_unwind(read) {
        Ok(read) => read.map_err(invalid),
        Err(_) => Err(invalid("it is not made as the tokenizers library has it")),
    }
}

fn invalid(error: impl std::fmt::Display) -> TextError {
    TextError::InvalidTokenizer(error.to_string())
}
