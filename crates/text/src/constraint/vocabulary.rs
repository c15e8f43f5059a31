//! The bytes of every token, for the parser to walk along.
//!
//! What a token means in an answer is what [`Detokenizer`](crate::Detokenizer) makes of it, so the
//! bytes are asked of the same decoder: byte-level tokens by their alphabet, byte tokens by their
//! names, and all others by decoding them behind another token.
//!
//! # The blank in front
//!
//! Tokenizers with `▁` for a blank drop the first one of a text. A model trained with them begins
//! an object with `▁{`, not with `{`, and both are the same text. At the start of an answer such a
//! token is therefore taken for the tokens of its text without the blank, usually one.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

use super::error::{GrammarError, words};
use super::limits::MAX_TOKEN_BYTES;
use crate::byte_level::token_bytes;
use crate::detokenizer::{byte_of, has_byte_fallback, is_byte_level};
use crate::tokenizer::{Engine, Tokenizer};

/// Texts whose tokens rarely grow into what follows, to decode and encode others behind.
const ANCHORS: [&str; 4] = ["\u{2}", "\n", ".", "a"];

/// A tokenizer's vocabulary, as the parser takes it.
pub(super) struct Vocabulary {
    pub(super) environment: TokEnv,
    /// Tokens that are another text at the start of an answer, with tokens that are this text
    /// everywhere. None for no text.
    first: HashMap<u32, Vec<u32>>,
    /// The other way round, for single tokens.
    blank: HashMap<u32, u32>,
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary")
            .field("first", &self.first.len())
            .finish_non_exhaustive()
    }
}

impl Vocabulary {
    /// Of all ids below `size`; `stops` end an answer, and are never text.
    pub(super) fn new(
        tokenizer: &Arc<Tokenizer>,
        size: usize,
        stops: &[u32],
    ) -> Result<Self, GrammarError> {
        let invalid = |reason: String| GrammarError::Vocabulary(reason);
        let count = u32::try_from(size).map_err(|_| invalid(format!("it has {size} tokens")))?;
        let stops: Vec<u32> = stops.iter().copied().filter(|stop| *stop < count).collect();
        let Some(&first_stop) = stops.first() else {
            return Err(invalid("no token ends an answer".into()));
        };
        let speller = Speller::new(tokenizer)?;
        let mut spellings = Vec::with_capacity(size);
        let mut firsts = Vec::new();
        for id in 0..count {
            let mut spelling = if tokenizer.is_special(id) || stops.contains(&id) {
                special(tokenizer, id)
            } else {
                speller.spell(id)
            };
            if spelling.len() > MAX_TOKEN_BYTES {
                spelling.clear();
            }
            if spelling.starts_with(b" ")
                && let Some(text) = speller.spell_first(id)
                && text != spelling
            {
                firsts.push((id, text));
            }
            spellings.push(spelling);
        }
        let info = TokRxInfo::new(count, first_stop);
        // The library asserts its bounds on vocabularies.
        let trie = catch_unwind(|| Ok(TokTrie::from(&info, &spellings).with_eos_tokens(&stops)))
            .map_err(|error| invalid(words(error)))?;
        let spelled = firsts.into_iter().map(|(id, text)| {
            let tokens = trie.greedy_tokenize(&text);
            let exact = trie.decode(&tokens) == text;
            (id, if exact { tokens } else { Vec::new() })
        });
        let first: HashMap<u32, Vec<u32>> = spelled.collect();
        let blank = first
            .iter()
            .filter_map(|(id, tokens)| Some((*tokens.first()?, *id, tokens.len())))
            .filter(|(.., count)| *count == 1)
            .map(|(token, id, _)| (token, id))
            .collect();
        Ok(Self {
            environment: Arc::new(Environment {
                trie,
                tokenizer: Arc::clone(tokenizer),
                anchor: speller.anchor.map(|anchor| (anchor.text, anchor.encoded)),
            }),
            first,
            blank,
        })
    }

    /// The tokens that are anywhere what `id` is at the start of an answer, if that is another
    /// text; none if it is no text.
    pub(super) fn at_start(&self, id: u32) -> Option<&[u32]> {
        self.first.get(&id).map(Vec::as_slice)
    }

    /// All of [`at_start`](Self::at_start).
    pub(super) fn firsts(&self) -> impl Iterator<Item = (u32, &[u32])> {
        self.first
            .iter()
            .map(|(id, tokens)| (*id, tokens.as_slice()))
    }

    /// How a text usually starts that starts with the text of `id`.
    pub(super) fn usual_start(&self, id: u32) -> u32 {
        self.blank.get(&id).copied().unwrap_or(id)
    }
}

/// A token that is never text: the parser has a mark for those.
fn special(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let name = tokenizer.id_to_token(id).unwrap_or_default();
    let mut spelling = vec![TokTrie::SPECIAL_TOKEN_MARKER];
    if name.is_empty() {
        spelling.extend(format!("[{id}]").bytes());
    } else {
        spelling.extend(name.bytes());
    }
    spelling
}

/// Something to decode and encode behind.
#[derive(Debug)]
struct Anchor {
    text: &'static str,
    /// Its ids, as `encode` gives them.
    encoded: Vec<u32>,
    /// What they decode to.
    decoded: String,
}

#[derive(Debug)]
struct Speller<'t> {
    tokenizer: &'t Tokenizer,
    /// Byte-level vocabularies need none.
    anchor: Option<Anchor>,
}

impl<'t> Speller<'t> {
    fn new(tokenizer: &'t Tokenizer) -> Result<Self, GrammarError> {
        let byte_level = match tokenizer.engine() {
            Engine::Library(library) => library.decoder().is_some_and(is_byte_level),
            Engine::SentencePiece(_) => false,
        };
        if byte_level {
            return Ok(Self {
                tokenizer,
                anchor: None,
            });
        }
        let anchor = ANCHORS.into_iter().find_map(|text| {
            let encoded = tokenizer.encode(text, false).ok()?;
            let decoded = tokenizer.decode(&encoded, false).ok()?;
            (decoded == text).then_some(Anchor {
                text,
                encoded,
                decoded,
            })
        });
        match anchor {
            Some(anchor) => Ok(Self {
                tokenizer,
                anchor: Some(anchor),
            }),
            None => Err(GrammarError::Vocabulary(
                "it has no token for any of a few usual characters".into(),
            )),
        }
    }

    /// What a token adds to a text. Nothing for what is no text: unknown ids, replacement
    /// characters.
    fn spell(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.tokenizer.id_to_token(id) else {
            return Vec::new();
        };
        let Some(anchor) = &self.anchor else {
            return token_bytes(&token);
        };
        if self.is_byte(id)
            && let Some(byte) = byte_of(&token)
        {
            return vec![byte];
        }
        if self.is_unknown(id) {
            return Vec::new();
        }
        let mut ids = anchor.encoded.clone();
        ids.push(id);
        let text = self.tokenizer.decode(&ids, false).unwrap_or_default();
        let added = text.strip_prefix(anchor.decoded.as_str());
        let added = added.unwrap_or_default();
        if added.contains(char::REPLACEMENT_CHARACTER) {
            return Vec::new();
        }
        added.as_bytes().to_vec()
    }

    /// What a token is at the start of a text. `None` if the place never makes a difference.
    fn spell_first(&self, id: u32) -> Option<Vec<u8>> {
        self.anchor.as_ref()?;
        let text = self.tokenizer.decode(&[id], false).unwrap_or_default();
        Some(text.into_bytes())
    }

    fn is_byte(&self, id: u32) -> bool {
        match self.tokenizer.engine() {
            Engine::Library(library) => library.decoder().is_some_and(has_byte_fallback),
            Engine::SentencePiece(model) => model.is_byte(id),
        }
    }

    fn is_unknown(&self, id: u32) -> bool {
        match self.tokenizer.engine() {
            // `special` in every file, and left out as such.
            Engine::Library(_) => false,
            Engine::SentencePiece(model) => model.is_unknown(id),
        }
    }
}

/// The vocabulary with a way to tokenise what must come.
struct Environment {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
    anchor: Option<(&'static str, Vec<u32>)>,
}

impl Environment {
    /// Ids of `text`, as they are in the middle of a longer one. `None` where the tokenizer would
    /// change the text.
    fn encode(&self, text: &str) -> Option<Vec<u32>> {
        let text = self.tokenizer.shield(text);
        let ids = match &self.anchor {
            None => self.tokenizer.encode(&text, false).ok()?,
            Some((anchor, prefix)) => {
                let ids = self.tokenizer.encode(&format!("{anchor}{text}"), false);
                ids.ok()?.strip_prefix(prefix.as_slice())?.to_vec()
            }
        };
        let bytes: Vec<u8> = ids
            .iter()
            .filter(|id| usize::try_from(**id).is_ok_and(|id| id < self.trie.vocab_size()))
            .flat_map(|id| self.trie.token(*id).iter().copied())
            .collect();
        (bytes == self.tokenizer.unshield(&text).as_bytes()).then_some(ids)
    }
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            self.encode(text)
                .unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()))
        })
    }
}
