//! What a paged cache keeps keys and values as.
//!
//! # 8 bits
//!
//! One head's key or value of one token is a row of its own. With `m` the largest size in the
//! row, in f32 and in this order:
//!
//! ```text
//! scale = m * (1 / 127) + 2^-126
//! code  = floor(x / scale + 128.5)        1..=255, kept as u8
//! x'    = (code - 128) * scale            what is read
//! ```
//!
//! So codes are rounded to the nearest, ties upwards; 0 is read as 0; and `x'` is within half a
//! scale of `x`, 1/254 of the row's largest size. The least scale (the smallest normal f32, which
//! changes no larger one) lets a row of zeros be divided by it.
//!
//! A row with a value that is not finite has the scale NaN and is read as NaN: numbers that are
//! broken stay so.
//!
//! vLLM's `int8_per_token_head` has the same scales.

use candle_core::{DType, Result, Tensor, bail};

use crate::ragged::{PAGE_TOKENS, Ragged};

/// The code of 0.
pub(crate) const CODE_OF_ZERO: u8 = 128;

/// How many scales the largest value of a row is.
pub(crate) const LARGEST_CODE: f32 = 127.;

/// The keys, or the values, of one layer's cache.
#[derive(Debug, Clone, Copy)]
pub struct Pages<'a> {
    /// `[blocks, PAGE_TOKENS, kv_heads, head_dim]`, contiguous: f32, f16 or bf16, and values; or
    /// u8, and codes: for each value `x` the nearest whole number to `x / scale`, plus 128.
    pub data: &'a Tensor,
    /// `[blocks, PAGE_TOKENS, kv_heads]`, f32, contiguous: the scale of each row of codes, the
    /// largest size in it over 127. `None` where `data` holds values.
    pub scales: Option<&'a Tensor>,
}

impl<'a> From<&'a Tensor> for Pages<'a> {
    /// Values without scales.
    fn from(data: &'a Tensor) -> Self {
        Self { data, scales: None }
    }
}

impl Pages<'_> {
    /// `(kv_heads, head_dim)` of pages that a step may write to and read from.
    pub(crate) fn check(self, ragged: &Ragged) -> Result<(usize, usize)> {
        let (blocks, page, kv_heads, head_dim) = self.data.dims4()?;
        if page != PAGE_TOKENS || kv_heads == 0 || head_dim == 0 {
            bail!(
                "a cache must be [blocks, {PAGE_TOKENS}, kv_heads, head_dim], not {:?}",
                self.data.shape()
            );
        }
        if blocks < ragged.blocks_needed {
            bail!(
                "the step names block {} of a cache of {blocks}",
                ragged.blocks_needed - 1
            );
        }
        match (self.data.dtype(), self.scales) {
            (DType::F32 | DType::F16 | DType::BF16, None) => {}
            (DType::U8, Some(scales)) => {
                let fits = scales.dtype() == DType::F32
                    && scales.dims() == [blocks, page, kv_heads]
                    && scales.device().same_device(self.data.device());
                if !fits {
                    bail!(
                        "scales of {:?} {:?} do not fit codes of {:?}",
                        scales.dtype(),
                        scales.shape(),
                        self.data.shape()
                    );
                }
            }
            (dtype, scales) => bail!(
                "a cache holds f32, f16 or bf16, or u8 with scales; not {dtype:?} {} scales",
                if scales.is_some() { "with" } else { "without" }
            ),
        }
        let contiguous = |tensor: &Tensor| tensor.is_contiguous();
        if !contiguous(self.data) || !self.scales.is_none_or(contiguous) {
            bail!("a cache must be contiguous");
        }
        if !self.data.device().same_device(&ragged.device) {
            bail!("the cache and the step are on different devices");
        }
        Ok((kv_heads, head_dim))
    }
}
