//! From the joined projection of a decoder layer to what attention reads.

use candle_core::{Result, Tensor, bail};

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::pages::Pages;
use crate::ragged::Ragged;
#[cfg(feature = "cuda")]
use crate::route::Route;
use crate::{rope, write_kv};

/// Splits joined queries, keys and values, turns queries and keys by their tokens' angles, and
/// writes keys and values to their pages: [`rope()`] and [`write_kv`] in one launch where the
/// device has a kernel for it.
///
/// `qkv` is `[T, (heads + 2 * kv_heads) * head_dim]`: all queries, all keys, all values; how many
/// heads keys have and how wide heads are the pages say, which are alike. `angles` are cosines and
/// sines, each `[T, rotated / 2]`, or `None` where heads are not turned. Gives the queries,
/// `[T, heads, head_dim]`.
///
/// # Errors
/// When shapes do not fit, a slot is beyond the cache, or the device fails.
pub fn qkv_rope_write(
    qkv: &Tensor,
    angles: Option<(&Tensor, &Tensor)>,
    heads: usize,
    k_pages: Pages<'_>,
    v_pages: Pages<'_>,
    ragged: &Ragged,
) -> Result<Tensor> {
    let (rows, width) = qkv.dims2()?;
    let (kv_heads, head_dim) = k_pages.check(ragged)?;
    if v_pages.check(ragged)? != (kv_heads, head_dim) {
        bail!(
            "the caches differ: keys {:?}, values {:?}",
            k_pages.data.shape(),
            v_pages.data.shape()
        );
    }
    if rows != ragged.rows() || width != (heads + 2 * kv_heads) * head_dim {
        bail!(
            "joined queries, keys and values of shape {:?} do not fit {} rows, {heads} heads and \
             a cache of {:?}",
            qkv.shape(),
            ragged.rows(),
            k_pages.data.shape()
        );
    }
    #[cfg(feature = "cuda")]
    if Route::of(qkv) == Route::Cuda
        && k_pages.data.dtype() == v_pages.data.dtype()
        && qkv.elem_count() > 0
        && let Some(slots) = ragged.slots_on_device()?
    {
        if let Some((cos, sin)) = angles {
            rope::check((rows, head_dim), qkv, cos, sin)?;
        }
        let pages = (k_pages, v_pages);
        return match k_pages.scales {
            Some(_) => cuda::qkv_rope_write_codes(qkv, angles, heads, pages, &slots),
            None => cuda::qkv_rope_write(qkv, angles, heads, pages, &slots),
        };
    }
    let part = |first: usize, heads: usize| {
        qkv.narrow(1, first * head_dim, heads * head_dim)?
            .reshape((rows, heads, head_dim))
    };
    let turned = |x: Tensor| match angles {
        Some((cos, sin)) => rope(&x, cos, sin),
        None => Ok(x),
    };
    let query = turned(part(0, heads)?)?;
    let key = turned(part(heads, kv_heads)?)?;
    let value = part(heads + kv_heads, kv_heads)?;
    write_kv(&key, &value, k_pages, v_pages, ragged)?;
    Ok(query)
}
