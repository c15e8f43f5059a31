//! Tensors that lie in pieces, as those have that several processes wrote together.

use std::ops::Range;

use super::{Entry, WeightFile, Weights, WeightsError};

/// A tensor made of parts of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedTensor {
    /// Its name.
    pub name: String,
    /// Its sizes, outermost first.
    pub shape: Vec<usize>,
    /// What it is made of: cells of a grid that covers it once.
    pub parts: Vec<Part>,
}

/// A part of a [`JoinedTensor`], of as many dimensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The tensor that its values are in, one after another.
    pub source: String,
    /// Index in that tensor, counted row-major, of the first of them.
    pub first: usize,
    /// Where it begins, along each axis.
    pub offsets: Vec<usize>,
    /// Its own sizes.
    pub sizes: Vec<usize>,
}

/// Where some of a tensor's values are.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) shard: usize,
    /// Its bytes in the shard; within it, and as long as sizes and dtype say.
    pub(super) range: Range<usize>,
    offsets: Vec<usize>,
    sizes: Vec<usize>,
}

impl Piece {
    /// All of a tensor.
    pub(super) fn whole(shard: usize, range: Range<usize>, shape: &[usize]) -> Self {
        Self {
            shard,
            range,
            offsets: vec![0; shape.len()],
            sizes: shape.to_vec(),
        }
    }
}

impl Weights {
    /// The tensors that `joined` describes, out of these, which are gone after that.
    ///
    /// # Errors
    /// [`WeightsError::Missing`] when a source is not there, [`WeightsError::Bytes`] when a part
    /// does not lie within its source or its tensor, or the parts differ in dtype or have not as
    /// many values as the tensor.
    pub fn join(mut self, joined: Vec<JoinedTensor>) -> Result<Self, WeightsError> {
        let entries = joined
            .into_iter()
            .map(|tensor| Ok((tensor.name.clone(), self.joined(&tensor)?)))
            .collect::<Result<_, WeightsError>>()?;
        self.entries = entries;
        Ok(self)
    }

    fn joined(&self, tensor: &JoinedTensor) -> Result<Entry, WeightsError> {
        let mut stored = None;
        let mut values = 0_usize;
        let mut pieces = Vec::with_capacity(tensor.parts.len());
        for part in &tensor.parts {
            let source = self
                .entries
                .get(&part.source)
                .ok_or_else(|| WeightsError::Missing {
                    name: part.source.clone(),
                    files: self.files(),
                })?;
            let wrong = || WeightsError::Bytes {
                name: tensor.name.clone(),
                file: self.shards[source.pieces[0].shard].name().to_owned(),
                reason: format!(
                    "is to have a part of {:?} at {:?} out of `{}`, which does not fit",
                    part.sizes, part.offsets, part.source
                ),
            };
            let piece = source.part(part, &tensor.shape).ok_or_else(wrong)?;
            if *stored.get_or_insert(source.stored) != source.stored {
                return Err(wrong());
            }
            values = values.saturating_add(part.sizes.iter().product());
            pieces.push(piece);
        }
        let expected = tensor
            .shape
            .iter()
            .try_fold(1_usize, |n, &size| n.checked_mul(size));
        match stored {
            Some(stored) if expected == Some(values) => Ok(Entry {
                stored,
                shape: tensor.shape.clone(),
                pieces,
            }),
            _ => Err(WeightsError::Bytes {
                name: tensor.name.clone(),
                file: self.files(),
                reason: format!(
                    "has parts of {values} values in all, and the shape {:?}",
                    tensor.shape
                ),
            }),
        }
    }
}

impl Entry {
    /// The piece of this entry, which must be in one, that a part of a tensor of `shape` is.
    fn part(&self, part: &Part, shape: &[usize]) -> Option<Piece> {
        let [piece] = self.pieces.as_slice() else {
            return None;
        };
        let same_rank = part.sizes.len() == shape.len() && part.offsets.len() == shape.len();
        let cells = part.offsets.iter().zip(&part.sizes).zip(shape);
        let mut fits = cells.map(|((at, size), end)| at.checked_add(*size).map(|to| to <= *end));
        if !same_rank || !fits.all(|fits| fits == Some(true)) {
            return None;
        }
        let width = self.stored.bitsize() / 8;
        let values = part
            .sizes
            .iter()
            .try_fold(1_usize, |n, &size| n.checked_mul(size))?;
        let start = piece
            .range
            .start
            .checked_add(part.first.checked_mul(width)?)?;
        let end = start.checked_add(values.checked_mul(width)?)?;
        (width > 0 && end <= piece.range.end).then(|| Piece {
            shard: piece.shard,
            range: start..end,
            offsets: part.offsets.clone(),
            sizes: part.sizes.clone(),
        })
    }

    /// The bytes of a tensor in pieces, put together.
    pub(super) fn gathered(&self, shards: &[WeightFile]) -> Vec<u8> {
        let width = self.stored.bitsize() / 8;
        let mut bytes = vec![0; self.shape.iter().product::<usize>() * width];
        for piece in &self.pieces {
            let source = &shards[piece.shard].bytes()[piece.range.clone()];
            // Along the last axis values lie together on both sides.
            let run = piece.sizes.last().copied().unwrap_or(1) * width;
            if run == 0 {
                continue;
            }
            for (row, values) in source.chunks_exact(run).enumerate() {
                let at = self.index(piece, row) * width;
                bytes[at..at + run].copy_from_slice(values);
            }
        }
        bytes
    }

    /// Index in the tensor of the first value in a row of a piece.
    fn index(&self, piece: &Piece, mut row: usize) -> usize {
        let mut index = 0;
        let mut stride = 1;
        let axes = self.shape.iter().zip(&piece.offsets).zip(&piece.sizes);
        for (axis, ((&length, &offset), &size)) in axes.enumerate().rev() {
            let mut at = offset;
            if axis + 1 < self.shape.len() {
                at += row % size;
                row /= size;
            }
            index += at * stride;
            stride *= length;
        }
        index
    }
}
