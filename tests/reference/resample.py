"""Goldens of the resamplers: Pillow's on bytes and torch's bicubic on floats.

Tensor names are `<kind>/<width>x<height>-><width>x<height>/in` and `…/out`:

* `pil_bilinear`, `pil_bicubic`: uint8 [height, width, 3]; to be met exactly. Pillow filters
  horizontally first, rounds to bytes between the passes, and widens the filter when it shrinks.
* `torch_bicubic`: float32 [3, height, width], a = -0.75, no widening, `align_corners=False`;
  to be met within 1e-5.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

FILTERS = {
    "pil_bilinear": Image.Resampling.BILINEAR,
    "pil_bicubic": Image.Resampling.BICUBIC,
}

# (width, height) before and after
PIL_SIZES = [
    ((97, 41), (56, 56)),
    ((97, 41), (194, 82)),
    ((41, 97), (82, 30)),
    ((7, 5), (40, 31)),
    ((5, 7), (31, 40)),
    ((1, 1), (1, 1)),
    ((1, 1), (9, 4)),
    ((9, 4), (1, 1)),
    ((1, 50), (1, 17)),
    ((1, 50), (3, 150)),
    ((50, 1), (150, 3)),
    ((200, 1), (67, 1)),
    ((200, 1), (336, 1)),
    ((1, 200), (1, 336)),
    ((2, 3), (33, 2)),
    ((3, 2), (2, 33)),
    ((33, 50), (11, 47)),
    ((64, 100), (56, 87)),
    ((64, 100), (56, 56)),
    ((56, 41), (56, 20)),
    ((56, 20), (56, 41)),
    ((41, 56), (20, 56)),
    ((56, 56), (56, 56)),
    ((61, 43), (60, 42)),
    ((61, 43), (62, 44)),
    ((60, 40), (30, 20)),
    ((30, 20), (60, 40)),
    ((90, 30), (13, 29)),
    ((13, 29), (90, 30)),
    ((301, 7), (5, 7)),
    ((301, 7), (5, 3)),
    ((4, 400), (24, 2)),
    ((400, 4), (2, 24)),
    ((1000, 2), (336, 1)),
]
TORCH_SIZES = [
    ((90, 45), (35, 33)),
    ((45, 90), (33, 35)),
    ((36, 36), (12, 12)),
    ((48, 24), (24, 24)),
    ((24, 24), (24, 24)),
    ((12, 20), (31, 27)),
    ((1, 1), (5, 3)),
    ((1, 40), (7, 13)),
    ((40, 1), (13, 7)),
    ((3, 2), (16, 16)),
    ((84, 21), (21, 21)),
]


def noise(rng, shape, hard):
    """Random bytes; `hard` ones are only 0 or 255, so that bicubic overshoots and is clamped."""
    values = rng.randint(0, 256, shape, dtype=np.uint8)
    return np.where(values < 128, 0, 255).astype(np.uint8) if hard else values


def label(kind, source, target):
    """The name of a pair of tensors."""
    return f"{kind}/{source[0]}x{source[1]}->{target[0]}x{target[1]}"


def pil_tensors(rng):
    """Every size with both filters."""
    for index, (source, target) in enumerate(PIL_SIZES):
        pixels = noise(rng, (source[1], source[0], 3), hard=index % 3 == 2)
        for kind, resample in FILTERS.items():
            resized = Image.fromarray(pixels, "RGB").resize(target, resample)
            yield f"{label(kind, source, target)}/in", pixels
            yield f"{label(kind, source, target)}/out", np.asarray(resized)


def torch_tensors(rng):
    """Every size with torch's bicubic."""
    for source, target in TORCH_SIZES:
        values = rng.randn(3, source[1], source[0]).astype(np.float32)
        resized = torch.nn.functional.interpolate(
            torch.from_numpy(values)[None], size=(target[1], target[0]), mode="bicubic"
        )
        yield f"{label('torch_bicubic', source, target)}/in", values
        yield f"{label('torch_bicubic', source, target)}/out", resized[0].numpy()


def make(out):
    """Writes `resample.safetensors` into `out`."""
    rng = np.random.RandomState(7)
    tensors = dict(pil_tensors(rng))
    tensors.update(torch_tensors(rng))
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "resample.safetensors"
    save_file({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}, path)
    path.chmod(0o644)
    print(f"{path}: {len(tensors)} tensors, {path.stat().st_size} bytes")
