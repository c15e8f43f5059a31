//! From files to a model on a device.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use vlmd_backend::{Model, ModelSpec};
use vlmd_kernels::Place;
use vlmd_kernels::weights::Weights;

use crate::common::params::Params;
use crate::footprint::{Compute, Footprint};
use crate::outline::{Outline, Sketch};
use crate::{LoadError, ModelFiles, Processor, registry};

/// Called while weights are read, with the bytes done and the bytes in all.
pub type OnProgress = Box<dyn Fn(u64, u64) + Send + Sync>;

/// What a model needs of its device, known before its weights are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// What the loaded model's [`Model::spec`] is going to be.
    pub spec: ModelSpec,
    /// What its passes take beside weights and caches.
    pub footprint: Footprint,
    /// Where it is going to compute, and in what.
    pub compute: Compute,
    /// Bytes of the weights in the types that they are going to have. Tensors that the
    /// architecture never loads, such as a tower's last layer, are counted.
    pub weight_bytes: u64,
    /// The same if the weights were asked for in `BF16` or `F16`.
    pub half_bytes: u64,
}

impl Need {
    /// The same with weights that are asked for as `BF16`.
    #[must_use]
    pub fn in_half(&self) -> Self {
        let compute = Compute::of(self.compute.place, Some(DType::BF16));
        let size = |compute: Compute| compute.activations.size_in_bytes();
        let cross_feature_bytes =
            self.spec.cross_feature_bytes / size(self.compute) * size(compute);
        Self {
            spec: ModelSpec {
                cross_feature_bytes,
                ..self.spec.clone()
            },
            compute,
            weight_bytes: self.half_bytes,
            ..self.clone()
        }
    }
}

/// Called when the configuration, tokenizer and headers of the weights have been read, and before
/// a weight is. A reason in return ends the loading as [`LoadError::NotAdmitted`].
pub type Admit = Box<dyn Fn(&Need) -> Result<(), String> + Send + Sync>;

/// Where and how to load.
pub struct LoadOptions {
    /// Where the weights go and where the model runs.
    pub device: Device,
    /// Type of the weights: `F32`, `F16` or `BF16`. `None` keeps them as stored on a CPU, which
    /// widens them as it computes, and means `BF16` elsewhere.
    pub dtype: Option<DType>,
    /// Compute what transformers computes, even where it departs from the code that the weights
    /// were trained with. Concerns mllama alone.
    pub transformers_quirks: bool,
    /// Decides whether there is room for the model.
    pub admit: Option<Admit>,
    /// Hears of progress, in bytes of the weight files.
    pub on_progress: Option<OnProgress>,
}

impl Default for LoadOptions {
    /// On the CPU, as stored.
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: None,
            transformers_quirks: false,
            admit: None,
            on_progress: None,
        }
    }
}

impl fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions")
            .field("device", &self.device)
            .field("dtype", &self.dtype)
            .field("transformers_quirks", &self.transformers_quirks)
            .field("admit", &self.admit.is_some())
            .field("on_progress", &self.on_progress.is_some())
            .finish()
    }
}

/// A checkpoint, ready to serve.
pub struct LoadedModel {
    /// Makes prompts.
    pub processor: Arc<dyn Processor>,
    /// Runs them.
    pub model: Box<dyn Model>,
    /// The architecture's short name.
    pub architecture: &'static str,
    /// Size of the weight files in bytes.
    pub weight_bytes: u64,
}

impl fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedModel")
            .field("architecture", &self.architecture)
            .field("spec", self.model.spec())
            .field("device", self.model.device())
            .finish_non_exhaustive()
    }
}

/// Loads a checkpoint. All or nothing: whatever is wrong with it is found here, not when serving.
///
/// # Errors
/// See [`LoadError`].
pub fn load(files: &ModelFiles, options: &LoadOptions) -> Result<LoadedModel, LoadError> {
    files.check()?;
    let entry = registry::pick(files)?;
    let weights = files.weights()?;
    let source = Source::new(&weights, options)?;
    let (processor, model) = (entry.load)(files, &source)?;
    source.finish();
    Ok(LoadedModel {
        processor,
        model,
        architecture: entry.name,
        weight_bytes: source.total,
    })
}

/// Weights on their way to a device.
pub(crate) struct Source<'a> {
    weights: &'a Weights,
    device: &'a Device,
    place: Place,
    /// What weights become; `None` leaves them as stored.
    dtype: Option<DType>,
    transformers_quirks: bool,
    admit: Option<&'a Admit>,
    on_progress: Option<&'a OnProgress>,
    done: Cell<u64>,
    total: u64,
}

impl<'a> Source<'a> {
    pub(crate) fn new(weights: &'a Weights, options: &'a LoadOptions) -> Result<Self, LoadError> {
        let place = Place::of(&options.device);
        Ok(Self {
            device: &options.device,
            transformers_quirks: options.transformers_quirks,
            admit: options.admit.as_ref(),
            on_progress: options.on_progress.as_ref(),
            ..Self::surveyed(weights, place, options.dtype)?
        })
    }

    /// Weights of which nothing but names and shapes is going to be read, for a device that need
    /// not be there.
    pub(crate) fn surveyed(
        weights: &'a Weights,
        place: Place,
        dtype: Option<DType>,
    ) -> Result<Self, LoadError> {
        let dtype = match (dtype, place) {
            (None, Place::Cpu) => None,
            (None, Place::Cuda) => Some(DType::BF16),
            (Some(dtype @ (DType::F32 | DType::F16 | DType::BF16)), _) => Some(dtype),
            (Some(other), _) => return Err(LoadError::DType(other.as_str().to_owned())),
        };
        Ok(Self {
            weights,
            device: &Device::Cpu,
            place,
            dtype,
            transformers_quirks: false,
            admit: None,
            on_progress: None,
            done: Cell::new(0),
            total: weights.total_bytes() as u64,
        })
    }

    /// All tensors, by their full names.
    pub(crate) fn root(&'a self) -> Params<'a> {
        Params::new(self)
    }

    pub(crate) fn device(&self) -> &Device {
        self.device
    }

    /// See [`LoadOptions::transformers_quirks`].
    pub(crate) fn transformers_quirks(&self) -> bool {
        self.transformers_quirks
    }

    pub(crate) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.weights.shape(name)
    }

    /// What there is to see for those who want to know what the model needs.
    pub(crate) fn sketch(&'a self, files: &'a ModelFiles) -> Sketch<'a> {
        Sketch {
            files,
            source: Some(self),
            activations: self.activation_dtype(),
        }
    }

    /// What a model needs whose outline this is.
    pub(crate) fn need(&self, outline: Outline) -> Need {
        Need {
            spec: outline.spec,
            footprint: outline.footprint,
            compute: Compute {
                place: self.place,
                activations: self.activation_dtype(),
            },
            weight_bytes: self.bytes_as(self.dtype),
            half_bytes: self.bytes_as(Some(DType::BF16)),
        }
    }

    /// Asks whether there is room for a model. Architectures do so when all but the weights has
    /// been checked.
    pub(crate) fn admit(&self, outline: Outline) -> Result<(), LoadError> {
        match self.admit {
            Some(admit) => admit(&self.need(outline)).map_err(LoadError::NotAdmitted),
            None => Ok(()),
        }
    }

    /// Bytes of all tensors once loaded, were `dtype` asked for.
    fn bytes_as(&self, dtype: Option<DType>) -> u64 {
        let bytes = |name: &str| {
            let shape = self.weights.shape(name)?;
            let stored = self.weights.dtype(name)?;
            // Biases and the weights of norms meet activations, which are wide on a CPU.
            let kept = if shape.len() <= 1 && self.place == Place::Cpu {
                DType::F32
            } else {
                dtype.unwrap_or(stored)
            };
            let values = shape.iter().product::<usize>() as u64;
            Some(values.saturating_mul(kept.size_in_bytes() as u64))
        };
        let all = self.weights.names().filter_map(bytes);
        all.fold(0, u64::saturating_add)
    }

    /// A matrix in the weights' type.
    pub(crate) fn weight(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        self.tensor(name, shape, self.dtype)
    }

    /// A tensor in the activations' type: f32 on a CPU, elsewhere that of the weights.
    pub(crate) fn activation(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        self.tensor(name, shape, Some(self.activation_dtype()))
    }

    /// The type that activations have on the device.
    pub(crate) fn activation_dtype(&self) -> DType {
        match self.dtype {
            Some(dtype) if self.place != Place::Cpu => dtype,
            _ => DType::F32,
        }
    }

    fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        dtype: Option<DType>,
    ) -> Result<Tensor, LoadError> {
        let tensor = self.weights.tensor(name, shape, dtype, self.device)?;
        let stored = self.weights.dtype(name).unwrap_or(tensor.dtype());
        let bytes = tensor.elem_count() * stored.size_in_bytes();
        self.done.set(self.done.get() + bytes as u64);
        self.report(self.done.get().min(self.total));
        Ok(tensor)
    }

    /// Layers that are never used count as done.
    fn finish(&self) {
        self.report(self.total);
    }

    fn report(&self, done: u64) {
        if let Some(on_progress) = self.on_progress {
            on_progress(done, self.total);
        }
    }
}
