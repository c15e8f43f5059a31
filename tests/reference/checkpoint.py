"""Seeded weights, rounded to bfloat16, so that a checkpoint is a pure function of its seed."""

import hashlib
import math

import torch
from safetensors.torch import save_file

# Tensors that are added to tokens, or stand for them, and not multiplied with them.
ADDED_TO_TOKENS = ("position_embedding", "positional_embedding", "tile_embedding", "latent_query")


def _generator(seed, name):
    """A stream of its own for each tensor: adding a tensor leaves the others as they were."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _values(name, shape, generator):
    """Weights large enough that every path through the model shows in the logits."""
    # NeMo's names for what others call embed_tokens and lm_head.
    name = name.replace("embedding.word_embeddings.weight", "embed_tokens")
    name = name.replace("output_layer", "lm_head")
    noise = torch.randn(shape, generator=generator)
    if noise.numel() == 1:
        # A gate: far from shut, whatever the seed.
        return 0.1 * noise + 0.7
    if noise.ndim == 1 and ("norm" in name.lower() or "_ln." in name):
        return 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
    if name.endswith("bias"):
        return 0.1 * noise
    if noise.ndim == 1 or name.endswith("GN"):
        return 0.5 * noise
    if any(part in name for part in ADDED_TO_TOKENS):
        return 0.5 * noise
    if "embed_tokens" in name and "vision" not in name:
        return noise
    fan_in = math.prod(shape[1:])
    gain = 2.5 if "lm_head" in name else 1.2
    return noise * gain / math.sqrt(fan_in)


def values(name, shape, seed):
    """The tensor of this name; its values are representable in bfloat16."""
    return _values(name, shape, _generator(seed, name)).to(torch.bfloat16).float()


@torch.no_grad()
def initialise(model, seed):
    """Overwrites every parameter of `model`."""
    for name, parameter in model.named_parameters():
        parameter.copy_(values(name, parameter.shape, seed))


def save(model, path, skip=()):
    """Writes the weights as bfloat16 under their own names, without those containing `skip`."""
    tensors = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in sorted(model.state_dict().items())
        if not any(part in name for part in skip)
    }
    save_file(tensors, path, metadata={"format": "pt"})
