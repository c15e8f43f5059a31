//! Paged attention; see `cuda/paged_attention.cuh`.
//!
//! A step takes up to three launches: one for sequences with one new row, one for those with
//! several, and one that joins the splits of long sequences with one new row.
//!
//! # What a card would gain from other kernels
//!
//! A decode has little to gain: it waits for memory, and reads each page once for all heads that
//! share it. A prefill of 16-bit floats and heads of up to 128 multiplies on tensor cores. What
//! the crate `candle-flash-attn` has over it are asynchronous copies to shared memory and larger
//! tiles. It is not used: it takes hours to compile, takes no pages of 32 tokens and none of
//! 8 bits. A prefill in f32, over pages of 8 bits or of larger heads multiplies on the plain
//! cores, which do an eighth or less as many multiplications a second.
//!
//! The fake driver that these kernels are tested on has no tensor cores: `tests/fake_cuda` does
//! in C++ what the PTX ISA says of the two instructions that need them.

#![expect(unsafe_code, reason = "kernels are launched")]

use candle_core::{CudaDevice, DType, Device, Result, Tensor, bail};

use super::attention::{MAX_ROWS, Parts, WARPS, aligned, on_tensor_cores, tile_of};
use super::launch::{Argument, Grid, Module, launch, module, suffix, unwritten};
use crate::pages::Pages;
use crate::ragged::Sequence;
use crate::scratch::{LANE_ELEMENTS, has_kernel};
use crate::work::{Counts, TILE_TOKENS, Work};

/// A step's list of work and all that it refers to, on the card: what all layers share.
#[derive(Debug)]
pub(crate) struct StepIndex {
    /// See [`crate::work`]; `None` for a step without rows.
    packed: Option<Tensor>,
    counts: Counts,
}

impl StepIndex {
    /// Brings a step to the card in one copy.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn new(sequences: &[Sequence], slots: &[u32], device: &CudaDevice) -> Result<Self> {
        let Work { packed, counts } = Work::new(sequences, slots);
        let packed = if slots.is_empty() {
            None
        } else {
            Some(Tensor::new(packed, &Device::Cuda(device.clone()))?)
        };
        Ok(Self { packed, counts })
    }

    /// `[T, 1]` slots of the step's `rows` new rows; `None` where there are none.
    pub(crate) fn slots(&self, rows: usize) -> Option<Result<Tensor>> {
        let packed = self.packed.as_ref()?;
        let slots = packed.narrow(0, self.counts.slots_at(), rows);
        Some(slots.and_then(|slots| slots.unsqueeze(1)))
    }
}

/// See [`crate::paged_attention()`], which has checked the shapes; `None` where these kernels do
/// not take the tensors: heads that are no multiple of 8 or beyond 256, or pages that hold
/// neither codes nor the queries' dtype.
pub(crate) fn paged_attention(
    q: &Tensor,
    k: Pages<'_>,
    v: Pages<'_>,
    index: &StepIndex,
    scale: f32,
) -> Result<Option<Tensor>> {
    let (rows, heads, head_dim) = q.dims3()?;
    let takes = suffix(q.dtype()).is_ok()
        && (k.data.dtype() == q.dtype() || k.data.dtype() == DType::U8)
        && has_kernel(head_dim)
        && [k.data, v.data].into_iter().all(aligned);
    if !takes {
        return Ok(None);
    }
    let Some(packed) = index.packed.as_ref().filter(|_| heads > 0) else {
        // Nothing to attend to: drivers without memory pools refuse to allocate nothing.
        return Ok(Some(q.clone()));
    };
    // Heads must lie side by side, rows need not.
    let [stride, within @ ..] = q.stride() else {
        bail!("queries are rows of heads, not {:?}", q.shape());
    };
    let q = if within == [head_dim, 1] && stride.is_multiple_of(LANE_ELEMENTS) && aligned(q) {
        q.clone()
    } else {
        q.force_contiguous()?
    };
    // SAFETY: every row of a step is in one sequence, and so in an item that writes it or in a
    // join that does.
    let out = unsafe { unwritten(&[rows, heads, head_dim], &q) }?;
    let parts = match index.counts.partials {
        0 => None,
        // SAFETY: an item writes each before a join reads it.
        partials => Some(unsafe { Parts::unwritten(partials, heads, head_dim, q.device()) }?),
    };
    let call = Call {
        q: &q,
        k,
        v,
        out: &out,
        packed,
        counts: index.counts,
        parts: parts.as_ref(),
        // Weights are powers of 2.
        scale: scale * std::f32::consts::LOG2_E,
    };
    call.decode()?;
    call.prefill()?;
    if let Some(parts) = &parts {
        call.join(parts)?;
    }
    Ok(Some(out))
}

/// An attention whose tensors have been looked at.
struct Call<'a> {
    /// `[T, heads, head_dim]` with heads side by side.
    q: &'a Tensor,
    k: Pages<'a>,
    v: Pages<'a>,
    out: &'a Tensor,
    packed: &'a Tensor,
    counts: Counts,
    parts: Option<&'a Parts>,
    scale: f32,
}

impl Call<'_> {
    fn decode(&self) -> Result<()> {
        let (_, heads, _) = self.q.dims3()?;
        let kv_heads = self.k.data.dim(2)?;
        let group = heads / kv_heads;
        let rows = tile_of(group);
        let tiles = kv_heads * group.div_ceil(rows);
        self.attend(&format!("decode_{rows}"), 0, (self.counts.decodes, tiles))
    }

    fn prefill(&self) -> Result<()> {
        let (_, heads, head_dim) = self.q.dims3()?;
        let (first, items) = (self.counts.decodes, self.counts.prefills);
        match on_tensor_cores(self.q.dtype(), head_dim) {
            Some(made_for) if self.k.scales.is_none() => {
                // A block has a row for each token of an item, and a group as many times that as
                // it has heads.
                let kernel = format!("prefill_{made_for}");
                self.attend(&kernel, first, (items, heads))
            }
            _ => {
                let tiles = TILE_TOKENS / (WARPS * MAX_ROWS);
                self.attend("prefill", first, (items, heads * tiles))
            }
        }
    }

    fn attend(&self, kernel: &str, first_item: usize, blocks: (usize, usize)) -> Result<()> {
        if blocks.0 == 0 {
            return Ok(());
        }
        let (_, heads, head_dim) = self.q.dims3()?;
        let arguments = [
            Argument::Tensor(self.q),
            Argument::Tensor(self.k.data),
            Argument::Tensor(self.v.data),
            Argument::optional(self.k.scales),
            Argument::optional(self.v.scales),
            Argument::Tensor(self.out),
            Argument::optional(self.parts.map(|parts| &parts.sums)),
            Argument::optional(self.parts.map(|parts| &parts.softmax)),
            Argument::Tensor(self.packed),
            Argument::Int(first_item),
            Argument::Int(self.q.stride()[0]),
            Argument::Int(heads),
            Argument::Int(self.k.data.dim(2)?),
            Argument::Int(head_dim),
            Argument::Float(self.scale),
        ];
        let of = suffix(self.q.dtype())?;
        let codes = if self.k.scales.is_some() { "_u8" } else { "" };
        let grid = Grid {
            blocks,
            threads: WARPS * 32,
        };
        // SAFETY: the parameters of `paged_attention.cuh`. The pages are dense, alike, aligned and
        // have every block that the index names; the list of work fits rows and sequences.
        unsafe {
            launch(
                self.q.device(),
                kernels(self.q.dtype())?,
                &format!("paged_{kernel}_{of}{codes}"),
                grid,
                &arguments,
            )
        }
    }

    fn join(&self, parts: &Parts) -> Result<()> {
        let (_, heads, head_dim) = self.q.dims3()?;
        let (from, to) = (self.counts.joins_at(), self.counts.slots_at());
        let joins = self.packed.narrow(0, from, to - from)?;
        let arguments = [
            Argument::Tensor(self.out),
            Argument::Tensor(&parts.sums),
            Argument::Tensor(&parts.softmax),
            Argument::Tensor(&joins),
            Argument::Int(heads),
            Argument::Int(head_dim),
        ];
        let grid = Grid {
            blocks: (self.counts.joins, heads),
            threads: (head_dim / LANE_ELEMENTS).next_multiple_of(32),
        };
        let kernel = format!("paged_join_{}", suffix(self.q.dtype())?);
        // SAFETY: the parameters of `paged_attention.cuh`; every split has written its sums.
        unsafe {
            launch(
                self.q.device(),
                kernels(self.q.dtype())?,
                &kernel,
                grid,
                &arguments,
            )
        }
    }
}

/// The kernels for activations of a dtype. A card's driver compiles a module as a whole, so that
/// each has its own.
fn kernels(dtype: DType) -> Result<Module> {
    match dtype {
        DType::F32 => Ok(module!("paged_attention_f32")),
        DType::F16 => Ok(module!("paged_attention_f16")),
        DType::BF16 => Ok(module!("paged_attention_bf16")),
        other => bail!("paged attention of {other:?} is not defined"),
    }
}
