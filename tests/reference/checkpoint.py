"""Seeded weights, rounded to bfloat16, so that a checkpoint is a pure function of its seed."""

import hashlib
import math

import torch
from safetensors.torch import save_file


def _generator(seed, name):
    """A stream of its own for each tensor: adding a tensor leaves the others as they were."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _values(name, shape, generator):
    """Weights large enough that every path through the model shows in the logits."""
    noise = torch.randn(shape, generator=generator)
    if noise.ndim == 1 and "norm" in name.lower():
        return 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
    if name.endswith("bias"):
        return 0.1 * noise
    if noise.ndim == 1 or name.endswith("GN"):
        return 0.5 * noise
    if "position_embedding" in name:
        return 0.5 * noise
    if "embed_tokens" in name and "vision" not in name:
        return noise
    fan_in = math.prod(shape[1:])
    gain = 2.5 if "lm_head" in name else 1.2
    return noise * gain / math.sqrt(fan_in)


@torch.no_grad()
def initialise(model, seed):
    """Overwrites every parameter of `model`; values stay representable in bfloat16."""
    for name, parameter in model.named_parameters():
        values = _values(name, parameter.shape, _generator(seed, name))
        parameter.copy_(values.to(torch.bfloat16).float())


def save(model, path, skip=()):
    """Writes the weights as bfloat16 under their own names, without those containing `skip`."""
    tensors = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in sorted(model.state_dict().items())
        if not any(part in name for part in skip)
    }
    save_file(tensors, path, metadata={"format": "pt"})
