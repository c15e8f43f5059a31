//! What a model is going to need, told by its configuration and the headers of its weights.

use candle_core::DType;
use vlmd_backend::ModelSpec;
use vlmd_kernels::Place;

use crate::card_shapes;
use crate::catalog::{Card, EMBEDDED_MODEL};
use crate::common::clip::{Clip, Geometry};
use crate::common::clip_config::ClipConfig;
use crate::common::params::Params;
use crate::footprint::{Compute, Footprint, TowerShape};
use crate::load::{Need, Source};
use crate::{LoadError, ModelFiles, registry};

/// What an architecture tells of a model before it reads a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outline {
    /// What the loaded model's spec is going to be.
    pub(crate) spec: ModelSpec,
    pub(crate) footprint: Footprint,
}

/// What an architecture can look at to tell it.
#[derive(Clone, Copy)]
pub(crate) struct Sketch<'a> {
    pub(crate) files: &'a ModelFiles,
    /// `None` where the configuration alone is at hand, as of models of the catalog.
    pub(crate) source: Option<&'a Source<'a>>,
    /// Type of the activations.
    pub(crate) activations: DType,
}

impl Sketch<'_> {
    /// A CLIP tower with heads of `head_dim`: of the weights that `branch` finds below their
    /// root, or else as `stated`.
    pub(crate) fn clip(
        &self,
        branch: impl for<'p> FnOnce(&Params<'p>) -> Params<'p>,
        stated: &ClipConfig,
        head_dim: usize,
    ) -> Result<(Geometry, TowerShape), LoadError> {
        let (geometry, inner) = match self.source {
            Some(source) => {
                let branch = branch(&source.root());
                (Geometry::read(&branch)?, Clip::inner(&branch))
            }
            None => (stated.geometry()?, None),
        };
        Ok((geometry, tower_shape(geometry, inner, head_dim)))
    }
}

/// The widths of a CLIP tower; all of OpenAI's widen four times.
pub(crate) fn tower_shape(geometry: Geometry, inner: Option<usize>, head_dim: usize) -> TowerShape {
    TowerShape {
        hidden: geometry.hidden,
        heads: geometry.hidden.checked_div(head_dim).unwrap_or(1).max(1),
        inner: inner.unwrap_or_else(|| geometry.hidden.saturating_mul(4)),
    }
}

/// What a checkpoint needs on `place` with weights of `dtype`, as in
/// [`LoadOptions::dtype`](crate::LoadOptions::dtype): reads its configuration and the headers of
/// its weights, and no weight. No device is touched.
///
/// # Errors
/// See [`LoadError`]. What only loading finds, such as a damaged tokenizer, is not found.
pub fn survey(files: &ModelFiles, place: Place, dtype: Option<DType>) -> Result<Need, LoadError> {
    files.check()?;
    let entry = registry::pick(files)?;
    let weights = files.weights()?;
    let source = Source::surveyed(&weights, place, dtype)?;
    Ok(source.need((entry.outline)(&source.sketch(files))?))
}

/// What a model of the catalog needs, by its card alone; `None` where the catalog does not know
/// its configuration.
///
/// # Errors
/// When the configuration in this program is wrong, which a test rules out.
pub fn survey_card(
    card: &Card,
    place: Place,
    dtype: Option<DType>,
) -> Result<Option<Need>, LoadError> {
    if card.id == EMBEDDED_MODEL {
        return survey(&crate::tiny::embedded(), place, dtype).map(Some);
    }
    let Some(files) = card_shapes::of(card) else {
        return Ok(None);
    };
    let entry = registry::pick(&files)?;
    let compute = Compute::of(place, dtype);
    let outline = (entry.outline)(&Sketch {
        files: &files,
        source: None,
        activations: compute.activations,
    })?;
    Ok(Some(Need {
        spec: outline.spec,
        footprint: outline.footprint,
        compute,
        // All of them are published in 16 bits.
        weight_bytes: card.weight_bytes(dtype.unwrap_or(DType::BF16)),
        half_bytes: card.weight_bytes(DType::BF16),
    }))
}
