//! What a pass through a model takes of its device beside weights and caches.
//!
//! Computed from the sizes in a model's configuration, before anything is allocated: what a plan
//! of the memory needs to leave free. These are upper bounds. Each is the sum of the tensors that
//! the code of this crate makes between two points, with those counted as alive that are in truth
//! dropped on the way, and what attention takes is counted by the crate that computes it
//! ([`vlmd_kernels::attention_scratch`]). On a CUDA device the server holds them against a run of
//! the largest step and of the largest picture.

mod decoder;
mod encoder;

use candle_core::DType;
use vlmd_kernels::Place;

pub(crate) use decoder::DecoderShape;
pub(crate) use encoder::{EncoderShape, TileShape, TowerShape, ViewShape};

/// Where a model computes, and in what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compute {
    /// On what.
    pub place: Place,
    /// Type of the activations: `F32` on a CPU, else that of the weights.
    pub activations: DType,
}

impl Compute {
    /// Of a model on `place` whose weights are asked for as `dtype`; see
    /// [`LoadOptions::dtype`](crate::LoadOptions::dtype).
    #[must_use]
    pub fn of(place: Place, dtype: Option<DType>) -> Self {
        Self {
            place,
            activations: match place {
                Place::Cpu => DType::F32,
                Place::Cuda => dtype.unwrap_or(DType::BF16),
            },
        }
    }

    /// Bytes of an activation.
    fn size(self) -> usize {
        self.activations.size_in_bytes()
    }
}

/// The largest step that an engine takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepBound {
    /// New tokens of all sequences.
    pub tokens: usize,
    /// Rows whose logits are computed: all, where prompts may be asked for theirs.
    pub logit_rows: usize,
    /// Tokens of the longest sequence.
    pub longest: usize,
    /// Sequences side by side.
    pub sequences: usize,
    /// Pictures that a token looks at by cross-attention at most.
    pub pictures: usize,
}

/// The sizes that a model's passes follow from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    pub(crate) decoder: DecoderShape,
    pub(crate) encoder: EncoderShape,
}

impl Footprint {
    /// Bytes of one step of the decoder, its logits included.
    #[must_use]
    pub fn step_bytes(&self, bound: &StepBound, compute: Compute) -> u64 {
        let looked_at = match &self.encoder {
            EncoderShape::Views(_) => 0,
            EncoderShape::Tiles(tiles) => tiles.features().saturating_mul(bound.pictures),
        };
        self.decoder.step_bytes(bound, looked_at, compute) as u64
    }

    /// Bytes of encoding pictures, of which a call takes at least one and otherwise up to
    /// `call_pixels` pixels.
    #[must_use]
    pub fn encoding_bytes(&self, call_pixels: usize, compute: Compute) -> u64 {
        let bytes = match &self.encoder {
            EncoderShape::Views(views) => {
                views.encoding_bytes(call_pixels, self.decoder.hidden, compute)
            }
            EncoderShape::Tiles(tiles) => tiles.encoding_bytes(&self.decoder, compute),
        };
        bytes as u64
    }

    /// Features of the largest picture.
    #[must_use]
    pub fn picture_features(&self) -> usize {
        match &self.encoder {
            EncoderShape::Views(views) => views.features,
            EncoderShape::Tiles(tiles) => tiles.features(),
        }
    }

    /// Width and height in pixels of a picture that none takes more to encode than.
    #[must_use]
    pub fn largest_picture(&self) -> (usize, usize) {
        match &self.encoder {
            EncoderShape::Views(views) => views.largest,
            EncoderShape::Tiles(tiles) => (tiles.tile.saturating_mul(tiles.tiles), tiles.tile),
        }
    }
}

/// The product of sizes; those of a checkpoint that nobody could load saturate.
fn product<const N: usize>(sizes: [usize; N]) -> usize {
    sizes.into_iter().fold(1, usize::saturating_mul)
}

/// The sum of sizes.
fn sum<const N: usize>(sizes: [usize; N]) -> usize {
    sizes.into_iter().fold(0, usize::saturating_add)
}
