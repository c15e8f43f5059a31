//! Models in whose prompts the features of pictures take the place of tokens.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};
use vlmd_backend::{Encoding, ImageInput, KvCache, Model, ModelSpec, Step};

use super::clip::Clip;
use super::decoder::Decoder;
use super::stages::{InPieces, Stage, Staged};

/// What turns pictures into features.
pub(crate) trait Vision: Debug + Send + Sync + 'static {
    /// What views `[n, 3, side, side]` go through first.
    fn tower(&self) -> &Clip;

    /// Features `[n, ..]` of views of which these are the tower's, `[n, features, width]`.
    fn project(&self, features: &Tensor) -> Result<Tensor>;

    /// Multiplications of [`Self::project`] for one view.
    fn project_work(&self) -> u64;

    /// One picture's features as they stand in the prompt, `[image.features, hidden]`, of what
    /// [`Self::project`] has given for its views: of a single one, as it is.
    fn arrange(&self, encoded: &Tensor, _image: &ImageInput) -> Result<Tensor> {
        encoded.squeeze(0)
    }
}

/// A decoder and what it sees with.
#[derive(Debug)]
pub(crate) struct Spliced<V> {
    spec: ModelSpec,
    /// Shared with encodings.
    vision: Arc<V>,
    decoder: Decoder,
}

impl<V: Vision> Spliced<V> {
    pub(crate) fn new(vision: V, decoder: Decoder) -> Self {
        Self {
            spec: decoder.spec(),
            vision: Arc::new(vision),
            decoder,
        }
    }
}

impl<V: Vision> Model for Spliced<V> {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> &Device {
        self.decoder.device()
    }

    /// The views of all pictures share the layers' passes.
    fn begin_encoding(&self, images: &[&ImageInput]) -> Result<Box<dyn Encoding>> {
        if images.is_empty() {
            return Ok(Box::new(Vec::new()));
        }
        let pixels: Vec<&Tensor> = images.iter().map(|image| &image.pixels).collect();
        let views = Views {
            vision: Arc::clone(&self.vision),
            device: self.device().clone(),
            dtype: self.decoder.dtype(),
            images: images.iter().copied().cloned().collect(),
            x: Tensor::cat(&pixels, 0)?,
        };
        let unit = self.vision.tower().layer_work();
        let stages = views.stages()?;
        Ok(Box::new(InPieces::new(views, stages, unit)))
    }

    fn forward(&self, step: &Step, cache: &KvCache) -> Result<Tensor> {
        self.decoder.forward(step, cache)
    }
}

/// Views of pictures on their way through a tower.
struct Views<V> {
    vision: Arc<V>,
    device: Device,
    /// Of the activations.
    dtype: DType,
    images: Vec<ImageInput>,
    /// `[n, ..]` of all pictures: pixels, tokens, and features in the end.
    x: Tensor,
}

/// What views go through.
#[derive(Debug, Clone, Copy)]
enum Pass {
    Embed,
    Layer(usize),
    Project,
}

impl<V: Vision> Views<V> {
    fn stages(&self) -> Result<Vec<Stage<Pass>>> {
        let tower = self.vision.tower();
        let items = self.x.dim(0)?;
        let stage = |step, work| Stage { step, items, work };
        let layer = |index| stage(Pass::Layer(index), tower.layer_work());
        let mut stages = vec![stage(Pass::Embed, tower.embed_work())];
        stages.extend((0..tower.layers().len()).map(layer));
        stages.push(stage(Pass::Project, self.vision.project_work()));
        Ok(stages)
    }
}

impl<V: Vision> Staged for Views<V> {
    type Step = Pass;

    fn compute(&self, pass: Pass, views: Range<usize>) -> Result<Tensor> {
        let tower = self.vision.tower();
        let x = self.x.narrow(0, views.start, views.len())?;
        match pass {
            Pass::Embed => tower.embed(&x.to_device(&self.device)?.to_dtype(self.dtype)?),
            Pass::Layer(index) => match tower.layers().get(index) {
                Some(layer) => layer.forward(&x),
                None => bail!("the tower has no layer {index}"),
            },
            Pass::Project => self.vision.project(&tower.features(&x)?),
        }
    }

    fn complete(&mut self, _pass: Pass, result: Tensor) -> Result<()> {
        self.x = result;
        Ok(())
    }

    fn finish(self) -> Result<Vec<Tensor>> {
        let mut first = 0;
        let mut features = Vec::with_capacity(self.images.len());
        for image in &self.images {
            let views = image.pixels.dim(0)?;
            let of_image = self.x.narrow(0, first, views)?;
            features.push(self.vision.arrange(&of_image, image)?);
            first += views;
        }
        Ok(features)
    }
}
