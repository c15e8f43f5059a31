"""Writes `.nemo` archives as NeMo does: names, shards and container."""

import collections
import gzip
import io
import tarfile

import torch

from neva_reference import EMBEDDING, OUTPUT, gated

# Megatron core's names and those of NeMo's own older layers.
LEGACY_NAMES = {
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "self_attention.linear_qkv.": "self_attention.query_key_value.",
    "self_attention.linear_proj.": "self_attention.dense.",
    "mlp.linear_fc1.layer_norm_": "post_attention_layernorm.",
    "mlp.linear_fc1.": "mlp.dense_h_to_4h.",
    "mlp.linear_fc2.": "mlp.dense_4h_to_h.",
    "model.decoder.": "model.language_model.encoder.",
    "model.embedding.": "model.language_model.embedding.",
    "model.output_layer.": "model.language_model.output_layer.",
}


def legacy(name):
    """The older name of a weight."""
    for new, old in LEGACY_NAMES.items():
        name = name.replace(new, old)
    return name


def with_extra_state(state):
    """Adds what Transformer Engine keeps beside its linear layers: pickled streams, and `None`."""
    extended = collections.OrderedDict()
    for name, tensor in state.items():
        extended[name] = tensor
        owner, _, kind = name.rpartition(".")
        if kind == "weight" and ".linear_" in owner:
            stream = io.BytesIO(b"no scales: this layer has not run in eight bits")
            extended[owner + "._extra_state"] = stream
        if name.endswith("linear_proj.weight"):
            core = owner.replace("linear_proj", "core_attention")
            extended[core + "._extra_state"] = None
    return extended


def shard(config, name, tensor, rank, ranks):
    """The part of a tensor that one of several tensor-parallel ranks holds."""
    columns = ("linear_qkv.weight", "linear_qkv.bias", "linear_fc1.weight", "linear_fc1.bias")
    if gated(config) and "linear_fc1." in name and name.endswith(columns):
        # Each rank has its part of the gate above its part of the rest.
        return torch.cat([half.chunk(ranks)[rank] for half in tensor.chunk(2)])
    if name in (EMBEDDING, OUTPUT) or name.endswith(columns):
        return tensor.chunk(ranks)[rank]
    if name.endswith(("linear_proj.weight", "linear_fc2.weight")):
        return tensor.chunk(ranks, dim=1)[rank]
    return tensor


def checkpoint_bytes(state):
    """A `.ckpt`: a zip with a pickle and the tensors' storages."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def weights(config, state, settings):
    """`{path in the archive: bytes}` of the weights."""
    ranks = config["tensor_model_parallel_size"]
    files = {}
    for rank in range(ranks):
        part = {
            name: shard(config, name, tensor, rank, ranks).to(torch.bfloat16).clone()
            for name, tensor in state.items()
        }
        if settings.get("extra_state"):
            part = with_extra_state(part)
        if not config["mcore_gpt"]:
            part = {legacy(name): tensor for name, tensor in part.items()}
        if config["megatron_amp_O2"]:
            part = {name.replace("model.", "model.module.", 1): t for name, t in part.items()}
        folder = f"mp_rank_{rank:02d}/" if ranks > 1 else ""
        data = checkpoint_bytes(collections.OrderedDict(part))
        files[folder + "model_weights.ckpt"] = data
    return files


def archive(files, compressed=False):
    """A tar of `files` below `./`, folders included, without any date."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        folders = {"."} | {"./" + path.rpartition("/")[0] for path in files if "/" in path}
        for folder in sorted(folders):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path, data in files.items():
            entry = tarfile.TarInfo("./" + path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    data = buffer.getvalue()
    return gzip.compress(data, mtime=0) if compressed else data
