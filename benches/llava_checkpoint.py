#!/usr/bin/env python3
"""Writes a checkpoint of LLaVA-1.5's format with random weights, for speed work.

    llava_checkpoint.py OUT [--layers N] [--hidden N] [--vision-layers N] [--seed N]

Tokenizer, template and processor are those of the tiny checkpoint in `tests/golden/llava`; the
vocabulary is as large as LLaVA's, the picture is of 336 x 336 pixels and 576 tokens. The defaults
are a language model of half the width and a quarter of the layers of LLaVA-1.5 7B: 1.3 GB. Needs
torch and safetensors.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden" / "llava"
VOCABULARY = 32_064
IMAGE, PATCH = 336, 14
VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
COPIED = ["tokenizer.json", "chat_template.json", "generation_config.json"]
COPIED += ["special_tokens_map.json", "tokenizer_config.json"]


def linear(name, rows, columns):
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def layer_norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def language_shapes(config):
    """Names and shapes of the language model."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {
        "language_model.model.embed_tokens.weight": (VOCABULARY, hidden),
        "language_model.model.norm.weight": (hidden,),
        "language_model.lm_head.weight": (VOCABULARY, hidden),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"language_model.model.layers.{layer}."
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
        shapes[prefix + "self_attn.q_proj.weight"] = (hidden, hidden)
        shapes[prefix + "self_attn.k_proj.weight"] = (keys, hidden)
        shapes[prefix + "self_attn.v_proj.weight"] = (keys, hidden)
        shapes[prefix + "self_attn.o_proj.weight"] = (hidden, hidden)
        shapes[prefix + "mlp.gate_proj.weight"] = (inner, hidden)
        shapes[prefix + "mlp.up_proj.weight"] = (inner, hidden)
        shapes[prefix + "mlp.down_proj.weight"] = (hidden, inner)
    return shapes


def vision_shapes(config, hidden):
    """Names and shapes of the vision tower and of the projector to `hidden`."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    base = "vision_tower.vision_model."
    shapes = {
        base + "embeddings.class_embedding": (width,),
        base + "embeddings.patch_embedding.weight": (width, 3, PATCH, PATCH),
        base + "embeddings.position_embedding.weight": ((IMAGE // PATCH) ** 2 + 1, width),
        **layer_norm(base + "pre_layrnorm", width),
        **layer_norm(base + "post_layernorm", width),
        **linear("multi_modal_projector.linear_1", hidden, width),
        **linear("multi_modal_projector.linear_2", hidden, hidden),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"{base}encoder.layers.{layer}."
        shapes |= layer_norm(prefix + "layer_norm1", width)
        shapes |= layer_norm(prefix + "layer_norm2", width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{prefix}self_attn.{name}", width, width)
        shapes |= linear(prefix + "mlp.fc1", inner, width)
        shapes |= linear(prefix + "mlp.fc2", width, inner)
    return shapes


def weight(name, shape, generator):
    """A tensor of a size that keeps activations in the range of a trained model."""
    if name.endswith("bias"):
        return torch.zeros(shape, dtype=torch.bfloat16)
    if "norm" in name:
        return torch.ones(shape, dtype=torch.bfloat16)
    return (torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--inner", type=int, default=5632)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--vision-layers", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    def read(name):
        return json.loads((GOLDEN / name).read_text(encoding="utf-8"))

    def write(name, value):
        (options.out / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

    config = read("config.json")
    text, vision = config["text_config"], config["vision_config"]
    text |= {
        "hidden_size": options.hidden,
        "intermediate_size": options.inner,
        "num_attention_heads": options.heads,
        "num_hidden_layers": options.layers,
        "num_key_value_heads": options.kv_heads,
        "vocab_size": VOCABULARY,
    }
    vision |= VISION | {"image_size": IMAGE, "num_hidden_layers": options.vision_layers}
    write("config.json", config)
    processor = read("preprocessor_config.json")
    processor["size"] = {"shortest_edge": IMAGE}
    processor["crop_size"] = {"height": IMAGE, "width": IMAGE}
    write("preprocessor_config.json", processor)
    write("processor_config.json", read("processor_config.json"))
    for name in COPIED:
        shutil.copy(GOLDEN / name, options.out)

    generator = torch.Generator().manual_seed(options.seed)
    shapes = language_shapes(text) | vision_shapes(vision, options.hidden)
    tensors = {name: weight(name, shape, generator) for name, shape in shapes.items()}
    save_file(tensors, options.out / "model.safetensors", metadata={"format": "pt"})
    total = sum(tensor.nbytes for tensor in tensors.values())
    print(f"{options.out}: {len(shapes)} tensors, {total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
