//! Weights under a prefix, checked against the shapes that the architecture asks for.

use std::fmt::Display;

use candle_core::{DType, Device, Tensor};
use vlmd_kernels::Linear;

use crate::LoadError;
use crate::load::Source;

/// A branch of the tree of tensor names.
#[derive(Clone)]
pub(crate) struct Params<'a> {
    source: &'a Source<'a>,
    /// Empty, or ends with a dot.
    prefix: String,
}

impl<'a> Params<'a> {
    pub(crate) fn new(source: &'a Source<'a>) -> Self {
        Self {
            source,
            prefix: String::new(),
        }
    }

    /// The branch `part` of this one.
    pub(crate) fn at(&self, part: impl Display) -> Self {
        Self {
            source: self.source,
            prefix: format!("{}{part}.", self.prefix),
        }
    }

    pub(crate) fn device(&self) -> &Device {
        self.source.device()
    }

    pub(crate) fn activation_dtype(&self) -> DType {
        self.source.activation_dtype()
    }

    /// A tensor's full name, for messages.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.source.shape(&self.name(name)).is_some()
    }

    /// The shape of a tensor that decides sizes elsewhere; all of its sizes are at least 1.
    pub(crate) fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N], LoadError> {
        let full = self.name(name);
        let Some(found) = self.source.shape(&full) else {
            return Err(LoadError::tensor(full, "is missing from the weights"));
        };
        match <[usize; N]>::try_from(found.as_slice()) {
            Ok(shape) if !shape.contains(&0) => Ok(shape),
            _ => Err(LoadError::tensor(
                full,
                format!("must have {N} dimensions, none of them 0, but its shape is {found:?}"),
            )),
        }
    }

    /// A matrix, in the type that weights are kept in.
    pub(crate) fn weight(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        self.source.weight(&self.name(name), shape)
    }

    /// A tensor that meets activations element by element, in their type.
    pub(crate) fn activation(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        self.source.activation(&self.name(name), shape)
    }

    /// The hyperbolic tangent of a learnt scalar, which scales a branch.
    pub(crate) fn gate(&self, name: &str) -> Result<f64, LoadError> {
        let gate = self.activation(name, &[1])?.to_dtype(DType::F32)?;
        Ok(gate
            .tanh()?
            .to_vec1::<f32>()?
            .first()
            .copied()
            .map_or(0.0, f64::from))
    }

    /// `name.weight` of shape `[output, input]`, without a bias.
    pub(crate) fn linear(
        &self,
        name: &str,
        input: usize,
        output: usize,
    ) -> Result<Linear, LoadError> {
        let weight = self.at(name).weight("weight", &[output, input])?;
        Ok(Linear::new(weight, None)?)
    }

    /// The same with `name.bias` where it is `biased`.
    pub(crate) fn linear_of(
        &self,
        name: &str,
        input: usize,
        output: usize,
        biased: bool,
    ) -> Result<Linear, LoadError> {
        if biased {
            self.linear_with_bias(name, input, output)
        } else {
            self.linear(name, input, output)
        }
    }

    /// `name.weight` of shape `[output, input]`, and `name.bias`.
    pub(crate) fn linear_with_bias(
        &self,
        name: &str,
        input: usize,
        output: usize,
    ) -> Result<Linear, LoadError> {
        let branch = self.at(name);
        let weight = branch.weight("weight", &[output, input])?;
        let bias = branch.activation("bias", &[output])?;
        Ok(Linear::new(weight, Some(bias))?)
    }

    /// Several linear layers that read the same input, as one: stored as `fused`, or part by part
    /// (name, outputs). Their biases come along where the first has one.
    pub(crate) fn fused(
        &self,
        fused: &str,
        parts: &[(&str, usize)],
        input: usize,
    ) -> Result<Linear, LoadError> {
        let total = parts.iter().map(|(_, output)| output).sum();
        let whole = [(fused, total)];
        let parts = if self.at(fused).has("weight") {
            &whole
        } else {
            parts
        };
        let weights = parts
            .iter()
            .map(|(name, output)| self.at(name).weight("weight", &[*output, input]))
            .collect::<Result<Vec<_>, _>>()?;
        let biased = parts
            .first()
            .is_some_and(|(name, _)| self.at(name).has("bias"));
        let biases = parts
            .iter()
            .filter(|_| biased)
            .map(|(name, output)| self.at(name).activation("bias", &[*output]))
            .collect::<Result<Vec<_>, _>>()?;
        let bias = if biased {
            Some(Tensor::cat(&biases, 0)?)
        } else {
            None
        };
        Ok(Linear::new(Tensor::cat(&weights, 0)?, bias)?)
    }
}
