"""Weights of `.nemo` archives in the distributed formats of Megatron core.

python make.py nemo_distributed ../golden/nemo_distributed

`torch_dist.nemo` is written by torch.distributed.checkpoint, cut into chunks as Megatron's ranks
cut them; `zarr.nemo` has the same tensors as Megatron writes them with zarr 2. `whole.safetensors`
has them in one piece. The configuration is not one.
"""

import dataclasses
import io
import itertools
import json
import pickle
import shutil
import sys
import tempfile
import types
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

import nemo_file

FOLDER = "model_weights"
DTYPES = {torch.bfloat16: "bfloat16", torch.float32: "<f4", torch.int64: "<i8"}


def tensors():
    """`{name: (tensor, pieces along each axis)}`; layers lie along the first axis."""

    def numbers(*shape):
        count = torch.Size(shape).numel()
        return ((torch.arange(count) * 37 % 101 - 50) / 8).reshape(shape).to(torch.bfloat16)

    return {
        "model.embedding.word_embeddings.weight": (numbers(8, 4), (2, 1)),
        "model.decoder.layers.self_attention.linear_qkv.weight": (numbers(3, 6, 4), (3, 2, 1)),
        "model.decoder.layers.mlp.linear_fc2.weight": (numbers(3, 4, 8), (3, 1, 2)),
        "model.decoder.final_layernorm.weight": (torch.arange(4.0), (1,)),
        "model.steps": (torch.tensor(7), ()),
    }


def chunks(shape, pieces):
    """Offsets and sizes of the parts of a tensor."""
    sizes = [size // count for size, count in zip(shape, pieces, strict=True)]
    for index in itertools.product(*map(range, pieces)):
        yield [at * size for at, size in zip(index, sizes, strict=True)], sizes


def part(tensor, offsets, sizes):
    """One of them."""
    return tensor[tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))]


class Chunked(torch.Tensor):
    """A tensor that torch.distributed.checkpoint writes in chunks, as if ranks held them."""

    def __create_write_items__(self, name, _):
        whole = self.as_subclass(torch.Tensor)
        return [
            WriteItem(
                index=MetadataIndex(name, torch.Size(offsets)),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)),
                    properties=TensorProperties.create_from_tensor(whole),
                    size=whole.size(),
                ),
            )
            for offsets, sizes in chunks(whole.shape, self.pieces)
        ]

    def __get_tensor_shard__(self, index):
        whole = self.as_subclass(torch.Tensor)
        for offsets, sizes in chunks(whole.shape, self.pieces):
            if list(index.offset) == offsets:
                return part(whole, offsets, sizes).clone()
        raise KeyError(index)


def mcore_metadata(metadata):
    """The same as the class that Megatron core 0.15 wrote."""
    name = "megatron.core.dist_checkpointing.strategies.torch"
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = ".".join(parts[:end])
        sys.modules[path] = types.ModuleType(path)
    fields = [("mcore_data", dict, dataclasses.field(default_factory=dict))]
    kind = dataclasses.make_dataclass("MCoreMetadata", fields, bases=(Metadata,))
    kind.__module__ = name
    sys.modules[name].MCoreMetadata = kind
    return kind(**vars(metadata), mcore_data={"optimizer": {"shape": (1, 2)}})


def torch_dist(tensors):
    """`{path: bytes}` of `{name: (tensor, pieces along each axis)}` as torch writes it."""
    state = {"model.decoder._extra_state/shard_0_3": io.BytesIO(b"no scales")}
    for name, (tensor, pieces) in tensors.items():
        state[name] = tensor.clone().as_subclass(Chunked)
        state[name].pieces = pieces
    with tempfile.TemporaryDirectory() as folder:
        writer = dcp.FileSystemWriter(folder, thread_count=2)
        dcp.save(state, storage_writer=writer, no_dist=True)
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    metadata = pickle.loads(files[".metadata"])
    # Otherwise different each time; the order is that in which threads finish.
    by_place = sorted(metadata.storage_data.items(), key=lambda item: str(item[0]))
    metadata.storage_data = dict(by_place)
    metadata.storage_meta.checkpoint_id = Path("checkpoint")
    metadata.storage_meta.save_id = "0"
    files[".metadata"] = pickle.dumps(mcore_metadata(metadata))
    return files


def zarr(tensors):
    """The same as zarr 2 writes it, with Megatron's name for bfloat16."""
    files = {"model.decoder._extra_state/shard_0_3.pt": nemo_file.checkpoint_bytes([b"no scales"])}
    for name, (tensor, pieces) in tensors.items():
        sizes = []
        for offsets, sizes in chunks(tensor.shape, pieces):
            index = [at // size for at, size in zip(offsets, sizes, strict=True)]
            data = part(tensor, offsets, sizes).contiguous().reshape(-1).view(torch.uint8)
            files[f"{name}/{'.'.join(map(str, index)) or '0'}"] = data.numpy().tobytes()
        description = {
            "chunks": sizes,
            "compressor": None,
            "dtype": DTYPES[tensor.dtype],
            "fill_value": None,
            "filters": None,
            "order": "C",
            "shape": list(tensor.shape),
            "zarr_format": 2,
        }
        files[f"{name}/.zarray"] = json.dumps(description, indent=4).encode()
    return files


def files(kind, tensors):
    """`{path: bytes}` of an archive's weights in one of the two formats."""
    about = {"sharded_backend": kind, "sharded_backend_version": 1}
    members = {
        "metadata.json": json.dumps(about).encode(),
        "common.pt": nemo_file.checkpoint_bytes({"iteration": 1}),
        **{"torch_dist": torch_dist, "zarr": zarr}[kind](tensors),
    }
    return {f"{FOLDER}/{path}": data for path, data in members.items()}


def make(out):
    """Writes the archives and the whole tensors into the new folder `out`."""
    out = Path(out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for kind in ("torch_dist", "zarr"):
        members = {"model_config.yaml": b"{}\n", **files(kind, tensors())}
        (out / f"{kind}.nemo").write_bytes(nemo_file.archive(members))
    whole = {name: tensor for name, (tensor, _) in tensors().items()}
    save_file(whole, out / "whole.safetensors")
    print(f"{out}: 2 archives")
