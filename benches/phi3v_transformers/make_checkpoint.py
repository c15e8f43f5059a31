#!/usr/bin/env python3
"""Writes a checkpoint of Phi-3-vision's real shapes with random weights, for speed work.

    PHI3V_REF=<folder> make_checkpoint.py OUT [--layers N] [--seed N] [--num-crops N]

`PHI3V_REF` holds the files of the model's repository without its weights: configuration,
tokenizer, processor and remote code; they are copied beside the weights. All 32 layers make
4.1 billion parameters, 8.3 GB in bfloat16. Tensors are made and written one by one, so that memory
holds little more than one shard.
"""

import argparse
import json
import math
import os
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

CLIP_WIDTH, CLIP_LAYERS, CLIP_INNER = 1024, 24, 4096
CLIP_PATCH, CLIP_POSITIONS = 14, 577
SHARD_BYTES = 2_000_000_000
# Fresh normals for every weight would take minutes; each tensor tiles these from another start.
NORMALS = 1 << 24
COPIED = ("*.py", "tokenizer*.json", "special_tokens_map.json", "generation_config.json")


def language_shapes(config, layers):
    """Names and shapes of the language model."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    head = hidden // heads
    shapes = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (config["vocab_size"], hidden),
    }
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
        shapes[prefix + "self_attn.qkv_proj.weight"] = ((heads + 2 * groups) * head, hidden)
        shapes[prefix + "self_attn.o_proj.weight"] = (hidden, heads * head)
        shapes[prefix + "mlp.gate_up_proj.weight"] = (2 * inner, hidden)
        shapes[prefix + "mlp.down_proj.weight"] = (hidden, inner)
    return shapes


def linear(name, rows, columns):
    """A linear layer with its bias."""
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def layer_norm(name):
    """A layer norm of the vision tower."""
    return {f"{name}.weight": (CLIP_WIDTH,), f"{name}.bias": (CLIP_WIDTH,)}


def vision_shapes(config):
    """Names and shapes of the vision tower and its projection."""
    hidden, merged = config["hidden_size"], 4 * CLIP_WIDTH
    base = "model.vision_embed_tokens."
    shapes = {
        base + "glb_GN": (1, 1, merged),
        base + "sub_GN": (1, 1, 1, merged),
        **linear(base + "img_projection.0", hidden, merged),
        **linear(base + "img_projection.2", hidden, hidden),
    }
    base += "img_processor.vision_model."
    shapes[base + "embeddings.class_embedding"] = (CLIP_WIDTH,)
    shapes[base + "embeddings.patch_embedding.weight"] = (CLIP_WIDTH, 3, CLIP_PATCH, CLIP_PATCH)
    shapes[base + "embeddings.position_embedding.weight"] = (CLIP_POSITIONS, CLIP_WIDTH)
    shapes |= layer_norm(base + "pre_layrnorm") | layer_norm(base + "post_layernorm")
    for layer in range(CLIP_LAYERS):
        prefix = f"{base}encoder.layers.{layer}."
        shapes |= layer_norm(prefix + "layer_norm1") | layer_norm(prefix + "layer_norm2")
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{prefix}self_attn.{name}", CLIP_WIDTH, CLIP_WIDTH)
        shapes |= linear(prefix + "mlp.fc1", CLIP_INNER, CLIP_WIDTH)
        shapes |= linear(prefix + "mlp.fc2", CLIP_WIDTH, CLIP_INNER)
    return shapes


class Weights:
    """Random tensors of sizes that keep activations in the range of a trained model."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.normals = torch.randn(NORMALS, generator=self.generator).to(torch.bfloat16)

    def make(self, name, shape):
        """The tensor `name`."""
        if name.endswith("bias"):
            return torch.zeros(shape, dtype=torch.bfloat16)
        if "norm" in name:
            return torch.ones(shape, dtype=torch.bfloat16)
        if name == "model.embed_tokens.weight":
            scale = 1.0
        elif len(shape) == 2:
            scale = shape[-1] ** -0.5
        else:
            scale = 0.02
        return (self._draw(math.prod(shape)) * scale).reshape(shape)

    def _draw(self, count):
        start = int(torch.randint(NORMALS, (1,), generator=self.generator))
        rolled = torch.roll(self.normals, -start)
        return rolled.repeat(-(-count // NORMALS))[:count]


def write_weights(out, shapes, seed):
    """Shards and their index; returns the total of bytes."""
    weights = Weights(seed)
    index, shard, shard_bytes, total = {}, {}, 0, 0

    def flush():
        nonlocal shard, shard_bytes
        file = f"model-{len(set(index.values())) + 1:05d}.safetensors"
        save_file(shard, out / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(shard, file))
        shard, shard_bytes = {}, 0

    for name, shape in shapes.items():
        shard[name] = weights.make(name, shape)
        shard_bytes += shard[name].nbytes
        total += shard[name].nbytes
        if shard_bytes > SHARD_BYTES:
            flush()
    if shard:
        flush()
    write_json(
        out / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": index},
    )
    return total


def write_json(path, value):
    """Pretty JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-crops", type=int, default=4, help="16 as Phi-3, 4 as Phi-3.5")
    arguments = parser.parse_args()
    if "PHI3V_REF" not in os.environ:
        sys.exit("set PHI3V_REF to a folder with the model's repository, weights not needed")
    source, out = Path(os.environ["PHI3V_REF"]), arguments.out
    out.mkdir(parents=True, exist_ok=True)

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = arguments.layers
    config["_attn_implementation"] = "eager"
    write_json(out / "config.json", config)
    processor = json.loads((source / "preprocessor_config.json").read_text(encoding="utf-8"))
    processor["num_crops"] = arguments.num_crops
    write_json(out / "preprocessor_config.json", processor)
    for pattern in COPIED:
        for path in source.glob(pattern):
            shutil.copy(path, out)

    shapes = language_shapes(config, arguments.layers) | vision_shapes(config)
    total = write_weights(out, shapes, arguments.seed)
    print(f"{out}: {len(shapes)} tensors, {total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
