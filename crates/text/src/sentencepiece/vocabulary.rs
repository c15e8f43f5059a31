//! The pieces of a model.

use std::collections::HashMap;
use std::sync::Arc;

use super::proto::{Kind, ModelProto, PieceProto};
use crate::error::TextError;

/// The most pieces that are accepted; the largest published vocabularies have a quarter.
const MAX_PIECES: usize = 1 << 20;

/// The longest piece that is accepted, in bytes. Work on a text grows with the longest piece;
/// sentencepiece itself trains pieces of at most 16 characters, unless told otherwise.
const MAX_PIECE: usize = 1024;

/// One piece. Its id is its place.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) text: Arc<str>,
    /// Finite. Great is good: in BPE the merge that comes first, in Unigram a log probability.
    pub(super) score: f32,
    pub(super) kind: Kind,
}

/// All pieces, one of them the unknown one, no two alike.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pieces: Vec<Piece>,
    ids: HashMap<Arc<str>, u32>,
    unknown: u32,
    /// Where characters without a piece are spelt in bytes: the piece of each byte.
    bytes: Option<Vec<u32>>,
}

impl Vocabulary {
    /// Checks the pieces as sentencepiece 0.2.3 does (`ModelInterface::InitializePieces`), and
    /// their scores. Takes them out of `model`.
    pub(super) fn new(model: &mut ModelProto) -> Result<Self, TextError> {
        let byte_fallback = model.trainer_spec.as_ref().is_some_and(|s| s.byte_fallback);
        let protos = std::mem::take(&mut model.pieces);
        if protos.len() > MAX_PIECES {
            return Err(TextError::InvalidTokenizer(format!(
                "it has {} pieces, more than {MAX_PIECES}",
                protos.len()
            )));
        }
        let mut pieces = Vec::with_capacity(protos.len());
        let mut ids = HashMap::with_capacity(protos.len());
        let mut unknown = None;
        let mut bytes = HashMap::new();
        for (id, proto) in (0..).zip(protos) {
            let refused = |why: &str| Err(TextError::InvalidTokenizer(format!("piece {id} {why}")));
            let piece = match Piece::new(proto, byte_fallback) {
                Ok(piece) => piece,
                Err(why) => return refused(why),
            };
            match piece.kind {
                Kind::Unknown if unknown.replace(id).is_some() => {
                    return refused("is a second unknown piece");
                }
                Kind::Byte => {
                    if !byte_fallback {
                        return refused("is a byte, and `byte_fallback` is off");
                    }
                    let Some(byte) = byte(&piece.text) else {
                        return refused("is a byte, and not spelt like one");
                    };
                    bytes.insert(byte, id);
                }
                _ => {}
            }
            // The NUL that `Piece::new` lets pass is not there for anyone.
            if &*piece.text != "\0" && ids.insert(Arc::clone(&piece.text), id).is_some() {
                return refused(&format!("is a second `{}`", piece.text));
            }
            pieces.push(piece);
        }
        let Some(unknown) = unknown else {
            return Err(TextError::InvalidTokenizer(
                "it has no unknown piece".into(),
            ));
        };
        let bytes = byte_fallback
            .then(|| {
                (0..=u8::MAX)
                    .map(|byte| bytes.get(&byte).copied().ok_or(byte))
                    .collect()
            })
            .transpose()
            .map_err(|byte: u8| {
                TextError::InvalidTokenizer(format!(
                    "`byte_fallback` is on, and the piece `<0x{byte:02X}>` is missing"
                ))
            })?;
        Ok(Self {
            pieces,
            ids,
            unknown,
            bytes,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    pub(super) fn get(&self, id: u32) -> Option<&Piece> {
        self.pieces.get(usize::try_from(id).ok()?)
    }

    /// The id of a piece of any kind.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// The id of a piece that symbols of a text can be merged into, with its score.
    pub(super) fn merged(&self, text: &str) -> Option<(u32, &Piece)> {
        let id = self.id(text)?;
        let piece = self.get(id)?;
        matches!(piece.kind, Kind::Normal | Kind::Unused).then_some((id, piece))
    }

    pub(super) fn unknown(&self) -> u32 {
        self.unknown
    }

    /// The pieces of all 256 bytes, if characters without a piece are spelt in them.
    pub(super) fn bytes(&self) -> Option<&[u32]> {
        self.bytes.as_deref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Piece)> {
        (0..).zip(&self.pieces)
    }

    /// The pieces that are found in a text wherever they stand.
    pub(super) fn user_defined(&self) -> impl Iterator<Item = (u32, &str)> {
        self.iter()
            .filter(|(_, piece)| piece.kind == Kind::UserDefined)
            .map(|(id, piece)| (id, &*piece.text))
    }
}

impl Piece {
    fn new(proto: PieceProto, byte_fallback: bool) -> Result<Self, &'static str> {
        let kind = match proto.kind.map_or(Ok(Kind::Normal), Kind::try_from) {
            // Some converters write a NUL beside `<0x00>`; sentencepiece leaves it out as well.
            Ok(_) if byte_fallback && proto.piece == "\0" => Kind::Unused,
            Ok(_) if proto.piece.contains('\0') => return Err("holds a NUL"),
            Ok(kind) => kind,
            Err(_) => return Err("is of no known type"),
        };
        if proto.piece.is_empty() {
            return Err("is empty");
        }
        if proto.piece.len() > MAX_PIECE {
            return Err("has more than 1024 bytes");
        }
        if !proto.score.is_finite() {
            return Err("has a score that is not a finite number");
        }
        Ok(Self {
            text: proto.piece.into(),
            score: proto.score,
            kind,
        })
    }
}

/// The byte that a piece like `<0x0A>` stands for. Digits are upper case.
pub(super) fn byte(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let byte = u8::from_str_radix(digits, 16).ok()?;
    (format!("{byte:02X}") == digits).then_some(byte)
}
