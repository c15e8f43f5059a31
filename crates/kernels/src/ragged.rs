//! What attention must know of a step: which rows belong to whom, and where their keys lie.

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{Device, Result, Tensor, bail};

#[cfg(feature = "cuda")]
use crate::cuda::StepIndex;
use crate::portable::GatherPlan;

/// Tokens in one page of a paged cache: the second dimension of every cache tensor.
pub const PAGE_TOKENS: usize = 32;

/// The plain description of a step from which a [`Ragged`] is made. `T` is the number of new
/// tokens in all, `B` the number of sequences.
#[derive(Debug, Clone, Copy)]
pub struct RaggedLayout<'a> {
    /// `[B + 1]` prefix sums: sequence `i` owns the rows `cu_q[i]..cu_q[i + 1]`.
    pub cu_q: &'a [u32],
    /// `[B]` tokens of each sequence after this step, cached and new together.
    pub kv_len: &'a [u32],
    /// `[T]` where each new token's key and value go: `block * PAGE_TOKENS + offset`.
    pub kv_slots: &'a [u32],
    /// `[B, max_blocks]`, row-major: each sequence's blocks in the order of its tokens.
    pub block_table: &'a [u32],
    /// Columns of `block_table`.
    pub max_blocks: usize,
}

/// One sequence of a step.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    /// Its new tokens among the step's rows.
    pub(crate) rows: Range<usize>,
    /// Keys that its last row sees.
    pub(crate) kv_len: usize,
    /// The blocks that hold those keys, in order, and no others.
    pub(crate) blocks: Vec<u32>,
}

impl Sequence {
    /// Keys that row `row` of the sequence (counted from its first new one) sees.
    pub(crate) fn visible(&self, row: usize) -> usize {
        self.kv_len - self.rows.len() + row + 1
    }
}

/// A checked [`RaggedLayout`], made once per step and used by all layers.
#[derive(Debug)]
pub struct Ragged {
    pub(crate) sequences: Vec<Sequence>,
    pub(crate) slots: Vec<u32>,
    /// Blocks that a cache must have for every index in here to be within it.
    pub(crate) blocks_needed: usize,
    pub(crate) device: Device,
    /// `None` where the CPU's kernels walk the pages, else index tensors and masks of the
    /// portable route, made when something first takes it.
    plan: Option<OnceLock<GatherPlan>>,
    /// What the CUDA kernels must know of the step; `None` on another device.
    #[cfg(feature = "cuda")]
    pub(crate) index: Option<StepIndex>,
}

impl Ragged {
    /// Checks the layout and, off the CPU, brings what is needed of it to the device.
    ///
    /// # Errors
    /// When the parts do not fit each other: lengths, order of `cu_q`, a sequence with more new
    /// rows than tokens or with more tokens than its blocks hold. Also when the device fails.
    pub fn new(layout: RaggedLayout<'_>, device: &Device) -> Result<Self> {
        let mut ragged = Self::on_host(layout, device)?;
        if !device.is_cpu() {
            ragged.plan = Some(OnceLock::new());
        }
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = device {
            ragged.index = Some(StepIndex::new(&ragged.sequences, &ragged.slots, device)?);
        }
        Ok(ragged)
    }

    /// A layout for the route of plain candle operations, whatever the device: what kernels are
    /// held against ([`twin`](crate::twin)).
    ///
    /// # Errors
    /// As [`Ragged::new`].
    pub fn gathered(layout: RaggedLayout<'_>, device: &Device) -> Result<Self> {
        let mut ragged = Self::on_host(layout, device)?;
        ragged.plan = Some(OnceLock::new());
        Ok(ragged)
    }

    /// `[T, 1]` slots of the new tokens, u32; `None` where the CPU's kernels are to be taken.
    pub(crate) fn slots_on_device(&self) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if let Some(slots) = self
            .index
            .as_ref()
            .and_then(|index| index.slots(self.rows()))
        {
            return slots.map(Some);
        }
        Ok(self.plan()?.map(|plan| plan.slots.clone()))
    }

    /// What the portable route needs; `None` where the CPU's kernels are to be taken.
    pub(crate) fn plan(&self) -> Result<Option<&GatherPlan>> {
        let Some(plan) = &self.plan else {
            return Ok(None);
        };
        if let Some(made) = plan.get() {
            return Ok(Some(made));
        }
        let made = GatherPlan::new(&self.sequences, &self.slots, &self.device)?;
        Ok(Some(plan.get_or_init(|| made)))
    }

    fn on_host(layout: RaggedLayout<'_>, device: &Device) -> Result<Self> {
        let RaggedLayout {
            cu_q,
            kv_len,
            kv_slots,
            block_table,
            max_blocks,
        } = layout;
        if cu_q.len() != kv_len.len() + 1 || cu_q[0] != 0 {
            bail!(
                "`cu_q` must start with 0 and have one entry more than the {} of `kv_len`, it has {}",
                kv_len.len(),
                cu_q.len()
            );
        }
        if cu_q[kv_len.len()] as usize != kv_slots.len() {
            bail!(
                "`cu_q` ends with {} but there are {} `kv_slots`",
                cu_q[kv_len.len()],
                kv_slots.len()
            );
        }
        if kv_len.len().checked_mul(max_blocks) != Some(block_table.len()) {
            bail!(
                "`block_table` has {} entries, not {} x {max_blocks}",
                block_table.len(),
                kv_len.len()
            );
        }
        let mut sequences = Vec::with_capacity(kv_len.len());
        let mut blocks_needed = kv_slots
            .iter()
            .max()
            .map_or(0, |&slot| slot as usize / PAGE_TOKENS + 1);
        for (i, &kv_len) in kv_len.iter().enumerate() {
            let kv_len = kv_len as usize;
            let rows = cu_q[i] as usize..cu_q[i + 1] as usize;
            if rows.start > rows.end || rows.len() > kv_len {
                bail!("sequence {i} owns the rows {rows:?} but has {kv_len} tokens");
            }
            let used = kv_len.div_ceil(PAGE_TOKENS);
            if used > max_blocks {
                bail!("sequence {i} has {kv_len} tokens but {max_blocks} blocks");
            }
            let blocks = block_table[i * max_blocks..][..used].to_vec();
            let highest = blocks.iter().max().map_or(0, |&b| b as usize + 1);
            blocks_needed = blocks_needed.max(highest);
            sequences.push(Sequence {
                rows,
                kv_len,
                blocks,
            });
        }
        Ok(Self {
            sequences,
            slots: kv_slots.to_vec(),
            blocks_needed,
            device: device.clone(),
            plan: None,
            #[cfg(feature = "cuda")]
            index: None,
        })
    }

    /// New tokens of the step, over all sequences.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.slots.len()
    }

    /// Sequences of the step.
    #[must_use]
    pub fn sequences(&self) -> usize {
        self.sequences.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout<'a>(cu_q: &'a [u32], kv_len: &'a [u32], slots: &'a [u32]) -> RaggedLayout<'a> {
        RaggedLayout {
            cu_q,
            kv_len,
            kv_slots: slots,
            block_table: &[3, 1],
            max_blocks: 2,
        }
    }

    #[test]
    fn a_fitting_layout_is_taken_and_counted() {
        let ragged = Ragged::new(layout(&[0, 2], &[34], &[32, 33]), &Device::Cpu).unwrap();
        assert_eq!((ragged.rows(), ragged.sequences()), (2, 1));
        assert_eq!(ragged.blocks_needed, 4);
        assert_eq!(ragged.sequences[0].blocks, [3, 1]);
        assert_eq!(ragged.sequences[0].visible(0), 33);
    }

    #[test]
    fn parts_that_do_not_fit_are_refused_with_the_reason() {
        type Case = (&'static [u32], &'static [u32], &'static [u32], &'static str);
        let cases: [Case; 6] = [
            (&[0, 1, 2], &[34], &[0, 1], "one entry more"),
            (&[1, 2], &[34], &[0, 1], "start with 0"),
            (&[0, 3], &[34], &[0, 1], "ends with 3"),
            (&[0, 2], &[1], &[0, 1], "has 1 tokens"),
            (&[0, 2], &[65], &[0, 1], "65 tokens but 2 blocks"),
            (&[0, 2, 1], &[3, 3], &[0], "`block_table` has 2 entries"),
        ];
        for (cu_q, kv_len, slots, reason) in cases {
            let error = Ragged::new(layout(cu_q, kv_len, slots), &Device::Cpu).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
