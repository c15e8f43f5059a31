//! New keys and values on their way into pages.

use candle_core::{CpuStorage, Device, InplaceOp2, Layout, Result, Tensor, bail};

use super::code::quantised;
use super::host::with_f32;
use super::simd::{Level, Rounded};
use crate::pages::Pages;

/// See [`crate::write_kv`].
pub(crate) fn write_kv(new: &Tensor, pages: Pages<'_>, slots: &[u32]) -> Result<()> {
    if slots.is_empty() {
        return Ok(());
    }
    match pages.scales {
        None => write(&new.contiguous()?, pages.data, slots),
        Some(scales) => {
            let (rows, heads, head_dim) = new.dims3()?;
            let (codes, new_scales) =
                with_f32(new, |new| Ok(quantised(Level::get(), new, head_dim)))?;
            let codes = Tensor::from_vec(codes, (rows, heads, head_dim), &Device::Cpu)?;
            let new_scales = Tensor::from_vec(new_scales, (rows, heads), &Device::Cpu)?;
            write(&codes, pages.data, slots)?;
            write(&new_scales, scales, slots)
        }
    }
}

/// Writes rows, one for each slot, to their slots of a part of the cache.
fn write(new: &Tensor, cache: &Tensor, slots: &[u32]) -> Result<()> {
    cache.inplace_op2(new, &WriteRows { slots })
}

struct WriteRows<'a> {
    slots: &'a [u32],
}

impl InplaceOp2 for WriteRows<'_> {
    fn name(&self) -> &'static str {
        "write-kv"
    }

    fn cpu_fwd(
        &self,
        cache: &mut CpuStorage,
        cache_layout: &Layout,
        new: &CpuStorage,
        new_layout: &Layout,
    ) -> Result<()> {
        let (Some((start, end)), Some((first, last))) = (
            cache_layout.contiguous_offsets(),
            new_layout.contiguous_offsets(),
        ) else {
            bail!("a cache and what is written to it must be contiguous");
        };
        use CpuStorage::{BF16, F16, F32, U8};
        match (cache, new) {
            (F32(to), F32(new)) => self.round(&new[first..last], &mut to[start..end]),
            (F16(to), F32(new)) => self.round(&new[first..last], &mut to[start..end]),
            (BF16(to), F32(new)) => self.round(&new[first..last], &mut to[start..end]),
            (U8(to), U8(new)) => self.rows(&new[first..last], &mut to[start..end], |code| code),
            _ => bail!("on the CPU new keys and values are f32"),
        }
        Ok(())
    }
}

impl WriteRows<'_> {
    fn round<E: Rounded>(&self, new: &[f32], cache: &mut [E]) {
        self.rows(new, cache, E::from_f32);
    }

    fn rows<N: Copy, E>(&self, new: &[N], cache: &mut [E], convert: impl Fn(N) -> E) {
        let width = new.len() / self.slots.len();
        for (row, &slot) in self.slots.iter().enumerate() {
            let from = &new[row * width..][..width];
            let to = &mut cache[slot as usize * width..][..width];
            for (to, &from) in to.iter_mut().zip(from) {
                *to = convert(from);
            }
        }
    }
}
