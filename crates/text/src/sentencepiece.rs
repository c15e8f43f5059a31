//! A SentencePiece `tokenizer.model`, as `.nemo` archives carry it.
//!
//! The tokenizers library has models of the same names, and Hugging Face's converters fit
//! SentencePiece models to them, which holds for most texts and not for all: it loses the blank in
//! front of a text that begins with a symbol, ranks merges where SentencePiece compares scores,
//! finds control symbols in texts of a Unigram model, drops blanks piece by piece, and decodes a
//! run of bytes as all or nothing. A server that promises the tokens of the reference cannot have
//! that, so this module is the reference's algorithm (sentencepiece 0.2.3), in four steps:
//!
//! | step | module | does |
//! |---|---|---|
//! | [`normalizer`] | [`charsmap`] | rules for characters, blanks to `▁`, the blank in front |
//! | [`bpe`] or [`unigram`] | [`trie`] | normalised text to pieces |
//! | [`SentencePiece::encode`] | [`vocabulary`] | pieces to ids; the unknown piece or bytes for the rest |
//! | [`decoder`] | | ids to text, one at a time |
//!
//! # What becomes of what is in the file
//!
//! | in the file | here |
//! |---|---|
//! | normal pieces | vocabulary of texts |
//! | user-defined symbols | found wherever they stand, before and after normalisation, the longest first; never normalised, merged or split. Those that look like markup are shielded when clients write them; others, such as a line break, are vocabulary |
//! | control symbols | never found in a text; special, so decoding leaves them out when asked to |
//! | the unknown piece | one id for each run of characters that no piece covers; decodes to `unk_surface` |
//! | byte pieces | instead of the unknown piece, one for each byte of such a character |
//! | unused pieces | merged by BPE on the way to longer ones and then taken apart; not there for Unigram |
//! | `add_dummy_prefix`, `treat_whitespace_as_suffix` | a blank before or behind the whole text |
//! | `remove_extra_whitespaces`, `escape_whitespaces`, `precompiled_charsmap` | as in the reference |
//! | self tests, how it was trained | skipped |
//!
//! No id is put around a text: where a model wants a beginning-of-sequence token, its prompt says
//! so.
//!
//! # Shielded text
//!
//! A shielded symbol is not there for the characters that are marked ([`marks`]): the text is
//! taken apart as if the symbol were a control symbol. Everything else stays what it is.
//!
//! # What is refused
//!
//! Files beyond [`MAX_FILE`], 2^20 pieces or 1024 bytes for a piece; what is not a protocol buffer;
//! models of words or characters; rules for decoded text (`denormalizer_spec`), which cannot be
//! streamed; pieces that are empty, double, of unknown type, or not UTF-8; scores that are not
//! finite; no unknown piece or two; byte pieces that `byte_fallback` does not announce, or not all
//! 256 if it does; a `precompiled_charsmap` that leads out of itself or makes more than 256 bytes
//! of a character. Time and memory for a text grow with its length, times its logarithm (BPE) or the
//! length of the longest piece (Unigram).

mod bpe;
mod charsmap;
mod decoder;
mod marks;
mod normalizer;
mod proto;
mod trie;
mod unigram;
mod vocabulary;

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use prost::Message;

use crate::error::TextError;
use crate::shield::{Disguises, Literals};

pub(crate) use decoder::Decoder;
use decoder::{LeadingBlanks, Spelling};
use marks::Marks;
use normalizer::{BLANK, Normalizer};
use proto::{Kind, ModelProto, ModelType};
use unigram::Unigram;
use vocabulary::Vocabulary;

/// The largest file that is accepted, in bytes. Models with a quarter of a million pieces have 5
/// million. One made of empty pieces takes 60 times its size until it is refused.
pub(crate) const MAX_FILE: usize = 16 << 20;

/// A model, ready to work.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    spelling: Arc<Spelling>,
    normalizer: Arc<Normalizer>,
    model: Model,
    /// User-defined symbols that clients cannot write.
    shielded: Arc<HashSet<u32>>,
}

#[derive(Debug)]
enum Model {
    Bpe,
    Unigram(Unigram),
}

/// A stretch of normalised text and its piece, if there is one.
#[derive(Debug)]
struct Segment<'t> {
    text: &'t str,
    id: Option<u32>,
}

impl SentencePiece {
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, TextError> {
        if bytes.len() > MAX_FILE {
            return Err(invalid(format!(
                "it has {} bytes, more than {MAX_FILE}",
                bytes.len()
            )));
        }
        let mut proto = ModelProto::decode(bytes)
            .map_err(|error| invalid(format!("it is not a SentencePiece model: {error}")))?;
        let denormalizer = proto.denormalizer_spec.take().unwrap_or_default();
        if !denormalizer.precompiled_charsmap.is_empty() {
            return Err(invalid("`denormalizer_spec` is not supported".into()));
        }
        let vocabulary = Vocabulary::new(&mut proto)?;
        let spec = proto.normalizer_spec.unwrap_or_default();
        let trainer = proto.trainer_spec.unwrap_or_default();
        let model = match trainer.model_type.map(ModelType::try_from) {
            None | Some(Ok(ModelType::Unigram)) => Model::Unigram(Unigram::new(&vocabulary)?),
            Some(Ok(ModelType::Bpe)) => Model::Bpe,
            Some(Ok(ModelType::Word | ModelType::Char)) => {
                return Err(invalid(
                    "models of words or characters are not supported".into(),
                ));
            }
            Some(Err(_)) => return Err(invalid("`model_type` is none that is known".into())),
        };
        let leading_blanks = match (spec.add_dummy_prefix(), spec.remove_extra_whitespaces()) {
            (_, true) => LeadingBlanks::Dropped,
            (true, false) => LeadingBlanks::OneDropped,
            (false, false) => LeadingBlanks::Kept,
        };
        Ok(Self {
            normalizer: Arc::new(Normalizer::new(&spec, &trainer, &vocabulary)?),
            model,
            spelling: Arc::new(Spelling {
                vocabulary,
                unknown: trainer.unk_surface().to_owned(),
                leading_blanks,
            }),
            shielded: Arc::default(),
        })
    }

    /// User-defined symbols as they decode.
    pub(crate) fn symbols(&self) -> impl Iterator<Item = String> {
        let symbols = self.vocabulary().user_defined();
        symbols.map(|(_, symbol)| symbol.replace(BLANK, " "))
    }

    /// Prepares for text in which `literals` are broken.
    pub(crate) fn shield(
        &mut self,
        literals: &[String],
    ) -> Result<Option<Box<dyn Disguises>>, TextError> {
        let literals: HashSet<&str> = literals.iter().map(String::as_str).collect();
        let (ids, symbols): (HashSet<u32>, Vec<String>) = self
            .vocabulary()
            .user_defined()
            .filter(|(_, symbol)| literals.contains(symbol.replace(BLANK, " ").as_str()))
            .map(|(id, symbol)| (id, symbol.to_owned()))
            .unzip();
        self.shielded = Arc::new(ids);
        if symbols.is_empty() {
            return Ok(None);
        }
        Ok(Some(Box::new(Disguised {
            normalizer: Arc::clone(&self.normalizer),
            ids: Arc::clone(&self.shielded),
            literals: Literals::new(symbols)?,
        })))
    }

    /// Ids of `text`, which may hold sentinels.
    pub(crate) fn encode(&self, text: &str) -> Vec<u32> {
        let (text, marks) = Marks::take(text);
        let mut normalized_marks = Marks::default();
        let normalized = self.normalizer.normalize(
            &text,
            |range, id| self.is_open(&marks, &range, id),
            |normalized, original| {
                if marks.touch(&original) {
                    normalized_marks.push(normalized);
                }
            },
        );
        let is_open = |range: Range<usize>, id| self.is_open(&normalized_marks, &range, id);
        let segments = match &self.model {
            Model::Bpe => bpe::segment(self.vocabulary(), &normalized, |start| {
                let is_open = |length, id| is_open(start..start + length, id);
                self.normalizer.symbol(&normalized[start..], is_open)
            }),
            Model::Unigram(unigram) => unigram.segment(self.vocabulary(), &normalized, is_open),
        };
        self.ids(&segments)
    }

    /// Whether the symbol `id` may be found at a place.
    fn is_open(&self, marks: &Marks, range: &Range<usize>, id: u32) -> bool {
        !(marks.touch(range) && self.shielded.contains(&id))
    }

    fn ids(&self, segments: &[Segment<'_>]) -> Vec<u32> {
        let mut ids = Vec::with_capacity(segments.len());
        let mut after_unknown = false;
        for segment in segments {
            match (segment.id, self.vocabulary().bytes()) {
                (Some(id), _) => ids.push(id),
                (None, Some(bytes)) => {
                    let spelling = segment.text.bytes();
                    ids.extend(spelling.filter_map(|byte| bytes.get(usize::from(byte))));
                }
                (None, None) if after_unknown => {}
                (None, None) => ids.push(self.vocabulary().unknown()),
            }
            after_unknown = segment.id.is_none();
        }
        ids
    }

    /// Text of `ids`; those beyond the vocabulary are nothing.
    pub(crate) fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut decoder = self.decoder(skip_special);
        let mut text = String::new();
        for &id in ids {
            decoder.push(id, &mut text);
        }
        decoder.finish(&mut text);
        text
    }

    /// For one text whose ids come one by one.
    pub(crate) fn decoder(&self, skip_special: bool) -> Decoder {
        Decoder::new(Arc::clone(&self.spelling), skip_special)
    }

    fn vocabulary(&self) -> &Vocabulary {
        &self.spelling.vocabulary
    }

    pub(crate) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.vocabulary().id(token)
    }

    pub(crate) fn id_to_token(&self, id: u32) -> Option<String> {
        self.vocabulary()
            .get(id)
            .map(|piece| piece.text.to_string())
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        let piece = self.vocabulary().get(id);
        piece.is_some_and(|piece| piece.kind == Kind::Control)
    }

    /// Whether this piece stands for a byte.
    pub(crate) fn is_byte(&self, id: u32) -> bool {
        let piece = self.vocabulary().get(id);
        piece.is_some_and(|piece| piece.kind == Kind::Byte)
    }

    /// Whether this piece stands for what no other piece does.
    pub(crate) fn is_unknown(&self, id: u32) -> bool {
        self.vocabulary().unknown() == id
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.vocabulary().len()
    }
}

/// Finds what normalisation makes a shielded symbol of.
#[derive(Debug)]
struct Disguised {
    normalizer: Arc<Normalizer>,
    ids: Arc<HashSet<u32>>,
    literals: Literals,
}

impl Disguises for Disguised {
    fn find(&self, text: &str, starts: &mut Vec<usize>) {
        let mut units = Vec::new();
        // As if all of the text were marked: so it will be encoded where it matters.
        let normalized = self.normalizer.normalize(
            text,
            |_, id| !self.ids.contains(&id),
            |normalized, original| units.push((normalized.start, original.start)),
        );
        let found = self.literals.find(&normalized).map(|found| found.start);
        for start in found.chain(self.literals.unfinished(&normalized)) {
            let unit = units.partition_point(|(normalized, _)| *normalized <= start);
            starts.extend(
                units
                    .get(unit.saturating_sub(1))
                    .map(|(_, original)| *original),
            );
        }
    }
}

fn invalid(reason: String) -> TextError {
    TextError::InvalidTokenizer(reason)
}

#[cfg(test)]
mod tests;
