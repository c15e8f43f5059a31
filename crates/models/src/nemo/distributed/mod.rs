//! Distributed checkpoints of Megatron core, which a model's ranks write together.
//!
//! They lie in the folder `model_weights`, in one of two formats: `torch_dist`, which is that of
//! `torch.distributed.checkpoint`, or `zarr`. In both a tensor is a grid of chunks, cut where the
//! ranks' parts met. The layers of a model are one tensor, with the layer as its first axis. See
//! `megatron/core/dist_checkpointing/strategies`.

mod grid;
mod layers;
mod zarr;

use std::collections::BTreeMap;
use std::ops::Range;

use vlmd_kernels::weights::{RawTensor, StoredDtype, Weights};

use super::container::Container;
use crate::torch::distributed::{SavedChunk, SavedTensor, saved_tensors};
use crate::{LoadError, torch};

/// The folder that it is in.
const FOLDER: &str = "model_weights/";

/// What `torch_dist` lists its tensors in.
const TORCH_METADATA: &str = "model_weights/.metadata";

/// A tensor in chunks, which cover it without gap or overlap.
#[derive(Debug)]
struct Tensor {
    /// Its sizes, outermost first.
    shape: Vec<usize>,
    chunks: Vec<Chunk>,
}

/// A part of a [`Tensor`], of as many dimensions.
#[derive(Debug)]
struct Chunk {
    /// No other chunk is called so.
    name: String,
    /// Where it begins in the tensor, along each axis.
    offsets: Vec<usize>,
    /// Its own shape.
    sizes: Vec<usize>,
}

impl Chunk {
    fn new(tensor: &str, offsets: Vec<usize>, sizes: Vec<usize>) -> Self {
        Self {
            name: format!("{tensor} at {offsets:?}"),
            offsets,
            sizes,
        }
    }
}

/// A distributed checkpoint.
#[derive(Debug)]
pub(super) struct Distributed {
    tensors: BTreeMap<String, Tensor>,
    /// The chunks of each member of the container.
    files: BTreeMap<String, Vec<Stored>>,
}

/// A chunk in a member.
#[derive(Debug)]
struct Stored {
    name: String,
    shape: Vec<usize>,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// In a range of the member, as `torch.save` wrote it.
    Torch(Range<usize>),
    /// The member is nothing else.
    Plain(StoredDtype),
}

impl Distributed {
    /// Reads what the checkpoint lists; `None` if there is no such checkpoint.
    pub(super) fn find(container: &Container) -> Result<Option<Self>, LoadError> {
        let torch = container.has(TORCH_METADATA);
        let arrays: Vec<&str> = container.names().filter_map(zarr::array_of).collect();
        let mut found = Self {
            tensors: BTreeMap::new(),
            files: BTreeMap::new(),
        };
        match (torch, arrays.is_empty()) {
            (false, true) => return Ok(None),
            (true, true) => {
                let file = container.path_of(TORCH_METADATA);
                for tensor in saved_tensors(&file, &container.read(TORCH_METADATA)?)? {
                    found.add_saved(&file, tensor)?;
                }
            }
            (false, false) => {
                for name in arrays {
                    found.add_array(container, name, &zarr::Array::read(container, name)?)?;
                }
            }
            (true, false) => {
                let reason = "it has distributed checkpoints of two formats";
                return Err(LoadError::invalid(container.place(), reason));
            }
        }
        Ok(Some(found))
    }

    fn add_saved(&mut self, file: &str, tensor: SavedTensor) -> Result<(), LoadError> {
        let SavedTensor {
            name,
            shape,
            mut chunks,
        } = tensor;
        // Ranks that hold the same may have listed it twice.
        chunks.sort_by(|a, b| (&a.offsets, &a.sizes).cmp(&(&b.offsets, &b.sizes)));
        chunks.dedup_by(|a, b| (&a.offsets, &a.sizes) == (&b.offsets, &b.sizes));
        let parts = chunks.iter().map(|chunk| (&*chunk.offsets, &*chunk.sizes));
        grid::check(&shape, parts).map_err(|reason| {
            let name = torch::shown(&name);
            LoadError::invalid(file, format!("the parts of `{name}` {reason}"))
        })?;
        let mut listed = Vec::with_capacity(chunks.len());
        for SavedChunk {
            offsets,
            sizes,
            file,
            range,
        } in chunks
        {
            let chunk = Chunk::new(&name, offsets, sizes);
            self.store(format!("{FOLDER}{file}"), &chunk, Form::Torch(range));
            listed.push(chunk);
        }
        let chunks = listed;
        self.tensors.insert(name, Tensor { shape, chunks });
        Ok(())
    }

    fn add_array(
        &mut self,
        container: &Container,
        name: &str,
        array: &zarr::Array,
    ) -> Result<(), LoadError> {
        let mut chunks = Vec::new();
        for (member, offsets) in array.chunks(name) {
            // Checked here: a description alone could list far more chunks than there are files.
            if !container.has(&member) {
                return Err(container.missing(&member));
            }
            let chunk = Chunk::new(name, offsets, array.chunk_shape().to_vec());
            self.store(member, &chunk, Form::Plain(array.dtype()));
            chunks.push(chunk);
        }
        let shape = array.shape().to_vec();
        self.tensors
            .insert(name.to_owned(), Tensor { shape, chunks });
        Ok(())
    }

    fn store(&mut self, member: String, chunk: &Chunk, form: Form) {
        self.files.entry(member).or_default().push(Stored {
            name: chunk.name.clone(),
            shape: chunk.sizes.clone(),
            form,
        });
    }

    /// All tensors, the layers of a model apart.
    pub(super) fn weights(&self, container: &Container) -> Result<Weights, LoadError> {
        let mut weights = Weights::empty();
        for (member, chunks) in &self.files {
            let (file, range) = container.file(member)?;
            let place = container.path_of(member);
            let mut tensors = Vec::with_capacity(chunks.len());
            for chunk in chunks {
                tensors.push(chunk.locate(&place, file.bytes(), &range)?);
            }
            weights.add_raw(file, tensors)?;
        }
        let joined = self.tensors.iter();
        let joined = joined.flat_map(|(name, tensor)| layers::apart(name, tensor));
        Ok(weights.join(joined.collect())?)
    }
}

impl Stored {
    /// Where the chunk's values are in a file whose member lies at `member`.
    fn locate(
        &self,
        place: &str,
        bytes: &[u8],
        member: &Range<usize>,
    ) -> Result<RawTensor, LoadError> {
        let wanted = match &self.form {
            Form::Plain(dtype) => {
                return Ok(RawTensor {
                    name: self.name.clone(),
                    dtype: *dtype,
                    shape: self.shape.clone(),
                    range: member.clone(),
                });
            }
            Form::Torch(range) => range,
        };
        let range = member
            .start
            .checked_add(wanted.start)
            .zip(member.start.checked_add(wanted.end))
            .map(|(start, end)| start..end)
            .filter(|range| range.end <= member.end);
        let Some(range) = range else {
            let reason = format!(
                "`{}` should lie at {}..{}, but the file has {} bytes",
                torch::shown(&self.name),
                wanted.start,
                wanted.end,
                member.len()
            );
            return Err(LoadError::invalid(place, reason));
        };
        let tensor = torch::tensor(place, bytes, range, &self.name)?;
        if tensor.shape != self.shape {
            let reason = format!(
                "`{}` has the shape {:?}, but is listed with {:?}",
                torch::shown(&self.name),
                tensor.shape,
                self.shape
            );
            return Err(LoadError::invalid(place, reason));
        }
        Ok(tensor)
    }
}
