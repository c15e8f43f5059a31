//! The paged cache of keys and values, and the types that it may keep them as.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::{BLOCK_TOKENS, ModelSpec};

/// How cached keys and values are stored.
///
/// What each costs in accuracy, over the golden prompts of all architectures with 16 tokens of
/// answer each (`crates/models/tests/golden` holds it within three times that): the largest
/// difference of a logit to that with f32, over the largest size among the row's logits; and how
/// many of the 225 greedy answers are the same to the last token. These models have random
/// weights, whose best logits lead by little.
///
/// | | largest difference | same answers |
/// |---|---|---|
/// | f16 | 0.1 % | 225 |
/// | bf16 | 1.0 % | 214 |
/// | int8 | 2.5 % | 200 |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// 32 bits, exact where activations are f32.
    F32,
    /// 16 bits with 11 of precision, for values up to 65504.
    F16,
    /// 16 bits with 8 of precision, over the range of f32.
    Bf16,
    /// A code of 8 bits for each value, and one f32 scale for each token and head: the largest
    /// size among the head's values, over 127. Symmetric, so 0 stays 0, and no calibration is
    /// needed.
    Int8,
}

impl KvDtype {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Bf16, Self::Int8];

    /// The name that [`FromStr`] reads.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Bytes of one token's key or value of one head of `head_dim` elements, its scale included.
    /// Saturates.
    #[must_use]
    pub const fn row_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::F32 => head_dim.saturating_mul(4),
            Self::F16 | Self::Bf16 => head_dim.saturating_mul(2),
            Self::Int8 => head_dim.saturating_add(4),
        }
    }

    /// What [`KvPages::data`] holds.
    const fn stored(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
            Self::Int8 => DType::U8,
        }
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that no [`KvDtype`] has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a KV cache holds f32, f16, bf16 or int8, not `{0}`")]
pub struct UnknownKvDtype(String);

impl FromStr for KvDtype {
    type Err = UnknownKvDtype;

    fn from_str(name: &str) -> std::result::Result<Self, UnknownKvDtype> {
        let found = Self::ALL.into_iter().find(|dtype| dtype.as_str() == name);
        found.ok_or_else(|| UnknownKvDtype(name.to_owned()))
    }
}

/// The keys, or the values, of one layer.
#[derive(Debug)]
pub struct KvPages {
    /// `[blocks, BLOCK_TOKENS, kv_heads, head_dim]`, contiguous. For [`KvDtype::Int8`] u8, each
    /// the code of a value plus 128; else the values themselves.
    pub data: Tensor,
    /// `[blocks, BLOCK_TOKENS, kv_heads]`, f32, contiguous: what codes are multiples of. `None`
    /// where `data` holds the values themselves.
    pub scales: Option<Tensor>,
}

impl KvPages {
    fn new(spec: &ModelSpec, blocks: usize, dtype: KvDtype, device: &Device) -> Result<Self> {
        let rows = (blocks, BLOCK_TOKENS, spec.kv_heads);
        let shape = (blocks, BLOCK_TOKENS, spec.kv_heads, spec.head_dim);
        let scales = match dtype {
            KvDtype::Int8 => Some(Tensor::zeros(rows, DType::F32, device)?),
            KvDtype::F32 | KvDtype::F16 | KvDtype::Bf16 => None,
        };
        Ok(Self {
            data: Tensor::zeros(shape, dtype.stored(), device)?,
            scales,
        })
    }

    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.data).chain(&self.scales)
    }
}

/// Keys and values of one layer.
#[derive(Debug)]
pub struct LayerCache {
    /// Keys, after rotary embedding.
    pub k: KvPages,
    /// Values.
    pub v: KvPages,
}

/// The paged KV cache. Which block belongs to whom is the engine's knowledge alone.
#[derive(Debug)]
pub struct KvCache {
    /// One entry per layer that keeps keys and values.
    pub layers: Vec<LayerCache>,
    blocks: usize,
}

impl KvCache {
    /// Allocates `blocks` blocks of zeros for every layer.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new(spec: &ModelSpec, blocks: usize, dtype: KvDtype, device: &Device) -> Result<Self> {
        let layer = |_| {
            Ok(LayerCache {
                k: KvPages::new(spec, blocks, dtype, device)?,
                v: KvPages::new(spec, blocks, dtype, device)?,
            })
        };
        Ok(Self {
            layers: (0..spec.layers).map(layer).collect::<Result<_>>()?,
            blocks,
        })
    }

    /// Copies what block `from` holds to block `to`, in every layer and in place: what a sequence
    /// needs that is about to write to a block which others read, too.
    ///
    /// The copy takes its turn among the device's work: it sees all steps before it, and is seen
    /// by all after it.
    ///
    /// # Errors
    /// When a block is beyond the cache, which then is as it was; or when the device fails, and
    /// block `to` is undefined.
    pub fn copy_block(&self, from: u32, to: u32) -> Result<()> {
        let (from, to) = (from as usize, to as usize);
        let last = from.max(to);
        if last >= self.blocks {
            bail!(
                "block {last} is beyond a KV cache of {} blocks",
                self.blocks
            );
        }
        if from == to {
            return Ok(());
        }
        let pages = self.layers.iter().flat_map(|layer| [&layer.k, &layer.v]);
        for tensor in pages.flat_map(KvPages::tensors) {
            // By way of a copy: candle refuses to write to the storage that it reads.
            let block = tensor.narrow(0, from, 1)?.copy()?;
            tensor.slice_set(&block, 0, to)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: ModelSpec = ModelSpec {
        layers: 2,
        kv_heads: 3,
        head_dim: 4,
        hidden_size: 24,
        vocab_size: 100,
        input_vocab_size: 100,
        max_positions: 4096,
        long_beyond: None,
        cross_feature_bytes: 0,
    };

    fn tensors(cache: &KvCache) -> Vec<&Tensor> {
        let pages = cache.layers.iter().flat_map(|layer| [&layer.k, &layer.v]);
        pages.flat_map(KvPages::tensors).collect()
    }

    /// Each block of a tensor, flat.
    fn blocks(tensor: &Tensor) -> Vec<Vec<f32>> {
        let flat = tensor.flatten_from(1).unwrap();
        flat.to_dtype(DType::F32).unwrap().to_vec2().unwrap()
    }

    /// Fills every tensor with numbers of its own, which all dtypes hold exactly.
    fn fill(cache: &KvCache) {
        for (index, tensor) in (1u32..).zip(tensors(cache)) {
            let count = tensor.elem_count() as u32;
            let numbers = (0..count).map(|i| ((i * 7 + index * 13) % 251) as f32);
            let numbers = Tensor::from_iter(numbers, &Device::Cpu).unwrap();
            let numbers = numbers.reshape(tensor.shape()).unwrap();
            let numbers = numbers.to_dtype(tensor.dtype()).unwrap();
            tensor.slice_set(&numbers, 0, 0).unwrap();
        }
    }

    #[test]
    fn a_block_takes_as_many_bytes_as_its_tensors() {
        for dtype in KvDtype::ALL {
            let cache = KvCache::new(&SPEC, 5, dtype, &Device::Cpu).unwrap();
            let bytes = |t: &&Tensor| t.elem_count() * t.dtype().size_in_bytes();
            let bytes: usize = tensors(&cache).iter().map(bytes).sum();
            assert_eq!(bytes, 5 * SPEC.block_bytes(dtype), "{dtype}");
        }
        let absurd = ModelSpec {
            head_dim: usize::MAX,
            ..SPEC
        };
        assert_eq!(absurd.block_bytes(KvDtype::Int8), usize::MAX);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for dtype in KvDtype::ALL {
            assert_eq!(dtype.to_string().parse(), Ok(dtype));
        }
        let error = "fp8".parse::<KvDtype>().unwrap_err().to_string();
        assert_eq!(error, "a KV cache holds f32, f16, bf16 or int8, not `fp8`");
    }

    #[test]
    fn a_copied_block_is_the_same_in_every_tensor_and_no_other_changes() {
        for dtype in KvDtype::ALL {
            let cache = KvCache::new(&SPEC, 4, dtype, &Device::Cpu).unwrap();
            fill(&cache);
            let tensors = tensors(&cache);
            assert_eq!(tensors.len(), if dtype == KvDtype::Int8 { 8 } else { 4 });
            let before: Vec<_> = tensors.iter().map(|tensor| blocks(tensor)).collect();
            cache.copy_block(3, 1).unwrap();
            cache.copy_block(2, 2).unwrap();
            for (tensor, before) in tensors.iter().zip(before) {
                assert_ne!(before[1], before[3], "{dtype}");
                let [first, _, third, fourth] = before.try_into().unwrap();
                let expected = vec![first, fourth.clone(), third, fourth];
                assert_eq!(blocks(tensor), expected, "{dtype}");
            }
        }
    }

    #[test]
    fn blocks_beyond_the_cache_are_not_copied() {
        let cache = KvCache::new(&SPEC, 4, KvDtype::Bf16, &Device::Cpu).unwrap();
        for (from, to, block) in [(4, 0, 4), (0, 4, 4), (9, 9, 9), (1, u32::MAX, u32::MAX)] {
            let error = cache.copy_block(from, to).unwrap_err().to_string();
            let expected = format!("block {block} is beyond a KV cache of 4 blocks");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}
