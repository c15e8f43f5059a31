"""Test pictures, and the one rule by which a picture file becomes RGB pixels."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

EXIF_ORIENTATION = 0x0112
WHITE = (255, 255, 255)
# By which CLIP and its relatives normalise channels.
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


def draw(width, height, seed, mode="RGB"):
    """A seeded picture: a smooth colour field under six random boxes and ellipses."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    u, v = x / max(width, 1), y / max(height, 1)
    phase = rng.rand(3, 3) * 6
    field = np.stack(
        [127 + 120 * np.sin(a + u * (2 + b) + v * (2 + c)) for a, b, c in phase], axis=-1
    )
    image = Image.fromarray(np.clip(field, 0, 255).astype(np.uint8), "RGB")
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x0, x1 = sorted(rng.randint(0, width, 2).tolist())
        y0, y1 = sorted(rng.randint(0, height, 2).tolist())
        colour = tuple(rng.randint(0, 256, 3).tolist())
        shape = pen.rectangle if rng.rand() < 0.5 else pen.ellipse
        shape([x0, y0, x1, y1], fill=colour)
    return _convert(image, mode)


def _convert(image, mode):
    """Brings a drawn RGB picture into `mode`; alpha and black rise from left to right."""
    width, height = image.size
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    ramp = Image.fromarray(np.tile(ramp, (height, 1)), "L")
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(ramp)
        return image
    if mode == "CMYK":
        return Image.merge("CMYK", (*image.split(), ramp.point(lambda value: value // 2)))
    if mode == "P":
        return image.quantize(32)
    if mode == "I;16":
        # Multiples of 257, so that every sensible way down to eight bits gives the same level.
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        return Image.fromarray(grey, "I;16")
    return image.convert(mode)


def flatten(image):
    """RGB pixels of an opened picture, upright, alpha composited on white.

    Sixteen-bit grey keeps its high byte. Pillow's own `convert("RGB")` would clip it instead and
    turn nearly every pixel white.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        high = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(high, "L").convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, WHITE + (255,))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def load(path):
    """`flatten` for a file."""
    with Image.open(path) as image:
        return flatten(image)


def sizes():
    """Widths and heights for tables of what a processor does to pictures of any size."""
    sides = (1, 2, 3, 5, 13, 14, 15, 55, 56, 57, 111, 336, 337, 671, 672, 673, 1008, 1999, 2000)
    drawn = np.random.RandomState(5).randint(1, 2001, (240, 2)).tolist()
    return [(width, height) for width in sides for height in sides] + [tuple(s) for s in drawn]


# file name -> width, height, seed, mode
MODEL_PICTURES = {
    "a_97x41.png": (97, 41, 1, "RGB"),
    "b_333x500.png": (333, 500, 2, "RGB"),
    "c_1x1000.png": (1, 1000, 3, "RGB"),
    "d_1000x1.png": (1000, 1, 4, "RGB"),
    "e_gray_120x80.png": (120, 80, 5, "L"),
    "f_rgba_64x100.png": (64, 100, 6, "RGBA"),
    "g_square_56.png": (56, 56, 7, "RGB"),
    "h_palette_70x70.png": (70, 70, 8, "P"),
    "i_wide_640x100.png": (640, 100, 9, "RGB"),
    "k_2000x1.png": (2000, 1, 11, "RGB"),
    "l_1x1.png": (1, 1, 12, "RGB"),
    "m_gray16_80x50.png": (80, 50, 13, "I;16"),
    "n_la_50x60.png": (50, 60, 14, "LA"),
    "o_200x10.png": (200, 10, 16, "RGB"),
}
EXIF_JPEG = "j_exif6_90x60.jpg"
CMYK_JPEG = "p_cmyk_64x48.jpg"


def write_model_picture(folder, name):
    """Writes one picture of the model goldens; a JPEG gets its decoded pixels beside it as PNG.

    Returns the file whose pixels must be reproduced exactly: JPEG decoders differ by a level or
    two, so for a JPEG that is the decoded copy.
    """
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name in MODEL_PICTURES:
        draw(*MODEL_PICTURES[name]).save(path, optimize=True)
        return name
    if name == EXIF_JPEG:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = 6
        draw(90, 60, 10).save(path, quality=90, exif=exif, subsampling=0)
    elif name == CMYK_JPEG:
        draw(64, 48, 15, "CMYK").save(path, quality=90, subsampling=0)
    else:
        raise KeyError(name)
    decoded = path.stem + "_decoded.png"
    load(path).save(path.parent / decoded, optimize=True)
    return decoded
