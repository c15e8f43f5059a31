//! Keys and values in pages: writing new ones, and attending to all of them.

use candle_core::{Result, Tensor, bail};

use crate::ragged::{PAGE_TOKENS, Ragged};
use crate::{cpu, portable};

/// Writes the keys and values of a step's new tokens into the cache, in place.
///
/// `k` and `v` are `[T, kv_heads, head_dim]`, the caches `[blocks, PAGE_TOKENS, kv_heads,
/// head_dim]` and contiguous. Values are rounded to the nearest of the cache's dtype, which is
/// f32, f16 or bf16. The caches stay where they are in memory: who holds another handle on them
/// sees the change.
///
/// # Errors
/// When shapes do not fit, a slot is beyond the cache, or the device fails.
pub fn write_kv(
    k: &Tensor,
    v: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    ragged: &Ragged,
) -> Result<()> {
    for (new, cache) in [(k, k_cache), (v, v_cache)] {
        let (_, _, kv_heads, head_dim) = check_cache(cache, ragged)?;
        if new.dims3()? != (ragged.rows(), kv_heads, head_dim) {
            bail!(
                "new keys or values of shape {:?} do not fit {} rows and a cache of {:?}",
                new.shape(),
                ragged.rows(),
                cache.shape()
            );
        }
        match &ragged.plan {
            Some(plan) => portable::write_kv(new, cache, plan)?,
            None => cpu::write_kv(new, cache, &ragged.slots)?,
        }
    }
    Ok(())
}

/// Causal attention of a step's new tokens to the cached tokens of their own sequences.
///
/// `q` is `[T, heads, head_dim]`, rows in the order of the step; the caches are `[blocks,
/// PAGE_TOKENS, kv_heads, head_dim]` and already hold the new keys and values ([`write_kv`]).
/// Row `r` of a sequence with `n` new rows sees its keys `0..=kv_len - n + r`. `heads` is a
/// multiple of `kv_heads`; query head `h` reads key/value head `h / (heads / kv_heads)`, as in
/// grouped-query attention. Gives `[T, heads, head_dim]`.
///
/// # Errors
/// When shapes do not fit, a block is beyond the cache, or the device fails.
pub fn paged_attention(
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    ragged: &Ragged,
    scale: f32,
) -> Result<Tensor> {
    let (rows, heads, head_dim) = q.dims3()?;
    let cache = check_cache(k_cache, ragged)?;
    if check_cache(v_cache, ragged)? != cache || k_cache.dtype() != v_cache.dtype() {
        bail!(
            "the caches differ: keys {:?} {:?}, values {:?} {:?}",
            k_cache.dtype(),
            k_cache.shape(),
            v_cache.dtype(),
            v_cache.shape()
        );
    }
    let (_, _, kv_heads, cache_dim) = cache;
    if rows != ragged.rows() || head_dim != cache_dim || !heads.is_multiple_of(kv_heads) {
        bail!(
            "queries of shape {:?} do not fit {} rows and a cache of {:?}",
            q.shape(),
            ragged.rows(),
            k_cache.shape()
        );
    }
    match &ragged.plan {
        Some(plan) => portable::paged_attention(q, k_cache, v_cache, plan, scale),
        None => cpu::paged_attention(q, k_cache, v_cache, &ragged.sequences, scale),
    }
}

fn check_cache(cache: &Tensor, ragged: &Ragged) -> Result<(usize, usize, usize, usize)> {
    let dims = cache.dims4()?;
    let (blocks, page, kv_heads, head_dim) = dims;
    if page != PAGE_TOKENS || kv_heads == 0 || head_dim == 0 {
        bail!(
            "a cache must be [blocks, {PAGE_TOKENS}, kv_heads, head_dim], not {:?}",
            cache.shape()
        );
    }
    if blocks < ragged.blocks_needed {
        bail!(
            "the step names block {} of a cache of {blocks}",
            ragged.blocks_needed - 1
        );
    }
    if !cache.device().same_device(&ragged.device) {
        bail!("the cache and the step are on different devices");
    }
    Ok(dims)
}
