//! Keys and values in pages: writing new ones, and attending to all of them.

use candle_core::{Result, Tensor, bail};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::pages::Pages;
use crate::ragged::Ragged;
#[cfg(feature = "cuda")]
use crate::route::Route;
use crate::{cpu, portable};

/// Writes the keys and values of a step's new tokens into the cache, in place.
///
/// `k` and `v` are `[T, kv_heads, head_dim]`. They are rounded to the nearest that the pages can
/// hold: ties to even for f16 and bf16; for 8 bits see [`Pages::data`]. The pages stay where they
/// are in memory: who holds another handle on them sees the change. Those of keys and those of
/// values are apart: both are written at once.
///
/// # Errors
/// When shapes do not fit, a slot is beyond the cache, or the device fails.
pub fn write_kv(
    k: &Tensor,
    v: &Tensor,
    k_pages: Pages<'_>,
    v_pages: Pages<'_>,
    ragged: &Ragged,
) -> Result<()> {
    for (new, pages) in [(k, k_pages), (v, v_pages)] {
        let (kv_heads, head_dim) = pages.check(ragged)?;
        if new.dims3()? != (ragged.rows(), kv_heads, head_dim) {
            bail!(
                "new keys or values of shape {:?} do not fit {} rows and a cache of {:?}",
                new.shape(),
                ragged.rows(),
                pages.data.shape()
            );
        }
    }
    #[cfg(feature = "cuda")]
    if let Some(index) = &ragged.index
        && takes_codes(k, v, k_pages, v_pages)
        && let Some(slots) = index.slots(ragged.rows())
    {
        return cuda::write_kv_codes(k, v, (k_pages, v_pages), &slots?);
    }
    for (new, pages) in [(k, k_pages), (v, v_pages)] {
        match ragged.slots_on_device()? {
            Some(slots) => portable::write_kv(new, pages, &slots)?,
            None => cpu::write_kv(new, pages, &ragged.slots)?,
        }
    }
    Ok(())
}

/// Whether CUDA's kernel takes new keys and values on their way to pages.
#[cfg(feature = "cuda")]
fn takes_codes(k: &Tensor, v: &Tensor, k_pages: Pages<'_>, v_pages: Pages<'_>) -> bool {
    let alike = k.dims() == v.dims() && k.dtype() == v.dtype();
    let codes = k_pages.scales.is_some() && v_pages.scales.is_some();
    alike && codes && Route::of(k) == Route::Cuda
}

/// Causal attention of a step's new tokens to the cached tokens of their own sequences.
///
/// `q` is `[T, heads, head_dim]`, rows in the order of the step; the pages are alike and already
/// hold the new keys and values ([`write_kv`]). Row `r` of a sequence with `n` new rows sees its
/// keys `0..=kv_len - n + r`. `heads` is a multiple of `kv_heads`; query head `h` reads key/value
/// head `h / (heads / kv_heads)`, as in grouped-query attention. Gives `[T, heads, head_dim]`.
///
/// Pages of 8 bits are never widened as a whole: a score is multiplied by the scale of its key,
/// and a weight by the scale of its value.
///
/// # Errors
/// When shapes do not fit, a block is beyond the cache, or the device fails.
pub fn paged_attention(
    q: &Tensor,
    k_pages: Pages<'_>,
    v_pages: Pages<'_>,
    ragged: &Ragged,
    scale: f32,
) -> Result<Tensor> {
    let (rows, heads, head_dim) = q.dims3()?;
    let cache = k_pages.check(ragged)?;
    let (k, v) = (k_pages.data, v_pages.data);
    v_pages.check(ragged)?;
    if k.shape() != v.shape() || k.dtype() != v.dtype() {
        bail!(
            "the caches differ: keys {:?} {:?}, values {:?} {:?}",
            k.dtype(),
            k.shape(),
            v.dtype(),
            v.shape()
        );
    }
    let (kv_heads, cache_dim) = cache;
    if rows != ragged.rows() || head_dim != cache_dim || !heads.is_multiple_of(kv_heads) {
        bail!(
            "queries of shape {:?} do not fit {} rows and a cache of {:?}",
            q.shape(),
            ragged.rows(),
            k.shape()
        );
    }
    #[cfg(feature = "cuda")]
    if let Some(index) = &ragged.index
        && let Some(out) = cuda::paged_attention(q, k_pages, v_pages, index, scale)?
    {
        return Ok(out);
    }
    match ragged.plan()? {
        Some(plan) => portable::paged_attention(q, k_pages, v_pages, plan, scale),
        None => cpu::paged_attention(q, k_pages, v_pages, &ragged.sequences, scale),
    }
}
