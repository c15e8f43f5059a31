//! Which file holds the weights of which rank.

use std::collections::BTreeMap;

use vlmd_kernels::weights::Weights;

use super::container::Container;
use crate::{LoadError, torch};

/// The weights of one rank.
pub(super) const WEIGHTS_FILE: &str = "model_weights.ckpt";

/// Most ranks of either kind; the largest real ones are 64.
const MAX_RANKS: usize = 1024;

/// The files of all ranks of a model.
#[derive(Debug)]
pub(super) struct Ranks {
    /// Tensor-parallel ranks.
    pub(super) tensor: usize,
    /// Pipeline-parallel ranks.
    pub(super) pipeline: usize,
    /// Every pair of them.
    files: BTreeMap<(usize, usize), String>,
}

impl Ranks {
    /// Looks for NeMo's names: `model_weights.ckpt`, or the same in `mp_rank_00` (tensor) or
    /// `tp_rank_00_pp_rank_000` (tensor and pipeline), see `inject_model_parallel_rank` in
    /// `nemo/utils/model_utils.py`.
    ///
    /// None if there is no such file.
    pub(super) fn find(container: &Container) -> Result<Option<Self>, LoadError> {
        let invalid = |reason: String| LoadError::invalid(container.place(), reason);
        let mut files: BTreeMap<_, String> = BTreeMap::new();
        for name in container.names() {
            let Some(rank) = rank_of(name) else {
                continue;
            };
            if rank.0 >= MAX_RANKS || rank.1 >= MAX_RANKS {
                return Err(invalid(format!(
                    "`{name}` is of a rank beyond the {MAX_RANKS} that are read"
                )));
            }
            if let Some(other) = files.insert(rank, name.to_owned()) {
                return Err(invalid(format!(
                    "`{other}` and `{name}` are weights of the same rank"
                )));
            }
        }
        let Some(&(last, _)) = files.keys().next_back() else {
            return Ok(None);
        };
        let tensor = last + 1;
        let pipeline = files.keys().map(|&(_, rank)| rank + 1).max().unwrap_or(1);
        for (t, p) in (0..tensor).flat_map(|t| (0..pipeline).map(move |p| (t, p))) {
            if !files.contains_key(&(t, p)) {
                return Err(invalid(format!(
                    "it has weights of {tensor} tensor-parallel and {pipeline} pipeline-parallel \
                     ranks, but none of tensor rank {t}, pipeline rank {p}"
                )));
            }
        }
        Ok(Some(Self {
            tensor,
            pipeline,
            files,
        }))
    }

    /// The tensors of all ranks, behind `tp{T}.pp{P}.`.
    pub(super) fn weights(&self, container: &Container) -> Result<Weights, LoadError> {
        let mut weights = Weights::empty();
        for ((tensor, pipeline), name) in &self.files {
            let (file, range) = container.file(name)?;
            let tensors = torch::tensors(&container.path_of(name), file.bytes(), range)?;
            let mut part = Weights::empty();
            part.add_raw(file, tensors)?;
            weights.merge(&format!("tp{tensor}.pp{pipeline}."), part)?;
        }
        Ok(weights)
    }
}

/// The rank whose weights a file holds, tensor-parallel first.
fn rank_of(name: &str) -> Option<(usize, usize)> {
    if name == WEIGHTS_FILE {
        return Some((0, 0));
    }
    let folder = name.strip_suffix(WEIGHTS_FILE)?.strip_suffix('/')?;
    if let Some(rank) = folder.strip_prefix("mp_rank_") {
        return Some((number(rank)?, 0));
    }
    let (tensor, pipeline) = folder.strip_prefix("tp_rank_")?.split_once("_pp_rank_")?;
    Some((number(tensor)?, number(pipeline)?))
}

/// A number in digits alone; `parse` would allow a sign.
fn number(digits: &str) -> Option<usize> {
    let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
    plain.then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_read_from_names() {
        let cases = [
            ("model_weights.ckpt", Some((0, 0))),
            ("mp_rank_00/model_weights.ckpt", Some((0, 0))),
            ("mp_rank_17/model_weights.ckpt", Some((17, 0))),
            ("tp_rank_01_pp_rank_002/model_weights.ckpt", Some((1, 2))),
            ("mp_rank_+1/model_weights.ckpt", None),
            ("mp_rank_/model_weights.ckpt", None),
            ("mp_rank_99999999999999999999999/model_weights.ckpt", None),
            ("tp_rank_01/model_weights.ckpt", None),
            ("other/model_weights.ckpt", None),
            ("a/mp_rank_00/model_weights.ckpt", None),
            ("mp_rank_00/model_weights.ckpt/0", None),
            ("xmodel_weights.ckpt", None),
        ];
        for (name, expected) in cases {
            assert_eq!(rank_of(name), expected, "{name}");
        }
    }
}
