//! Models in whose prompts the features of pictures take the place of tokens.

use std::fmt::Debug;

use candle_core::{Device, Result, Tensor};
use vlmd_backend::{Encoding, ImageInput, KvCache, Model, ModelSpec, Step};

use super::decoder::Decoder;

/// Views that are encoded at once. Bounds the memory of a tower's inner layers (about 80 MB for
/// this many at full size), whatever the number of pictures.
const VIEWS_PER_PASS: usize = 8;

/// What turns pictures into features.
pub(crate) trait Vision: Debug + Send {
    /// Features `[n, ..]` of views `[n, 3, side, side]`, which are on the device and in the type
    /// of the activations.
    fn encode(&self, views: &Tensor) -> Result<Tensor>;

    /// One picture's features as they stand in the prompt, `[image.features, hidden]`, of what
    /// [`Self::encode`] has given for its views: of a single one, as it is.
    fn arrange(&self, encoded: &Tensor, _image: &ImageInput) -> Result<Tensor> {
        encoded.squeeze(0)
    }
}

/// A decoder and what it sees with.
#[derive(Debug)]
pub(crate) struct Spliced<V> {
    spec: ModelSpec,
    vision: V,
    decoder: Decoder,
}

impl<V: Vision> Spliced<V> {
    pub(crate) fn new(vision: V, decoder: Decoder) -> Self {
        Self {
            spec: decoder.spec(),
            vision,
            decoder,
        }
    }

    /// [`Vision::encode`] of any number of views, wherever they are.
    fn in_passes(&self, views: &Tensor) -> Result<Tensor> {
        let count = views.dim(0)?;
        let passes = (0..count).step_by(VIEWS_PER_PASS).map(|start| {
            let views = views.narrow(0, start, VIEWS_PER_PASS.min(count - start))?;
            let views = views.to_device(self.device())?;
            self.vision.encode(&views.to_dtype(self.decoder.dtype())?)
        });
        Tensor::cat(&passes.collect::<Result<Vec<_>>>()?, 0)
    }
}

impl<V: Vision> Model for Spliced<V> {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn device(&self) -> &Device {
        self.decoder.device()
    }

    /// The views of all pictures share passes.
    fn begin_encoding(&self, images: &[&ImageInput]) -> Result<Box<dyn Encoding>> {
        if images.is_empty() {
            return Ok(Box::new(Vec::new()));
        }
        let pixels: Vec<&Tensor> = images.iter().map(|image| &image.pixels).collect();
        let encoded = self.in_passes(&Tensor::cat(&pixels, 0)?)?;
        let mut first = 0;
        let mut features = Vec::with_capacity(images.len());
        for image in images {
            let views = image.pixels.dim(0)?;
            let of_image = encoded.narrow(0, first, views)?;
            features.push(self.vision.arrange(&of_image, image)?);
            first += views;
        }
        Ok(Box::new(features))
    }

    fn forward(&self, step: &Step, cache: &KvCache) -> Result<Tensor> {
        self.decoder.forward(step, cache)
    }
}
