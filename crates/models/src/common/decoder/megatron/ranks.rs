//! Tensors that Megatron spreads over its tensor-parallel ranks (Shoeybi et al. 2019).

use candle_core::{DType, Tensor};

use crate::LoadError;
use crate::common::params::Params;

/// The same branch in the parts of all ranks. There is always one.
#[derive(Clone)]
pub(super) struct Ranks<'a> {
    first: Params<'a>,
    further: Vec<Params<'a>>,
}

impl<'a> Ranks<'a> {
    pub(super) fn new(first: Params<'a>, further: impl IntoIterator<Item = Params<'a>>) -> Self {
        Self {
            first,
            further: further.into_iter().collect(),
        }
    }

    /// The first rank's part, which has a copy of all that is not spread.
    pub(super) fn first(&self) -> &Params<'a> {
        &self.first
    }

    pub(super) fn count(&self) -> usize {
        1 + self.further.len()
    }

    fn all(&self) -> impl Iterator<Item = &Params<'a>> {
        std::iter::once(&self.first).chain(&self.further)
    }

    /// The branch `name` of this one.
    pub(super) fn at(&self, name: &str) -> Self {
        Self::new(
            self.first.at(name),
            self.further.iter().map(|rank| rank.at(name)),
        )
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.first.has(name)
    }

    /// The parts of a matrix `[rows, columns]` whose rows are spread, in the order of the ranks.
    pub(super) fn row_parts(
        &self,
        name: &str,
        [rows, columns]: [usize; 2],
    ) -> Result<Vec<Tensor>, LoadError> {
        let part = self.share(name, rows)?;
        self.all()
            .map(|rank| rank.weight(name, &[part, columns]))
            .collect()
    }

    /// The same put together.
    pub(super) fn rows(&self, name: &str, shape: [usize; 2]) -> Result<Tensor, LoadError> {
        Ok(Tensor::cat(&self.row_parts(name, shape)?, 0)?)
    }

    /// A matrix `[rows, columns]` whose columns are spread.
    pub(super) fn columns(
        &self,
        name: &str,
        [rows, columns]: [usize; 2],
    ) -> Result<Tensor, LoadError> {
        let part = self.share(name, columns)?;
        let parts = self
            .all()
            .map(|rank| rank.weight(name, &[rows, part]))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::cat(&parts, 1)?)
    }

    /// The parts of a bias `[rows]` that goes with [`row_parts`](Self::row_parts).
    pub(super) fn bias_parts(&self, name: &str, rows: usize) -> Result<Vec<Tensor>, LoadError> {
        let part = self.share(name, rows)?;
        self.all()
            .map(|rank| rank.activation(name, &[part]))
            .collect()
    }

    /// What one rank has of `length`.
    fn share(&self, name: &str, length: usize) -> Result<usize, LoadError> {
        let ranks = self.count();
        if length.is_multiple_of(ranks) {
            return Ok(length / ranks);
        }
        Err(LoadError::tensor(
            self.first.name(name),
            format!("cannot be the part of one of {ranks} ranks: there are {length} rows in all"),
        ))
    }
}

/// A norm's weight as layers multiply by it, where it is stored around 0: computed in f32.
pub(super) fn around_one(weight: &Tensor) -> candle_core::Result<Tensor> {
    (weight.to_dtype(DType::F32)? + 1.0)?.to_dtype(weight.dtype())
}
