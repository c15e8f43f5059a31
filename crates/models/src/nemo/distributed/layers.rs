//! The layers of a model, which are one tensor of each kind, taken apart.

use vlmd_kernels::weights::{JoinedTensor, Part};

use super::Tensor;
use crate::common::sizes::MAX_LAYERS;

/// What stands before a layer's number, or before the names of stacked layers.
const LAYERS: &str = ".layers.";

/// The names that a single rank's file would have: `layers.0.…` to `layers.N.…` for what is
/// stacked along the first axis, and the tensor itself for all else, an absurd number of layers
/// included.
pub(super) fn apart(name: &str, tensor: &Tensor) -> Vec<JoinedTensor> {
    let stacked = name
        .split_once(LAYERS)
        .filter(|(_, rest)| !rest.starts_with(|c: char| c.is_ascii_digit()));
    let (Some((before, rest)), [count @ 0..=MAX_LAYERS, shape @ ..]) =
        (stacked, tensor.shape.as_slice())
    else {
        return vec![JoinedTensor {
            name: name.to_owned(),
            shape: tensor.shape.clone(),
            parts: tensor
                .chunks
                .iter()
                .map(|chunk| Part {
                    source: chunk.name.clone(),
                    first: 0,
                    offsets: chunk.offsets.clone(),
                    sizes: chunk.sizes.clone(),
                })
                .collect(),
        }];
    };
    let mut layers: Vec<JoinedTensor> = (0..*count)
        .map(|layer| JoinedTensor {
            name: format!("{before}{LAYERS}{layer}.{rest}"),
            shape: shape.to_vec(),
            parts: Vec::new(),
        })
        .collect();
    for chunk in &tensor.chunks {
        let ([offset, offsets @ ..], [size, sizes @ ..]) =
            (chunk.offsets.as_slice(), chunk.sizes.as_slice())
        else {
            continue;
        };
        let values: usize = sizes.iter().product();
        for (index, layer) in layers.iter_mut().skip(*offset).take(*size).enumerate() {
            layer.parts.push(Part {
                source: chunk.name.clone(),
                first: index * values,
                offsets: offsets.to_vec(),
                sizes: sizes.to_vec(),
            });
        }
    }
    layers
}
