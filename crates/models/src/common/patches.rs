//! Pictures as tokens: patches and a class token, as in ViT (Dosovitskiy et al. 2020).

use std::ops::Range;

use candle_core::{Result, Tensor};
use vlmd_kernels::Linear;

use super::levels::COLOURS;
use super::params::Params;
use super::stages::linear_work;
use super::views::Views;
use crate::LoadError;

/// The embeddings of patches, without positions.
#[derive(Debug)]
pub(crate) struct PatchEmbedding {
    /// A convolution whose stride is its kernel is a matrix product over patches.
    kernel: Linear,
    /// `[1, 1, hidden]`, where activations are and in their type.
    class: Tensor,
    /// Pixels per side of a patch.
    patch: usize,
}

impl PatchEmbedding {
    /// Loads `patch_embedding.weight` and `class_embedding` of a branch.
    pub(crate) fn load(
        params: &Params<'_>,
        hidden: usize,
        patch: usize,
    ) -> std::result::Result<Self, LoadError> {
        let kernel = params.weight("patch_embedding.weight", &[hidden, COLOURS, patch, patch])?;
        let class = params.activation("class_embedding", &[hidden])?;
        Ok(Self {
            kernel: Linear::new(kernel.flatten_from(1)?, None)?,
            class: class.reshape((1, 1, hidden))?,
            patch,
        })
    }

    /// Patches of some of the views, row by row, `[n, patches, hidden]`. There is no bias: of
    /// zeros come zeros.
    pub(crate) fn forward(&self, views: &Views, wanted: Range<usize>) -> Result<Tensor> {
        let (dtype, device) = (self.class.dtype(), self.class.device());
        let patches = views.patches(wanted, self.patch, dtype, device)?;
        self.kernel.forward(&patches)
    }

    /// Multiplications for so many patches.
    pub(crate) fn work(&self, patches: usize) -> u64 {
        linear_work([&self.kernel], patches)
    }

    /// Puts the class token in front of each picture's: `[n, 1 + tokens, hidden]`.
    pub(crate) fn with_class(&self, tokens: &Tensor) -> Result<Tensor> {
        let (count, _, hidden) = tokens.dims3()?;
        let class = self.class.broadcast_as((count, 1, hidden))?.contiguous()?;
        Tensor::cat(&[&class, tokens], 1)
    }
}
