"""Writes `.nemo` archives as NeMo does: names, shards and container."""

import collections
import gzip
import io
import itertools
import tarfile

import torch

import nemo_distributed
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


def stage(config, state, index):
    """What one of several pipeline stages holds; each counts its layers from 0."""
    stages = config["pipeline_model_parallel_size"]
    count = config["num_layers"] // stages
    prefix, part = "model.decoder.layers.", {}
    for name, tensor in state.items():
        if name.startswith(prefix):
            layer, _, rest = name.removeprefix(prefix).partition(".")
            if int(layer) // count == index:
                part[f"{prefix}{int(layer) % count}.{rest}"] = tensor
        elif name.startswith("model.embedding."):
            if index == 0:
                part[name] = tensor
        elif index == stages - 1:
            part[name] = tensor
    return part


def folder(config, rank, index):
    """Where NeMo keeps the weights of one rank of one stage."""
    if config["pipeline_model_parallel_size"] > 1:
        return f"tp_rank_{rank:02d}_pp_rank_{index:03d}/"
    return f"mp_rank_{rank:02d}/" if config["tensor_model_parallel_size"] > 1 else ""


def checkpoint_bytes(state):
    """A `.ckpt`: a zip with a pickle and the tensors' storages."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def stacked(config, state, ranks):
    """Whole tensors as ranks write them together: `{name: (tensor, pieces along each axis)}`.

    Layers are stacked, and each rank has its part of each layer; of gated layers two.
    """
    layers, whole = collections.defaultdict(list), {}
    for name, tensor in state.items():
        before, found, rest = name.partition(".decoder.layers.")
        if found:
            layers[f"{before}{found}{rest.partition('.')[2]}"].append(tensor)
        else:
            whole[name] = tensor
    whole.update((name, torch.stack(tensors)) for name, tensors in layers.items())
    for name, tensor in whole.items():
        pieces = [1] * tensor.ndim
        first = 0
        if ".decoder.layers." in name:
            pieces[0], first = len(tensor), 1
        if name in (EMBEDDING, OUTPUT) or "linear_qkv.w" in name:
            pieces[first] = ranks
        elif "linear_fc1.w" in name:
            pieces[first] = 2 * ranks if gated(config) else ranks
        elif name.endswith(("linear_proj.weight", "linear_fc2.weight")):
            pieces[first + 1] = ranks
        yield name, (tensor.to(torch.bfloat16), tuple(pieces))


def weights(config, state, settings):
    """`{path in the archive: bytes}` of the weights."""
    if kind := settings.get("distributed"):
        # The number of ranks is not the model's that is loaded.
        return nemo_distributed.files(kind, dict(stacked(config, state, 2)))
    ranks = config["tensor_model_parallel_size"]
    files = {}
    stages = config["pipeline_model_parallel_size"]
    for index, rank in itertools.product(range(stages), range(ranks)):
        part = {
            name: shard(config, name, tensor, rank, ranks).to(torch.bfloat16).clone()
            for name, tensor in stage(config, state, index).items()
        }
        if settings.get("extra_state"):
            part = with_extra_state(part)
        if not config["mcore_gpt"]:
            part = {legacy(name): tensor for name, tensor in part.items()}
        if config["megatron_amp_O2"]:
            part = {name.replace("model.", "model.module.", 1): t for name, t in part.items()}
        data = checkpoint_bytes(collections.OrderedDict(part))
        files[folder(config, rank, index) + "model_weights.ckpt"] = data
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
