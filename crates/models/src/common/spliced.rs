//! Models in whose prompts the features of pictures take the place of tokens.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};
use vlmd_backend::{Encoding, ImageInput, KvCache, Model, ModelSpec, Step};

use super::clip::Clip;
use super::decoder::Decoder;
use super::stages::{InPieces, Stage, Staged};
use super::views::Views;

/// What turns pictures into features.
pub(crate) trait Vision: Debug + Send + Sync + 'static {
    /// What views of `side` by `side` pixels go through first.
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
        let pictures = Pictures {
            vision: Arc::clone(&self.vision),
            images: images.iter().copied().cloned().collect(),
            views: Views::of(images),
            x: None,
        };
        let unit = self.vision.tower().layer_work();
        let stages = pictures.stages();
        Ok(Box::new(InPieces::new(pictures, stages, unit)))
    }

    fn forward(&self, step: &Step, cache: &KvCache) -> Result<Tensor> {
        self.decoder.forward(step, cache)
    }
}

/// Pictures on their way through a tower.
struct Pictures<V> {
    vision: Arc<V>,
    images: Vec<ImageInput>,
    /// Those of all pictures.
    views: Views,
    /// What became of them, `[n, ..]`: tokens, and features in the end.
    x: Option<Tensor>,
}

/// What views go through.
#[derive(Debug, Clone, Copy)]
enum Pass {
    Embed,
    Layer(usize),
    Project,
}

impl<V: Vision> Pictures<V> {
    fn stages(&self) -> Vec<Stage<Pass>> {
        let tower = self.vision.tower();
        let items = self.views.count();
        let stage = |step, work| Stage { step, items, work };
        let layer = |index| stage(Pass::Layer(index), tower.layer_work());
        let mut stages = vec![stage(Pass::Embed, tower.embed_work())];
        stages.extend((0..tower.layers().len()).map(layer));
        stages.push(stage(Pass::Project, self.vision.project_work()));
        stages
    }

    /// What became of some views.
    fn x(&self, views: Range<usize>) -> Result<Tensor> {
        match &self.x {
            Some(x) => x.narrow(0, views.start, views.len()),
            None => bail!("the views are not embedded yet"),
        }
    }
}

impl<V: Vision> Staged for Pictures<V> {
    type Step = Pass;

    fn compute(&self, pass: Pass, views: Range<usize>) -> Result<Tensor> {
        let tower = self.vision.tower();
        match pass {
            Pass::Embed => tower.embed(&self.views, views),
            Pass::Layer(index) => match tower.layers().get(index) {
                Some(layer) => layer.forward(&self.x(views)?),
                None => bail!("the tower has no layer {index}"),
            },
            Pass::Project => self.vision.project(&tower.features(&self.x(views)?)?),
        }
    }

    fn complete(&mut self, _pass: Pass, result: Tensor) -> Result<()> {
        self.x = Some(result);
        Ok(())
    }

    fn finish(self) -> Result<Vec<Tensor>> {
        let mut first = 0;
        let mut features = Vec::with_capacity(self.images.len());
        for image in &self.images {
            let end = first + image.parts();
            features.push(self.vision.arrange(&self.x(first..end)?, image)?);
            first = end;
        }
        Ok(features)
    }
}
