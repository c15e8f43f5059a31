//! The names that a pickle may mention.
//!
//! A pickle refers to functions and classes by module and name, and whoever runs it for real
//! imports and calls them. Here a name is a value of a closed type: those that checkpoints need
//! are listed, every other one is refused, and none is ever called.

use vlmd_kernels::weights::StoredDtype;

/// A function or class that a checkpoint mentions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    /// `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, …)`.
    RebuildTensorV2,
    /// The same with the type of the values behind, as torch writes types that have no storage
    /// class of their own.
    RebuildTensorV3,
    /// `torch._utils._rebuild_parameter(tensor, …)`, with state behind it or without.
    RebuildParameter,
    /// `torch.FloatStorage` and its kin.
    Storage(StoredDtype),
    /// `torch.storage.UntypedStorage`, whose length counts bytes.
    UntypedStorage,
    /// `torch.float32` and its kin.
    DType(StoredDtype),
    /// `torch.Size`, a tuple.
    Size,
    /// `collections.OrderedDict`.
    OrderedDict,
    /// A class of `torch.distributed.checkpoint`.
    Saved(Saved),
    /// What may stand in a checkpoint and is never looked at.
    Opaque,
}

/// The classes in which `torch.distributed.checkpoint` says what it saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Saved {
    /// Everything there is.
    Metadata,
    /// A whole tensor.
    Tensor,
    /// A part of one.
    Chunk,
    /// What a place is for.
    Index,
    /// A place in a file.
    Place,
}

impl Global {
    /// The global of that name, if it is one that is read.
    pub(crate) fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("torch._utils", _) => match name {
                "_rebuild_tensor_v2" => Some(Self::RebuildTensorV2),
                "_rebuild_tensor_v3" => Some(Self::RebuildTensorV3),
                "_rebuild_parameter" | "_rebuild_parameter_with_state" => {
                    Some(Self::RebuildParameter)
                }
                _ => None,
            },
            ("torch.storage" | "torch", "UntypedStorage") => Some(Self::UntypedStorage),
            ("torch", "Size") => Some(Self::Size),
            ("torch", "device") => Some(Self::Opaque),
            ("torch", _) => match name.strip_suffix("Storage") {
                Some(kind) => storage(kind).map(Self::Storage),
                None => dtype(name).map(Self::DType),
            },
            (
                "torch.distributed.checkpoint.metadata"
                | "torch.distributed.checkpoint.filesystem"
                | "torch.distributed._shard.sharded_tensor.metadata",
                _,
            ) => saved(name),
            // Megatron core 0.15 adds to the class what its optimizers need.
            ("megatron.core.dist_checkpointing.strategies.torch", "MCoreMetadata") => {
                Some(Self::Saved(Saved::Metadata))
            }
            ("torch.serialization", "_get_layout") | ("pathlib", "PosixPath") => Some(Self::Opaque),
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            // So protocols below 4 write what later ones have instructions for.
            ("builtins" | "__builtin__", "set" | "frozenset" | "bytearray") => Some(Self::Opaque),
            // What Transformer Engine keeps beside its layers are pickled streams, and bytes are
            // pickled as text by protocols below 3.
            ("_io", "BytesIO") | ("_codecs", "encode") => Some(Self::Opaque),
            _ => None,
        }
    }
}

/// A class of `torch.distributed.checkpoint`, or one that its classes refer to.
fn saved(name: &str) -> Option<Global> {
    Some(match name {
        "Metadata" => Global::Saved(Saved::Metadata),
        "TensorStorageMetadata" => Global::Saved(Saved::Tensor),
        "ChunkStorageMetadata" => Global::Saved(Saved::Chunk),
        "MetadataIndex" => Global::Saved(Saved::Index),
        "_StorageInfo" => Global::Saved(Saved::Place),
        "BytesStorageMetadata"
        | "StorageMeta"
        | "TensorProperties"
        | "MEM_FORMAT_ENCODING"
        | "_MEM_FORMAT_ENCODING" => Global::Opaque,
        _ => return None,
    })
}

/// What `torch.{kind}Storage` holds.
fn storage(kind: &str) -> Option<StoredDtype> {
    Some(match kind {
        "BFloat16" => StoredDtype::BF16,
        "Half" => StoredDtype::F16,
        "Float" => StoredDtype::F32,
        "Double" => StoredDtype::F64,
        "Byte" => StoredDtype::U8,
        "Char" => StoredDtype::I8,
        "Short" => StoredDtype::I16,
        "Int" => StoredDtype::I32,
        "Long" => StoredDtype::I64,
        "Bool" => StoredDtype::BOOL,
        _ => return None,
    })
}

/// What torch calls its types; a second name is never written.
fn dtype(name: &str) -> Option<StoredDtype> {
    Some(match name {
        "bfloat16" => StoredDtype::BF16,
        "float16" => StoredDtype::F16,
        "float32" => StoredDtype::F32,
        "float64" => StoredDtype::F64,
        "float8_e4m3fn" => StoredDtype::F8_E4M3,
        "float8_e5m2" => StoredDtype::F8_E5M2,
        "uint8" => StoredDtype::U8,
        "uint16" => StoredDtype::U16,
        "uint32" => StoredDtype::U32,
        "uint64" => StoredDtype::U64,
        "int8" => StoredDtype::I8,
        "int16" => StoredDtype::I16,
        "int32" => StoredDtype::I32,
        "int64" => StoredDtype::I64,
        "bool" => StoredDtype::BOOL,
        _ => return None,
    })
}
