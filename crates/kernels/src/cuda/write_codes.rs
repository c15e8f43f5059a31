//! New keys and values on their way to pages of codes; see `cuda/write_codes.cu`.

#![expect(unsafe_code, reason = "kernels are launched")]

use candle_core::{Result, Tensor, bail};

use super::launch::{Argument, Grid, Module, launch, module, suffix, unwritten};
use super::rotary::angles;
use crate::pages::Pages;

const WRITE_CODES: Module = module!("write_codes");

const THREADS: usize = 256;

/// Threads that see to a head of a token.
const WARP: usize = 32;

/// Keys, values and, where there are any, queries of a step's tokens: rows that are dense and all
/// the same number of elements apart.
struct New<'a> {
    queries: Option<&'a Tensor>,
    keys: &'a Tensor,
    values: &'a Tensor,
    stride: usize,
}

/// See [`crate::qkv_rope_write`]; the pages hold codes and `slots` are `[T]`, u32, on the device.
pub(crate) fn qkv_rope_write_codes(
    qkv: &Tensor,
    turn: Option<(&Tensor, &Tensor)>,
    heads: usize,
    pages: (Pages<'_>, Pages<'_>),
    slots: &Tensor,
) -> Result<Tensor> {
    let (tokens, _) = qkv.dims2()?;
    let (_, _, kv_heads, head_dim) = pages.0.data.dims4()?;
    let qkv = if qkv.stride()[1] == 1 {
        qkv.clone()
    } else {
        qkv.contiguous()?
    };
    let part = |first: usize| qkv.narrow(1, first * head_dim, kv_heads * head_dim);
    let (keys, values) = (part(heads)?, part(heads + kv_heads)?);
    // SAFETY: the kernel writes all of it.
    let turned = unsafe { unwritten(&[tokens, heads, head_dim], &qkv) }?;
    let new = New {
        queries: Some(&qkv),
        keys: &keys,
        values: &values,
        stride: qkv.stride()[0],
    };
    write(&new, turn, Some(&turned), pages, slots)?;
    Ok(turned)
}

/// See [`crate::write_kv`]; the pages hold codes and are alike, `k` and `v` have elements, and
/// `slots` are `[T]`, u32, on the device.
pub(crate) fn write_kv_codes(
    k: &Tensor,
    v: &Tensor,
    pages: (Pages<'_>, Pages<'_>),
    slots: &Tensor,
) -> Result<()> {
    let (_, _, head_dim) = k.dims3()?;
    let dense = |x: &Tensor| x.stride()[1..] == [head_dim, 1];
    let (k, v) = if dense(k) && dense(v) && k.stride() == v.stride() {
        (k.clone(), v.clone())
    } else {
        (k.contiguous()?, v.contiguous()?)
    };
    let new = New {
        queries: None,
        keys: &k,
        values: &v,
        stride: k.stride()[0],
    };
    write(&new, None, None, pages, slots)
}

fn write(
    new: &New<'_>,
    turn: Option<(&Tensor, &Tensor)>,
    turned: Option<&Tensor>,
    (k_pages, v_pages): (Pages<'_>, Pages<'_>),
    slots: &Tensor,
) -> Result<()> {
    let (_, _, kv_heads, head_dim) = k_pages.data.dims4()?;
    let (Some(k_scales), Some(v_scales)) = (k_pages.scales, v_pages.scales) else {
        bail!("pages of codes have scales");
    };
    let dtype = new.keys.dtype();
    let tables = turn.map(|(cos, sin)| angles(cos, sin, dtype)).transpose()?;
    let (cos, sin) = tables.as_ref().map(|(cos, sin)| (cos, sin)).unzip();
    let heads = turned.map_or(Ok(0), |turned| turned.dim(1))?;
    let arguments = [
        Argument::optional(new.queries),
        Argument::Tensor(new.keys),
        Argument::Tensor(new.values),
        Argument::optional(cos),
        Argument::optional(sin),
        Argument::optional(turned),
        Argument::Tensor(k_pages.data),
        Argument::Tensor(k_scales),
        Argument::Tensor(v_pages.data),
        Argument::Tensor(v_scales),
        Argument::Tensor(slots),
        Argument::Size(new.stride),
        Argument::Int(heads),
        Argument::Int(kv_heads),
        Argument::Int(head_dim),
        Argument::Int(cos.map_or(Ok(0), |cos| cos.dim(1))?),
    ];
    let blocks = (heads + 2 * kv_heads).div_ceil(THREADS / WARP);
    let grid = Grid {
        blocks: (new.keys.dim(0)?, blocks.min(usize::from(u16::MAX))),
        threads: THREADS,
    };
    let kernel = format!("write_codes_{}", suffix(dtype)?);
    let device = new.keys.device();
    // SAFETY: the parameters of `write_codes.cu`; the public functions check that rows, angles and
    // pages fit, that pages are dense and alike, and that every slot is within them. Only the
    // device touches pages, in the order of its stream.
    unsafe { launch(device, WRITE_CODES, &kernel, grid, &arguments) }
}
