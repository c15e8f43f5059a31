"""The Phi-3-vision architecture in plain PyTorch, at a small scale, and what it does to pictures and prompts.

Module names equal the tensor names of the Hugging Face checkpoint, so `state_dict()` is what goes into
`model.safetensors`. Letters in shapes: N crops, P patches per crop, C width of the tower, T positions,
H width of the decoder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
IMAGE = -1
"""Stands for one image token in a list of token ids, as in the reference."""


@dataclass(frozen=True)
class Config:
    """Sizes of the model; everything else follows from the architecture."""

    vocab_size: int = 928
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 5
    num_attention_heads: int = 6
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    tower_width: int = 192
    tower_intermediate: int = 576
    tower_layers: int = 5
    patch: int = 14
    grid: int = 8
    num_crops: int = 4

    @property
    def crop(self) -> int:
        return self.patch * self.grid

    @property
    def cells(self) -> int:
        """Tokens per side of a crop after the 2x2 merge."""
        return self.grid // 2


# ------------------------------------------------------------------------------------------- pictures


@dataclass
class Padded:
    """A picture scaled and padded to whole crops: `pixels` is [h, w, 3] u8; x_model = x * scale + offset."""

    pixels: np.ndarray
    scale: tuple[float, float]
    offset: tuple[int, int]


def hd_transform(image: Image.Image, cfg: Config) -> Padded:
    """Scales to a multiple of the crop size along the long side and pads the other side with white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    image = image.convert("RGB")
    turned = image.width < image.height
    if turned:
        image = image.transpose(Image.TRANSPOSE)
    w, h = image.size
    ratio = w / h
    steps = max(s for s in range(1, cfg.num_crops + 1) if s == 1 or s * math.ceil(s / ratio) <= cfg.num_crops)
    new_w = cfg.crop * steps
    new_h = max(1, int(new_w / ratio))
    small = np.asarray(image.resize((new_w, new_h), Image.BILINEAR))
    full_h = math.ceil(new_h / cfg.crop) * cfg.crop
    top = (full_h - new_h) // 2
    pixels = np.full((full_h, new_w, 3), 255, np.uint8)
    pixels[top : top + new_h] = small
    scale, offset = (new_w / w, new_h / h), (0, top)
    if turned:
        pixels, scale, offset = pixels.transpose(1, 0, 2), scale[::-1], offset[::-1]
    return Padded(np.ascontiguousarray(pixels), scale, offset)


def crops(pixels: np.ndarray, cfg: Config) -> tuple[torch.Tensor, tuple[int, int]]:
    """[1 + h*w, 3, S, S] normalised crops, the global view first, and the grid (h, w)."""
    x = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    s = cfg.crop
    h, w = x.shape[1] // s, x.shape[2] // s
    view = F.interpolate(x[None], (s, s), mode="bicubic", align_corners=False)
    sub = x.reshape(3, h, s, w, s).permute(1, 3, 0, 2, 4).reshape(h * w, 3, s, s)
    return torch.cat([view, sub]), (h, w)


def image_tokens(grid: tuple[int, int], cfg: Config) -> int:
    """How many tokens a picture of this crop grid takes."""
    h, w = grid
    return (h * w + 1) * cfg.cells**2 + 1 + (h + 1) * cfg.cells


def image_layout(grid: tuple[int, int], cfg: Config) -> np.ndarray:
    """Order of a picture's tokens ("sub_glb"), as indices into its cells: [crop * cells^2 + row * cells + col].

    Crop 0 is the global view. -1 stands for the row separator `sub_GN`, -2 for `glb_GN`.
    """
    h, w = grid
    k = cfg.cells
    order = []
    for row in range(h * k):
        for col in range(w * k):
            crop = 1 + (row // k) * w + col // k
            order.append(crop * k * k + (row % k) * k + col % k)
        order.append(-1)
    order.append(-2)
    for row in range(k):
        order += [row * k + col for col in range(k)] + [-1]
    return np.array(order)


# -------------------------------------------------------------------------------------------- prompts


def encode_prompt(tokenizer, prompt: str, images: list[int]) -> list[int]:
    """Token ids of a prompt; image i takes `images[i-1]` places filled with IMAGE.

    As in the reference, every piece of text between image tags is encoded on its own, with its own `<s>`.
    """
    ids: list[int] = []
    for piece in re.split(r"(<\|image_\d+\|>)", prompt):
        tag = re.fullmatch(r"<\|image_(\d+)\|>", piece)
        ids += [IMAGE] * images[int(tag[1]) - 1] if tag else tokenizer.encode(piece).ids
    return ids


# ------------------------------------------------------------------------------------------ attention


def attention(q, k, v, bias=None):
    """softmax(q k^T / sqrt(d) + bias) v over [..., length, d].

    Written out, since the backward pass of `scaled_dot_product_attention` is several times slower on a CPU.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return (scores if bias is None else scores + bias).softmax(-1) @ v


def causal(length: int) -> torch.Tensor:
    """The bias [length, length] that hides what comes later."""
    return torch.full((length, length), -torch.inf).triu(1)


# ---------------------------------------------------------------------------------------------- tower


class TowerAttention(nn.Module):
    """Bidirectional attention with heads of 64."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = width // 64
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        n, p, c = x.shape
        q, k, v = (f(x).view(n, p, self.heads, 64).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(attention(q, k, v).transpose(1, 2).reshape(n, p, c))


class TowerMLP(nn.Module):
    """fc1, quick-GELU, fc2."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class TowerLayer(nn.Module):
    """Pre-norm transformer layer of CLIP."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn, self.mlp = TowerAttention(width), TowerMLP(width, inner)

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class TowerEmbeddings(nn.Module):
    """Patches, class token and learnt positions."""

    def __init__(self, cfg: Config):
        super().__init__()
        c, self.patch, self.grid = cfg.tower_width, cfg.patch, cfg.grid
        self.class_embedding = nn.Parameter(torch.randn(c) * 0.02)
        self.patch_embedding = nn.Conv2d(3, c, cfg.patch, cfg.patch, bias=False)
        self.position_embedding = nn.Embedding(1 + cfg.grid**2, c)
        nn.init.normal_(self.position_embedding.weight, std=0.02)

    def forward(self, pixels):
        n, g, s = pixels.shape[0], self.grid, self.patch
        # The convolution as a matrix product, which is the faster form on a CPU.
        x = pixels.reshape(n, 3, g, s, g, s).permute(0, 2, 4, 1, 3, 5).reshape(n, g * g, 3 * s * s)
        x = F.linear(x, self.patch_embedding.weight.flatten(1))
        x = torch.cat([self.class_embedding.expand(n, 1, -1), x], 1)
        return x + self.position_embedding.weight


class VisionModel(nn.Module):
    """CLIP's vision transformer. The last layer and `post_layernorm` exist only for the file layout."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.embeddings = TowerEmbeddings(cfg)
        self.pre_layrnorm = nn.LayerNorm(cfg.tower_width)
        self.encoder = nn.Module()
        layers = [TowerLayer(cfg.tower_width, cfg.tower_intermediate) for _ in range(cfg.tower_layers)]
        self.encoder.layers = nn.ModuleList(layers)
        self.post_layernorm = nn.LayerNorm(cfg.tower_width)

    def forward(self, pixels):
        """[N, 3, S, S] -> [N, P, C]: hidden_states[-2] without the class token."""
        x = self.pre_layrnorm(self.embeddings(pixels))
        for layer in self.encoder.layers[:-1]:
            x = layer(x)
        return x[:, 1:]


class ImageEmbedding(nn.Module):
    """Tower, 2x2 merge, separators and the projection into the decoder."""

    def __init__(self, cfg: Config):
        super().__init__()
        merged = 4 * cfg.tower_width
        self.cfg = cfg
        self.img_processor = nn.Module()
        self.img_processor.vision_model = VisionModel(cfg)
        self.glb_GN = nn.Parameter(torch.randn(1, 1, merged) * 0.5)
        self.sub_GN = nn.Parameter(torch.randn(1, 1, 1, merged) * 0.5)
        self.img_projection = nn.Sequential(
            nn.Linear(merged, cfg.hidden_size), nn.GELU(), nn.Linear(cfg.hidden_size, cfg.hidden_size)
        )

    def forward(self, pixels):
        """[N, 3, S, S] -> (features [N, P, C], tokens [N*cells^2 + 2, H]); the last two are glb_GN and sub_GN."""
        features = self.img_processor.vision_model(pixels)
        n, k, c = features.shape[0], self.cfg.cells, self.cfg.tower_width
        merged = features.view(n, k, 2, k, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n * k * k, 4 * c)
        table = torch.cat([merged, self.glb_GN.view(1, -1), self.sub_GN.view(1, -1)])
        return features, self.img_projection(table)


# -------------------------------------------------------------------------------------------- decoder


class RMSNorm(nn.Module):
    """x / rms(x) * weight."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Rotate(torch.autograd.Function):
    """Rotary embedding over the whole head, halves rotated against each other: x [..., d], cos, sin [..., d / 2].

    A function of its own, because what autograd makes of the formula takes five times as long.
    """

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return turned(x, cos, sin)

    @staticmethod
    def backward(ctx, grad):
        cos, sin = ctx.saved_tensors
        return turned(grad, cos, -sin), None, None


def turned(x, cos, sin):
    """[a cos - b sin, b cos + a sin] of x = [a, b]."""
    out = torch.empty_like(x)
    (a, b), (first, second) = x.chunk(2, -1), out.chunk(2, -1)
    torch.mul(a, cos, out=first).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=second).addcmul_(a, sin)
    return out


class Attend(Protocol):
    """How the positions of a call see each other: q, k, v [T, heads, d] -> [T, heads, d]."""

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor: ...


class Cached:
    """Attention of one layer in generation: a whole prompt first, then one token at a time."""

    def __init__(self):
        self.k = self.v = None

    def __call__(self, q, k, v):
        first = self.k is None
        self.k, self.v = (k, v) if first else (torch.cat([self.k, k]), torch.cat([self.v, v]))
        heads_first = (x.transpose(0, 1) for x in (q, self.k, self.v))
        return attention(*heads_first, causal(len(q)) if first else None).transpose(0, 1)


class DecoderAttention(nn.Module):
    """Causal attention with the fused projection [q | k | v]."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.heads, self.dim = cfg.num_attention_heads, cfg.hidden_size // cfg.num_attention_heads
        self.qkv_proj = nn.Linear(cfg.hidden_size, 3 * cfg.hidden_size, bias=False)
        self.o_proj = nn.Linear(cfg.hidden_size, cfg.hidden_size, bias=False)

    def forward(self, x, cos, sin, attend: Attend):
        qkv = self.qkv_proj(x).view(len(x), 3, self.heads, self.dim)
        q, k = Rotate.apply(qkv[:, :2], cos.to(qkv.dtype), sin.to(qkv.dtype)).unbind(1)
        return self.o_proj(attend(q, k, qkv[:, 2]).flatten(1))


class DecoderMLP(nn.Module):
    """SwiGLU with the fused projection [gate | up]."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.gate_up_proj = nn.Linear(cfg.hidden_size, 2 * cfg.intermediate_size, bias=False)
        self.down_proj = nn.Linear(cfg.intermediate_size, cfg.hidden_size, bias=False)

    def forward(self, x):
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        return self.down_proj(up * F.silu(gate))


class DecoderLayer(nn.Module):
    """Pre-norm transformer layer of Phi-3."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.self_attn, self.mlp = DecoderAttention(cfg), DecoderMLP(cfg)
        self.input_layernorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)

    def forward(self, x, cos, sin, attend: Attend):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Phi3V(nn.Module):
    """The whole model; `model.*` and `lm_head.weight` are the names in the checkpoint."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(cfg.vocab_size, cfg.hidden_size)
        self.model.vision_embed_tokens = ImageEmbedding(cfg)
        self.model.layers = nn.ModuleList(DecoderLayer(cfg) for _ in range(cfg.num_hidden_layers))
        self.model.norm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.lm_head = nn.Linear(cfg.hidden_size, cfg.vocab_size, bias=False)
        nn.init.normal_(self.model.embed_tokens.weight, std=0.5)

    def decode(self, x, positions, attends: Sequence[Attend]):
        """Embeddings [T, H], positions [T], one `Attend` per layer -> normed hidden states [T, H] for `lm_head`."""
        d = self.cfg.hidden_size // self.cfg.num_attention_heads
        inv = self.cfg.rope_theta ** (-torch.arange(0, d, 2, dtype=torch.float32) / d)
        angle = positions[:, None, None, None].float() * inv
        cos, sin = angle.cos(), angle.sin()
        for layer, attend in zip(self.model.layers, attends, strict=True):
            x = layer(x, cos, sin, attend)
        return self.model.norm(x)

    def embed(self, ids: torch.Tensor, image_rows: torch.Tensor, tokens: torch.Tensor):
        """Looks up ids [T] (IMAGE counts as 0) and puts rows of `tokens` [n, H] where image_rows [T] >= 0."""
        x = self.model.embed_tokens(ids.clamp(min=0))
        at = image_rows >= 0
        return torch.where(at[:, None], tokens.index_select(0, image_rows.clamp(min=0)), x)

    @torch.no_grad()
    def generate(self, ids: list[int], images: list[Image.Image], stop: set[int], limit: int = 64) -> list[int]:
        """Greedy continuation of one prompt (see `encode_prompt`), without the stop token."""
        rows, tokens, n = [], torch.zeros(1, self.cfg.hidden_size), 0
        if images:
            parts, k2 = [], self.cfg.cells**2
            for image in images:
                pixels, grid = crops(hd_transform(image, self.cfg).pixels, self.cfg)
                part = self.model.vision_embed_tokens(pixels)[1]
                order = image_layout(grid, self.cfg)
                rows += [n + (i if i >= 0 else len(pixels) * k2 + (1 if i == -1 else 0)) for i in order]
                parts.append(part)
                n += len(part)
            tokens = torch.cat(parts)
        places = iter(rows)
        x = self.embed(torch.tensor(ids), torch.tensor([next(places) if i == IMAGE else -1 for i in ids]), tokens)
        caches = [Cached() for _ in self.model.layers]
        at, out = len(ids), []
        hidden = self.decode(x, torch.arange(at), caches)
        while len(out) < limit:
            token = int(self.lm_head(hidden[-1]).argmax())
            if token in stop:
                break
            out.append(token)
            hidden = self.decode(self.model.embed_tokens(torch.tensor([token])), torch.tensor([at]), caches)
            at += 1
        return out


def hub_config(cfg: Config, pad: int) -> dict:
    """`config.json` with the keys of the published Phi-3-vision configuration."""
    sizes = asdict(cfg)
    keep = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "max_position_embeddings", "rope_theta", "rms_norm_eps")  # fmt: skip
    return {
        "architectures": ["Phi3VForCausalLM"],
        "model_type": "phi3_v",
        **{k: sizes[k] for k in keep},
        "num_key_value_heads": cfg.num_attention_heads,
        "original_max_position_embeddings": cfg.max_position_embeddings,
        "rope_scaling": None,
        "sliding_window": cfg.max_position_embeddings,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": pad,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "img_processor": {
            "name": "clip_vision_model",
            "image_dim_out": cfg.tower_width,
            "model_name": "vlmd-tiny-tower",
            "num_img_tokens": cfg.cells**2,
        },
        "embd_layer": {
            "embedding_cls": "image",
            "hd_transform_order": "sub_glb",
            "projection_cls": "mlp",
            "use_hd_transform": True,
            "with_learnable_separator": True,
        },
    }
