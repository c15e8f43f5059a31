"""A PNG encoder for what Pillow does not write: odd bit depths, interlacing, raw chunks."""

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6

# Adam7: first column, first row, column step, row step
PASSES = [
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
]


def chunk(kind, data=b""):
    """One chunk with its length and checksum."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def header(width, height, depth, colour, interlaced=False):
    """The IHDR chunk."""
    fields = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    return chunk(b"IHDR", fields)


def scanlines(samples, depth):
    """Filter byte 0 and packed samples for every row of [height, width, channels]."""
    height = samples.shape[0]
    rows = samples.reshape(height, -1)
    if depth == 16:
        packed = rows.astype(">u2").view(np.uint8)
    elif depth == 8:
        packed = rows.astype(np.uint8)
    else:
        bits = (rows[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        packed = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    filters = np.zeros((height, 1), np.uint8)
    return np.concatenate([filters, packed], axis=1).tobytes()


def encode(samples, depth, colour, *, interlaced=False, before=b"", after=b""):
    """A PNG of integer `samples`, [height, width, channels] or [height, width].

    `before` and `after` are finished chunks around the pixel data.
    """
    samples = samples[..., None] if samples.ndim == 2 else samples
    height, width, _ = samples.shape
    if interlaced:
        reduced = [samples[y::dy, x::dx] for x, y, dx, dy in PASSES]
        raw = b"".join(scanlines(part, depth) for part in reduced if part.size)
    else:
        raw = scanlines(samples, depth)
    pixels = chunk(b"IDAT", zlib.compress(raw, 9))
    parts = [SIGNATURE, header(width, height, depth, colour, interlaced), before, pixels, after]
    return b"".join(parts) + chunk(b"IEND")
