//! Encoders as stages that are computed in pieces.
//!
//! Work is counted in multiplications of matrix products and attention, which is where the time
//! goes. What is left out (norms, sums, copies) is some percent, the same in every layer.

use std::collections::VecDeque;
use std::ops::Range;

use candle_core::{Result, Tensor, bail};
use vlmd_backend::Encoding;
use vlmd_kernels::Linear;

/// Items of one piece at most: bounds the memory of a tower's inner layers (about 80 MB for as
/// many views of 336 x 336), whatever the number of pictures.
pub(crate) const MOST_ITEMS: usize = 8;

/// Rows of a result that need all of the stage before and nothing of each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stage<S> {
    /// What is computed.
    pub(crate) step: S,
    /// Items that it consists of, at least one.
    pub(crate) items: usize,
    /// Multiplications for each.
    pub(crate) work: u64,
}

/// What is computed stage by stage.
pub(crate) trait Staged: Send {
    /// Tells stages apart.
    type Step: Copy + Send;

    /// The part of a stage's result that belongs to some of its items. Parts are put together
    /// along their first dimension.
    fn compute(&self, step: Self::Step, items: Range<usize>) -> Result<Tensor>;

    /// Takes a stage's result.
    fn complete(&mut self, step: Self::Step, result: Tensor) -> Result<()>;

    /// What [`Encoding::finish`] gives, after the last stage.
    fn finish(self) -> Result<Vec<Tensor>>;
}

/// An [`Encoding`] in stages.
#[derive(Debug)]
pub(crate) struct InPieces<C: Staged> {
    computation: C,
    /// Those that are not complete.
    stages: VecDeque<Stage<C::Step>>,
    /// Items of the first of them that are computed, and what came out.
    done: usize,
    parts: Vec<Tensor>,
    /// Multiplications that are left.
    left: u64,
    /// Multiplications of a unit.
    unit: u64,
}

impl<C: Staged> InPieces<C> {
    /// The stages of `computation` in their order; a unit has so many multiplications.
    pub(crate) fn new(
        computation: C,
        stages: impl IntoIterator<Item = Stage<C::Step>>,
        unit: u64,
    ) -> Self {
        let counted = |stage: Stage<C::Step>| Stage {
            work: stage.work.max(1),
            ..stage
        };
        let stages: VecDeque<_> = stages.into_iter().map(counted).collect();
        let total = |stage: &Stage<_>| stage.work.saturating_mul(stage.items as u64);
        Self {
            left: stages.iter().map(total).fold(0, u64::saturating_add),
            computation,
            stages,
            done: 0,
            parts: Vec::new(),
            unit: unit.max(1),
        }
    }

    /// Computes these of the next items of a stage.
    fn piece(&mut self, stage: Stage<C::Step>, items: Range<usize>) -> Result<()> {
        let end = items.end;
        let part = self.computation.compute(stage.step, items)?;
        self.parts.push(part);
        self.done = end;
        if end < stage.items {
            return Ok(());
        }
        let result = Tensor::cat(&self.parts, 0)?;
        self.parts.clear();
        self.computation.complete(stage.step, result)?;
        self.done = 0;
        self.stages.pop_front();
        Ok(())
    }
}

impl<C: Staged> Encoding for InPieces<C> {
    fn remaining(&self) -> usize {
        usize::try_from(self.left.div_ceil(self.unit)).unwrap_or(usize::MAX)
    }

    fn advance(&mut self, units: usize) -> Result<()> {
        let mut budget = self.unit.saturating_mul(units as u64);
        let mut first = true;
        while let Some(&stage) = self.stages.front() {
            // To the nearest: what one call exceeds, another is short of.
            let affordable = budget.saturating_add(stage.work / 2) / stage.work;
            let affordable = usize::try_from(affordable).unwrap_or(usize::MAX);
            let most = MOST_ITEMS.min(stage.items.saturating_sub(self.done));
            let count = affordable.max(usize::from(first)).min(most);
            if count == 0 {
                break;
            }
            self.piece(stage, self.done..self.done + count)?;
            let work = stage.work.saturating_mul(count as u64);
            self.left = self.left.saturating_sub(work);
            budget = budget.saturating_sub(work);
            first = false;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Tensor>> {
        if !self.stages.is_empty() {
            bail!(
                "pictures were asked for with {} units of work left",
                self.remaining()
            );
        }
        self.computation.finish()
    }
}

/// Multiplications of linear layers for so many rows.
pub(crate) fn linear_work<'a>(layers: impl IntoIterator<Item = &'a Linear>, rows: usize) -> u64 {
    let weights = |layer: &Linear| layer.in_features() as u64 * layer.out_features() as u64;
    rows as u64 * layers.into_iter().map(weights).sum::<u64>()
}

/// Multiplications of attention, `rows` by `keys` in heads of `width` in all: scores and sums.
pub(crate) fn attention_work(rows: usize, keys: usize, width: usize) -> u64 {
    2 * rows as u64 * keys as u64 * width as u64
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use candle_core::{DType, Device};

    use super::*;

    type Pieces = Vec<(char, Range<usize>)>;

    /// Computes nothing, and writes down in which pieces.
    struct Recorder {
        pieces: Arc<Mutex<Pieces>>,
        results: Vec<Tensor>,
    }

    impl Staged for Recorder {
        type Step = char;

        fn compute(&self, step: char, items: Range<usize>) -> Result<Tensor> {
            self.pieces.lock().unwrap().push((step, items.clone()));
            Tensor::arange(items.start as u32, items.end as u32, &Device::Cpu)
        }

        fn complete(&mut self, _step: char, result: Tensor) -> Result<()> {
            self.results.push(result);
            Ok(())
        }

        fn finish(self) -> Result<Vec<Tensor>> {
            Ok(self.results)
        }
    }

    /// The pieces of each call with this many units of ten multiplications, and the encoding.
    fn advanced(
        stages: &[(char, usize, u64)],
        units: &[usize],
    ) -> (Vec<Pieces>, Box<dyn Encoding>) {
        let pieces = Arc::default();
        let recorder = Recorder {
            pieces: Arc::clone(&pieces),
            results: Vec::new(),
        };
        let stages = stages
            .iter()
            .map(|&(step, items, work)| Stage { step, items, work });
        let mut encoding = Box::new(InPieces::new(recorder, stages, 10));
        let mut calls = Vec::new();
        for &units in units {
            let before = encoding.remaining();
            encoding.advance(units).unwrap();
            assert!(encoding.remaining() <= before);
            calls.push(std::mem::take(&mut *pieces.lock().unwrap()));
        }
        (calls, encoding)
    }

    #[test]
    fn a_call_does_about_what_it_was_asked_for() {
        let stages = [('a', 3, 1), ('b', 3, 10), ('c', 1, 25)];
        let (calls, encoding) = advanced(&stages, &[1, 1, 2, 1]);
        // Three small ones and, to the nearest, one of the next.
        assert_eq!(calls[0], [('a', 0..3), ('b', 0..1)]);
        assert_eq!(calls[1], [('b', 1..2)]);
        // There is no half of the last: one unit is left over.
        assert_eq!(calls[2], [('b', 2..3)]);
        // At least one piece, whatever it costs.
        assert_eq!(calls[3], [('c', 0..1)]);
        assert_eq!(encoding.remaining(), 0);
        let results = encoding.finish().unwrap();
        let items = results
            .iter()
            .map(|result| result.to_vec1::<u32>().unwrap());
        assert_eq!(
            items.collect::<Vec<_>>(),
            [vec![0, 1, 2], vec![0, 1, 2], vec![0]]
        );
    }

    #[test]
    fn no_piece_is_wider_than_memory_allows() {
        let (calls, encoding) = advanced(&[('a', 2 * MOST_ITEMS + 1, 10)], &[usize::MAX]);
        let (one, two) = (MOST_ITEMS, 2 * MOST_ITEMS);
        assert_eq!(
            calls[0],
            [('a', 0..one), ('a', one..two), ('a', two..two + 1)]
        );
        assert_eq!(encoding.remaining(), 0);
    }

    #[test]
    fn no_units_are_one_piece_and_the_end_comes_in_counted_steps() {
        let (calls, mut encoding) = advanced(&[('a', 3, 20)], &[0]);
        assert_eq!(calls[0], [('a', 0..1)]);
        assert_eq!(encoding.remaining(), 4);
        encoding.advance(4).unwrap();
        assert_eq!(encoding.remaining(), 0);
        // Nothing is left, and nothing more is done.
        encoding.advance(4).unwrap();
        assert_eq!(encoding.finish().unwrap()[0].dims(), [3]);
    }

    #[test]
    fn features_are_not_given_before_the_end() {
        let (_, encoding) = advanced(&[('a', 3, 20)], &[1]);
        let error = encoding.finish().unwrap_err().to_string();
        assert!(error.contains("4 units of work left"), "{error}");
        let (_, nothing) = advanced(&[], &[]);
        assert_eq!(
            (nothing.remaining(), nothing.finish().unwrap().len()),
            (0, 0)
        );
    }

    #[test]
    fn a_failure_leaves_work_to_do() {
        struct Fails;
        impl Staged for Fails {
            type Step = ();

            fn compute(&self, (): (), _items: Range<usize>) -> Result<Tensor> {
                Tensor::zeros(1, DType::F32, &Device::Cpu)
            }

            fn complete(&mut self, (): (), _result: Tensor) -> Result<()> {
                bail!("no room")
            }

            fn finish(self) -> Result<Vec<Tensor>> {
                Ok(Vec::new())
            }
        }
        let stage = Stage {
            step: (),
            items: 2,
            work: 1,
        };
        let mut encoding = Box::new(InPieces::new(Fails, [stage], 1));
        assert!(encoding.advance(2).is_err());
        assert!(encoding.remaining() > 0);
        assert!(encoding.finish().is_err());
    }
}
