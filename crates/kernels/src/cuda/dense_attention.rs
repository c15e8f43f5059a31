//! Dense attention; see `cuda/dense_attention.cuh`.
//!
//! One launch, and another one where few rows see so many keys that these are split.

#![expect(unsafe_code, reason = "kernels are launched")]

use candle_core::{DType, Device, Result, Tensor, bail};

use super::attention::{
    MAX_ROWS, Parts, TENSOR_CORE_ROWS, WARPS, aligned, on_tensor_cores, tile_of,
};
use super::launch::{Argument, Grid, Module, launch, module, suffix, unwritten};
use crate::route::Route;
use crate::scratch::{FEW_ROWS, LANE_ELEMENTS, has_kernel, splits};

/// See [`crate::attention()`], which has checked the shapes; `None` where these kernels do not
/// take the tensors: those of other devices or different types, heads that are no multiple of 8 or
/// beyond 256, and rows beyond what an `int` counts.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f32) -> Result<Option<Tensor>> {
    let (pictures, rows, heads, head_dim) = q.dims4()?;
    let (_, keys, kv_heads, _) = k.dims4()?;
    let takes = Route::of(q) == Route::Cuda
        && [k, v].iter().all(|x| x.dtype() == q.dtype())
        && has_kernel(head_dim)
        && i32::try_from(rows.saturating_mul(heads)).is_ok();
    if !takes {
        return Ok(None);
    }
    let q = if in_place(q) {
        q.clone()
    } else {
        q.force_contiguous()?
    };
    let (k, v) = if in_place(k) && in_place(v) && k.stride() == v.stride() {
        (k.clone(), v.clone())
    } else {
        (k.force_contiguous()?, v.force_contiguous()?)
    };
    // SAFETY: every row is in a tile that writes it, or in the splits that a join reads.
    let out = unsafe { unwritten(&[pictures, rows, heads, head_dim], &q) }?;
    let partial_rows = pictures * rows;
    // Rows of a group of heads.
    let rows = rows * heads / kv_heads;
    let splits = if rows <= FEW_ROWS { splits(keys) } else { 1 };
    let parts = match splits {
        1 => None,
        // SAFETY: every split of every row is written before a join reads it.
        _ => Some(unsafe { Parts::unwritten(partial_rows * splits, heads, head_dim, q.device()) }?),
    };
    let call = Call {
        q: &q,
        k: &k,
        v: &v,
        out: &out,
        parts: parts.as_ref(),
        // Weights are powers of 2.
        scale: scale * std::f32::consts::LOG2_E,
    };
    if rows <= FEW_ROWS {
        let tile = tile_of(rows);
        let blocks = (pictures * splits, kv_heads * rows.div_ceil(tile));
        call.attend(&format!("split_{tile}"), blocks)?;
    } else if let Some(made_for) = on_tensor_cores(q.dtype(), head_dim) {
        let blocks = (pictures * rows.div_ceil(TENSOR_CORE_ROWS), kv_heads);
        call.attend(&format!("attend_{made_for}"), blocks)?;
    } else {
        let blocks = (pictures * rows.div_ceil(WARPS * MAX_ROWS), kv_heads);
        call.attend("attend", blocks)?;
    }
    if let Some(parts) = &parts {
        call.join(parts, splits)?;
    }
    Ok(Some(out))
}

/// Whether the kernels can read a tensor where it is: heads side by side, and all rows aligned for
/// the widest loads.
fn in_place(x: &Tensor) -> bool {
    let head_dim = x.dims()[3];
    let [picture, row, within @ ..] = x.stride() else {
        return false;
    };
    within == [head_dim, 1]
        && picture.is_multiple_of(LANE_ELEMENTS)
        && row.is_multiple_of(LANE_ELEMENTS)
        && aligned(x)
}

/// An attention whose tensors have been looked at.
struct Call<'a> {
    /// `[N, S, heads, head_dim]` with heads side by side.
    q: &'a Tensor,
    /// `[N, T, kv_heads, head_dim]`, which lie alike.
    k: &'a Tensor,
    v: &'a Tensor,
    out: &'a Tensor,
    /// Of `N * S * splits`.
    parts: Option<&'a Parts>,
    scale: f32,
}

impl Call<'_> {
    fn attend(&self, kernel: &str, blocks: (usize, usize)) -> Result<()> {
        let (_, rows, heads, head_dim) = self.q.dims4()?;
        let (_, keys, kv_heads, _) = self.k.dims4()?;
        let (q_strides, k_strides) = (self.q.stride(), self.k.stride());
        let arguments = [
            Argument::Tensor(self.q),
            Argument::Tensor(self.k),
            Argument::Tensor(self.v),
            Argument::Tensor(self.out),
            Argument::optional(self.parts.map(|parts| &parts.sums)),
            Argument::optional(self.parts.map(|parts| &parts.softmax)),
            Argument::Size(q_strides[0]),
            Argument::Size(k_strides[0]),
            Argument::Int(q_strides[1]),
            Argument::Int(k_strides[1]),
            Argument::Int(rows),
            Argument::Int(keys),
            Argument::Int(heads),
            Argument::Int(kv_heads),
            Argument::Int(head_dim),
            Argument::Float(self.scale),
        ];
        let grid = Grid {
            blocks,
            threads: WARPS * 32,
        };
        let kernel = format!("dense_{kernel}_{}", suffix(self.q.dtype())?);
        // SAFETY: the parameters of `dense_attention.cuh`. Shapes fit, as the public function
        // checks; rows are aligned, and the grid has a block for each of their tiles.
        unsafe { self.launch(&kernel, grid, &arguments) }
    }

    fn join(&self, parts: &Parts, splits: usize) -> Result<()> {
        let (pictures, rows, heads, head_dim) = self.out.dims4()?;
        let arguments = [
            Argument::Tensor(self.out),
            Argument::Tensor(&parts.sums),
            Argument::Tensor(&parts.softmax),
            Argument::Int(splits),
            Argument::Int(heads),
            Argument::Int(head_dim),
        ];
        let grid = Grid {
            blocks: (pictures * rows, heads),
            threads: (head_dim / LANE_ELEMENTS).next_multiple_of(32),
        };
        let kernel = format!("dense_join_{}", suffix(self.q.dtype())?);
        // SAFETY: the parameters of `dense_attention.cuh`; every split has written its sums.
        unsafe { self.launch(&kernel, grid, &arguments) }
    }

    /// # Safety
    /// As that of [`launch`].
    unsafe fn launch(&self, kernel: &str, grid: Grid, arguments: &[Argument<'_>]) -> Result<()> {
        let device: &Device = self.q.device();
        // SAFETY: the same contract.
        unsafe { launch(device, kernels(self.q.dtype())?, kernel, grid, arguments) }
    }
}

/// The kernels for a dtype. A card's driver compiles a module as a whole, so that each has its
/// own.
fn kernels(dtype: DType) -> Result<Module> {
    match dtype {
        DType::F32 => Ok(module!("dense_attention_f32")),
        DType::F16 => Ok(module!("dense_attention_f16")),
        DType::BF16 => Ok(module!("dense_attention_bf16")),
        other => bail!("attention of {other:?} is not defined"),
    }
}
