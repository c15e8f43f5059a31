//! Rotary embedding, alone and on the way to the pages; see `cuda/rotary.cu`.

#![expect(unsafe_code, reason = "kernels are launched")]

use candle_core::{DType, Result, Tensor};

use super::launch::{Argument, Grid, Module, launch, module, suffix, unwritten};
use crate::pages::Pages;

const ROTARY: Module = module!("rotary");

const THREADS: usize = 256;

/// A block of threads for each token, more where its heads keep more than one busy.
fn grid(tokens: usize, numbers: usize) -> Grid {
    // A thread that moves pairs of 16-bit numbers as wide as it can moves 16 of them.
    let blocks = numbers.div_ceil(16 * THREADS).max(1);
    Grid {
        blocks: (tokens, blocks.min(usize::from(u16::MAX))),
        threads: THREADS,
    }
}

/// Cosines and sines, dense and in the dtype of what they turn.
pub(super) fn angles(cos: &Tensor, sin: &Tensor, dtype: DType) -> Result<(Tensor, Tensor)> {
    let own = |table: &Tensor| table.to_dtype(dtype)?.contiguous();
    Ok((own(cos)?, own(sin)?))
}

/// See [`crate::rope()`]; `x` has elements.
pub(crate) fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (tokens, heads, head_dim) = x.dims3()?;
    let rows_are_dense = x.stride()[2] == 1 && x.stride()[1] == head_dim;
    let x = if rows_are_dense {
        x.clone()
    } else {
        x.contiguous()?
    };
    let (cos, sin) = angles(cos, sin, x.dtype())?;
    // SAFETY: the kernel writes all of it.
    let out = unsafe { unwritten(x.dims(), &x) }?;
    let arguments = [
        Argument::Tensor(&x),
        Argument::Tensor(&cos),
        Argument::Tensor(&sin),
        Argument::Tensor(&out),
        Argument::Size(x.stride()[0]),
        Argument::Int(heads),
        Argument::Int(head_dim),
        Argument::Int(cos.dim(1)?),
    ];
    let kernel = format!("turn_{}", suffix(x.dtype())?);
    let grid = grid(tokens, heads * head_dim);
    // SAFETY: the parameters of `rotary.cu`; angles and rows fit, as the public function checks.
    unsafe { launch(x.device(), ROTARY, &kernel, grid, &arguments) }?;
    Ok(out)
}

/// See [`crate::qkv_rope_write`]; the pages hold values and `slots` are `[T]`, u32, on the device.
pub(crate) fn qkv_rope_write(
    qkv: &Tensor,
    turn: Option<(&Tensor, &Tensor)>,
    heads: usize,
    (k_pages, v_pages): (Pages<'_>, Pages<'_>),
    slots: &Tensor,
) -> Result<Tensor> {
    let (tokens, width) = qkv.dims2()?;
    let (_, _, kv_heads, head_dim) = k_pages.data.dims4()?;
    let qkv = if qkv.stride()[1] == 1 {
        qkv.clone()
    } else {
        qkv.contiguous()?
    };
    let tables = turn
        .map(|(cos, sin)| angles(cos, sin, qkv.dtype()))
        .transpose()?;
    let (cos, sin) = tables.as_ref().map(|(cos, sin)| (cos, sin)).unzip();
    // SAFETY: the kernel writes all of it.
    let q = unsafe { unwritten(&[tokens, heads, head_dim], &qkv) }?;
    let arguments = [
        Argument::Tensor(&qkv),
        Argument::optional(cos),
        Argument::optional(sin),
        Argument::Tensor(&q),
        Argument::Tensor(k_pages.data),
        Argument::Tensor(v_pages.data),
        Argument::Tensor(slots),
        Argument::Size(qkv.stride()[0]),
        Argument::Int(heads),
        Argument::Int(kv_heads),
        Argument::Int(head_dim),
        Argument::Int(cos.map_or(Ok(0), |cos| cos.dim(1))?),
    ];
    let (from, to) = (suffix(qkv.dtype())?, suffix(k_pages.data.dtype())?);
    let kernel = format!("qkv_rope_write_{from}_{to}");
    // SAFETY: the parameters of `rotary.cu`; the public function checks that rows, angles and
    // pages fit, that pages are dense and alike, and that every slot is within them. Only the
    // device touches pages, in the order of its stream.
    unsafe {
        launch(
            qkv.device(),
            ROTARY,
            &kernel,
            grid(tokens, width),
            &arguments,
        )
    }?;
    Ok(q)
}
