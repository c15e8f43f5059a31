"""NeVA in plain PyTorch, on a state dict with the names of Megatron core.

NeMo itself needs a GPU. This is what its forward pass does, and `as_transformers` builds the same
language model from transformers' parts, so that each can vouch for the other.
"""

import math
from types import SimpleNamespace

import torch
import transformers
from torch.nn import functional

EMBEDDING = "model.embedding.word_embeddings.weight"
OUTPUT = "model.output_layer.weight"
FINAL_NORM = "model.decoder.final_layernorm"
PROJECTOR = "model.embedding.word_embeddings.adapter_layer.mm_projector_adapter.mm_projector"
TOWER = "model.embedding.word_embeddings.vision_encoder."


def layer(index):
    """Prefix of a layer's names."""
    return f"model.decoder.layers.{index}."


def head_size(config):
    """Width of one head."""
    return config["kv_channels"] or config["hidden_size"] // config["num_attention_heads"]


def groups(config):
    """Key heads."""
    return config["num_query_groups"] or config["num_attention_heads"]


def gated(config):
    """Whether the first half of fc1 gates the second."""
    return config["activation"].endswith("swiglu")


def shapes(config):
    """Names and shapes of all weights but the tower's."""
    hidden, inner = config["hidden_size"], config["ffn_hidden_size"]
    heads = config["num_attention_heads"] * head_size(config)
    keys = 2 * groups(config) * head_size(config)
    linear = {
        "self_attention.linear_qkv": (heads + keys, hidden),
        "self_attention.linear_proj": (hidden, heads),
        "mlp.linear_fc1": (inner * (2 if gated(config) else 1), hidden),
        "mlp.linear_fc2": (hidden, inner),
    }
    norms = ["self_attention.linear_qkv.layer_norm", "mlp.linear_fc1.layer_norm"]

    def norm(name, separator):
        yield f"{name}{separator}weight", (hidden,)
        if config["normalization"] != "rmsnorm":
            yield f"{name}{separator}bias", (hidden,)

    yield EMBEDDING, (config["padded_vocab_size"], hidden)
    for index in range(config["num_layers"]):
        for name, shape in linear.items():
            yield f"{layer(index)}{name}.weight", shape
            if config["bias"]:
                yield f"{layer(index)}{name}.bias", shape[:1]
        for name in norms:
            yield from norm(layer(index) + name, "_")
    yield from norm(FINAL_NORM, ".")
    if not config["share_embeddings_and_output_weights"]:
        yield OUTPUT, (config["padded_vocab_size"], hidden)
    yield from projector_shapes(config)


def projector_shapes(config):
    """Names and shapes of the projector's weights."""
    kind = config["mm_cfg"]["mm_mlp_adapter_type"]
    hidden, width = config["hidden_size"], config["mm_cfg"]["vision_encoder"]["hidden_size"]
    if kind == "linear":
        names = [PROJECTOR]
    else:
        names = [f"{PROJECTOR}.{2 * step}" for step in range(projector_depth(kind))]
    for step, name in enumerate(names):
        yield f"{name}.weight", (hidden, hidden if step else width)
        yield f"{name}.bias", (hidden,)


def projector_depth(kind):
    """The `N` of `mlpNx_gelu`."""
    return int(kind.removeprefix("mlp").removesuffix("x_gelu"))


class Reference(torch.nn.Module):
    """The whole model; it answers to the calls that `goldens` makes of transformers' models."""

    def __init__(self, config, state, tower, tokens):
        """`tokens` names the ids of image marks and of ends, and how many the tokenizer has."""
        super().__init__()
        self.config = config
        self.state = state
        self.tower = tower
        self.start, self.end, self.pieces = tokens["start"], tokens["end"], tokens["pieces"]
        self.generation_config = SimpleNamespace(eos_token_id=tokens["stops"], pad_token_id=0)

    def _linear(self, name, x):
        return functional.linear(x, self.state[name + ".weight"], self.state.get(name + ".bias"))

    def _norm(self, name, separator, x):
        weight = self.state[f"{name}{separator}weight"]
        epsilon = self.config["layernorm_epsilon"]
        if self.config["normalization"] == "rmsnorm":
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight
        if self.config["normalization"] == "layernorm1p":
            # Stored around zero.
            weight = weight + 1
        bias = self.state[f"{name}{separator}bias"]
        return functional.layer_norm(x, x.shape[-1:], weight, bias, epsilon)

    def vision(self, pixels):
        """Features of the pictures before projection."""
        settings = self.config["mm_cfg"]["vision_encoder"]
        states = self.tower(pixels, output_hidden_states=True).hidden_states
        return states[settings["vision_select_layer"]][:, settings["class_token_length"] :]

    def project(self, features):
        """Features of the pictures as the language model takes them."""
        kind = self.config["mm_cfg"]["mm_mlp_adapter_type"]
        if kind == "linear":
            return self._linear(PROJECTOR, features)
        for step in range(projector_depth(kind)):
            features = functional.gelu(features) if step else features
            features = self._linear(f"{PROJECTOR}.{2 * step}", features)
        return features

    def spans(self, ids, features):
        """Where the images' features go. Without `use_im_start_end` they replace the marks too."""
        outside = int(self.config["mm_cfg"]["use_im_start_end"])
        for index in (position for position, token in enumerate(ids) if token == self.end):
            begin = index + 1 - outside - features
            if ids[begin - outside] != self.start:
                raise ValueError(f"no image of {features} tokens ends at {index}")
            yield begin, features

    def embed(self, ids, pixels=None, prompt=None):
        """Embeddings of the tokens, images in place. What is generated behind `prompt` tokens is
        never an image, not even an end mark."""
        embedded = self.state[EMBEDDING][ids]
        if pixels is None:
            return embedded
        features = self.project(self.vision(pixels))
        spans = list(self.spans(ids[:prompt].tolist(), features.shape[1]))
        for (begin, length), image in zip(spans, features, strict=True):
            embedded[begin : begin + length] = image
        return embedded

    def _rotated(self, x):
        """Rotary positions for the first part of each head, halves and not pairs."""
        size = int(head_size(self.config) * self.config["rotary_percentage"])
        frequencies = self.config["rotary_base"] ** -(torch.arange(0, size, 2).float() / size)
        angles = torch.outer(torch.arange(x.shape[1]).float(), frequencies)
        angles = torch.cat([angles, angles], dim=-1)
        first, second = x[..., : size // 2], x[..., size // 2 : size]
        turned = torch.cat([-second, first], dim=-1)
        rotated = x[..., :size] * angles.cos() + turned * angles.sin()
        return torch.cat([rotated, x[..., size:]], dim=-1)

    def _attention(self, prefix, x):
        size, count = head_size(self.config), groups(self.config)
        queries = self.config["num_attention_heads"] // count
        # For each group of heads its queries, then its key, then its value.
        mixed = self._linear(prefix + "linear_qkv", x).view(len(x), count, queries + 2, size)
        q = self._rotated(mixed[:, :, :-2].flatten(1, 2).transpose(0, 1))
        k = self._rotated(mixed[:, :, -2].transpose(0, 1)).repeat_interleave(queries, 0)
        v = mixed[:, :, -1].transpose(0, 1).repeat_interleave(queries, 0)
        future = torch.full((len(x), len(x)), -torch.inf).triu(1)
        weights = (q @ k.transpose(1, 2) / math.sqrt(size) + future).softmax(-1)
        return self._linear(prefix + "linear_proj", (weights @ v).transpose(0, 1).flatten(1))

    def _mlp(self, prefix, x):
        inner = self._linear(prefix + "linear_fc1", x)
        if gated(self.config):
            gate, up = inner.chunk(2, dim=-1)
            inner = functional.silu(gate) * up
        else:
            inner = inner.relu().square()
        return self._linear(prefix + "linear_fc2", inner)

    def language(self, x):
        """Logits, and the hidden states around the layers; the last one is normed."""
        states = [x]
        for index in range(self.config["num_layers"]):
            attention, mlp = f"{layer(index)}self_attention.", f"{layer(index)}mlp."
            x = x + self._attention(
                attention, self._norm(attention + "linear_qkv.layer_norm", "_", x)
            )
            x = x + self._mlp(mlp, self._norm(mlp + "linear_fc1.layer_norm", "_", x))
            states.append(x)
        states[-1] = self._norm(FINAL_NORM, ".", x)
        output = self.state.get(OUTPUT, self.state[EMBEDDING])
        return functional.linear(states[-1], output), states

    def forward(self, input_ids, pixel_values=None, prompt=None, **_options):
        logits, states = self.language(self.embed(input_ids[0], pixel_values, prompt))
        return SimpleNamespace(logits=logits[None], hidden_states=[state[None] for state in states])

    def generate(self, input_ids, max_new_tokens, pixel_values=None, **_options):
        """Greedy, without a cache. As in NeMo no id is chosen that the tokenizer lacks."""
        steps, scores = [], []
        prompt = input_ids.shape[1]
        for _ in range(max_new_tokens):
            steps.append(self(input_ids, pixel_values, prompt).logits[:, -1])
            scores.append(steps[-1][:, : self.pieces])
            input_ids = torch.cat([input_ids, scores[-1].argmax(-1, keepdim=True)], dim=1)
        return SimpleNamespace(sequences=input_ids, logits=steps, scores=scores)


def as_transformers(config, state):
    """The language model as transformers' Nemotron or Llama."""
    llama = config["normalization"] == "rmsnorm"
    common = {
        "vocab_size": config["padded_vocab_size"],
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["ffn_hidden_size"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_attention_heads"],
        "num_key_value_heads": groups(config),
        "head_dim": head_size(config),
        "rope_theta": float(config["rotary_base"]),
        "max_position_embeddings": config["max_position_embeddings"],
        "attention_bias": config["bias"],
        "mlp_bias": config["bias"],
        "tie_word_embeddings": False,
        "attn_implementation": "eager",
    }
    if llama:
        settings = transformers.LlamaConfig(rms_norm_eps=config["layernorm_epsilon"], **common)
        model = transformers.LlamaForCausalLM(settings)
    else:
        settings = transformers.NemotronConfig(
            norm_eps=config["layernorm_epsilon"],
            partial_rotary_factor=config["rotary_percentage"],
            **common,
        )
        model = transformers.NemotronForCausalLM(settings)
    missing, unexpected = model.load_state_dict(dict(_renamed(config, state)), strict=False)
    if missing or unexpected:
        raise AssertionError(f"missing {missing}, unexpected {unexpected}")
    return model.eval()


def _renamed(config, state):
    """The language model's weights under transformers' names, projections taken apart."""
    count, size = groups(config), head_size(config)
    queries = config["num_attention_heads"] // count
    yield "model.embed_tokens.weight", state[EMBEDDING]
    yield "lm_head.weight", state.get(OUTPUT, state[EMBEDDING])
    for name, tensor in state.items():
        kind = name.rpartition(".")[2].rpartition("_")[2]
        if config["normalization"] == "layernorm" and "norm" in name and kind == "weight":
            # Nemotron's norm adds 1.
            tensor = tensor - 1
        if name.startswith(FINAL_NORM):
            yield f"model.norm.{kind}", tensor
        if not name.startswith("model.decoder.layers."):
            continue
        index, part = name.removeprefix("model.decoder.layers.").split(".", 1)
        target = f"model.layers.{index}."
        if "layer_norm" in part:
            norm = "input" if "qkv" in part else "post_attention"
            yield f"{target}{norm}_layernorm.{kind}", tensor
        elif "linear_qkv" in part:
            mixed = tensor.view(count, queries + 2, size, *tensor.shape[1:])
            pieces = {"q": mixed[:, :-2], "k": mixed[:, -2:-1], "v": mixed[:, -1:]}
            for letter, piece in pieces.items():
                yield f"{target}self_attn.{letter}_proj.{kind}", piece.flatten(0, 2)
        elif "linear_proj" in part:
            yield f"{target}self_attn.o_proj.{kind}", tensor
        elif "linear_fc2" in part:
            yield f"{target}mlp.down_proj.{kind}", tensor
        elif gated(config):
            gate, up = tensor.chunk(2)
            yield f"{target}mlp.gate_proj.{kind}", gate
            yield f"{target}mlp.up_proj.{kind}", up
        else:
            yield f"{target}mlp.up_proj.{kind}", tensor
