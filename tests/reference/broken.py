"""Damaged, hostile and foreign files, with the outcomes a server may answer.

`manifest.json` lists `{"file", "outcomes", "about"}`; an outcome is one of

* `ok`: it may be decoded,
* `bad_image`: a known format, but damaged,
* `too_large`: beyond the limit on pixels, to be refused from the header alone,
* `unsupported`: no format that the server decodes.

Whatever the answer, memory and time stay bounded: several of these unfold to gigabytes.
"""

import io
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np

import pictures
import png

OK, BAD, LARGE, FOREIGN = "ok", "bad_image", "too_large", "unsupported"


def saved(image, kind, **options):
    """The bytes of `image` in a format of Pillow's."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def cut(data, share):
    """The first part of a file."""
    return data[: int(len(data) * share)]


def hollow_png(width, height, depth=8, colour=png.RGB, rows=0):
    """A PNG whose header promises more than its few bytes hold."""
    pixels = png.chunk(b"IDAT", zlib.compress(bytes(rows), 9))
    return png.SIGNATURE + png.header(width, height, depth, colour) + pixels + png.chunk(b"IEND")


def png_files():
    """Damaged and oversized PNG."""
    picture = pictures.draw(40, 30, 71)
    good = saved(picture, "PNG")

    yield "truncated.png", cut(good, 0.6), [BAD], "cut in the pixel data"
    yield "truncated_header.png", good[:20], [BAD], "cut in the header"
    yield "signature_only.png", png.SIGNATURE, [BAD], "the signature alone"
    wrong = bytearray(good)
    wrong[29] ^= 0xFF
    yield "wrong_checksum.png", bytes(wrong), [BAD], "wrong checksum of the header"
    start = good.index(b"IDAT") + 4
    wrong = bytearray(good)
    wrong[start + 20 : start + 40] = bytes(20)
    yield "damaged_stream.png", bytes(wrong), [BAD], "damaged pixel data"
    yield "no_pixels.png", hollow_png(40, 30), [BAD], "no rows"
    yield "zero_width.png", hollow_png(0, 30), [BAD], "width 0"
    yield "depth_3.png", hollow_png(40, 30, depth=3), [BAD], "a bit depth that does not exist"
    data = png.SIGNATURE + png.header(4, 4, 8, png.PALETTE)
    data += png.chunk(b"IDAT", zlib.compress(bytes(20))) + png.chunk(b"IEND")
    yield "no_palette.png", data, [BAD], "a palette picture without a palette"

    yield "65535x65535.png", hollow_png(65535, 65535), [LARGE], "4.3 gigapixels by its header"
    side = 2**31 - 1
    yield "2147483647_square.png", hollow_png(side, side), [LARGE, BAD], "the greatest header"
    data = hollow_png(2**31, 1)
    yield "2147483648x1.png", data, [LARGE, BAD], "wider than the format allows"
    data = hollow_png(2**31 - 1, 1)
    yield "2147483647x1.png", data, [LARGE, BAD], "two gigapixels in one row"
    data = hollow_png(20000, 20000, depth=1, colour=png.GREY, rows=20000 * 2501)
    yield "20000x20000_1_bit.png", data, [LARGE], "complete: 49 kB for 400 megapixels"

    bomb = zlib.compress(bytes(20_000_000), 9)
    before = png.chunk(b"zTXt", b"Comment\0\0" + bomb)
    data = png.encode(np.asarray(picture), 8, png.RGB, before=before)
    yield "text_bomb.png", data, [OK, BAD, LARGE], "a comment that unfolds to 20 MB"
    before = png.chunk(b"iCCP", b"profile\0\0" + bomb)
    data = png.encode(np.asarray(picture), 8, png.RGB, before=before)
    yield "profile_bomb.png", data, [OK, BAD, LARGE], "a profile that unfolds to 20 MB"


def segment(marker, data):
    """A JPEG segment with its length."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def bits(codes):
    """Packs `(value, length)` pairs, pads with ones and stuffs a zero behind every 0xFF."""
    text = "".join(f"{value:0{length}b}" for value, length in codes)
    text += "1" * (-len(text) % 8)
    data = int(text, 2).to_bytes(len(text) // 8, "big")
    return data.replace(b"\xff", b"\xff\x00")


def scan_bomb(side, scans):
    """A progressive grey JPEG that walks over all of its blocks once for every scan.

    Each scan says in a few bytes that thousands of blocks have no coefficients.
    """
    blocks = (side // 8) ** 2
    longest = 2**15 - 1
    runs = [longest] * (blocks // longest)
    rest = blocks % longest
    # The codes of the only two symbols: `0` is a run of 2^14 and more blocks, `10` of one.
    codes = [code for run in runs for code in [(0, 1), (run - 2**14, 14)]]
    if rest >= 2**14:
        codes += [(0, 1), (rest - 2**14, 14)]
    else:
        codes += [(0b10, 2)] * rest
    empty_scan = segment(0xDA, bytes([1, 1, 0x00, 1, 63, 0x00])) + bits(codes)
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, bytes([0]) + bytes([1] * 64)),
            segment(0xC2, struct.pack(">BHHBBBB", 8, side, side, 1, 1, 0x11, 0)),
            segment(0xC4, bytes([0x00, 1] + [0] * 15 + [0])),
            segment(0xC4, bytes([0x10, 1, 1] + [0] * 14 + [0xE0, 0x00])),
            segment(0xDA, bytes([1, 1, 0x00, 0, 0, 0x00])) + bits([(0, 1)] * blocks),
            empty_scan * scans,
            b"\xff\xd9",
        ]
    )


def jpeg_files():
    """Damaged and oversized JPEG."""
    good = saved(pictures.draw(64, 48, 72), "JPEG", quality=90)
    yield "truncated.jpg", cut(good, 0.6), [BAD], "cut in the scan"
    yield "no_end_marker.jpg", good[:-2], [OK, BAD], "whole, but for the last marker"
    yield "truncated_header.jpg", good[:100], [BAD], "cut in the tables"
    yield "marker_only.jpg", b"\xff\xd8\xff", [BAD], "the first marker alone"
    frame = good.index(b"\xff\xc0")
    large = bytearray(good)
    struct.pack_into(">HH", large, frame + 5, 65500, 65500)
    yield "65500x65500.jpg", bytes(large), [LARGE], "4.3 gigapixels by its header"
    data = scan_bomb(2048, 2000)
    yield "scan_bomb.jpg", data, [OK, BAD, LARGE], "2000 scans over 4 megapixels"
    empty = bytearray(good)
    struct.pack_into(">HH", empty, frame + 5, 48, 0)
    yield "zero_width.jpg", bytes(empty), [BAD], "width 0"


def riff(*chunks):
    """A WebP container."""
    body = b"WEBP"
    for kind, data in chunks:
        body += kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_files():
    """Damaged and oversized WebP."""
    picture = pictures.draw(64, 48, 73)
    good = saved(picture, "WEBP", lossless=True)
    yield "truncated.webp", cut(good, 0.6), [BAD], "cut in the pixel data"
    yield "truncated_lossy.webp", cut(saved(picture, "WEBP"), 0.6), [BAD], "cut in a partition"
    data = riff((b"VP8L", b"\x2f" + struct.pack("<I", 16382 | 16382 << 14) + bytes(16)))
    yield "16383x16383_lossless.webp", data, [LARGE], "a lossless header alone"
    data = riff((b"VP8L", b"\x2f" + struct.pack("<I", 16383 | 16383 << 14) + bytes(16)))
    yield "16384x16384_lossless.webp", data, [LARGE, BAD], "the greatest lossless header"
    frame = bytes([0x10, 2, 0]) + b"\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383) + bytes(32)
    yield "16383x16383_lossy.webp", riff((b"VP8 ", frame)), [LARGE, BAD], "a lossy header alone"
    canvas = bytes([0x02, 0, 0, 0]) + b"\xff\xff\xff" + b"\xff\xff\xff"
    data = riff((b"VP8X", canvas), (b"ANIM", bytes(6)))
    yield "16777216_square_canvas.webp", data, [LARGE, BAD], "a canvas of 281 terapixels"


def gif(width, height, frames):
    """A GIF of two colours with `frames` clear one-pixel frames."""
    data = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes([0] * 3 + [255] * 3)
    for _ in range(frames):
        data += b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return data + b"\x3b"


def gif_files():
    """Damaged and oversized GIF."""
    good = saved(pictures.draw(64, 48, 74).quantize(64), "GIF")
    yield "truncated.gif", cut(good, 0.6), [BAD], "cut in the pixel data"
    yield "no_frame.gif", gif(10, 10, 0), [BAD], "no frame"
    yield "65535x65535.gif", gif(65535, 65535, 3), [LARGE], "a canvas of 4.3 gigapixels"
    yield "many_frames.gif", gif(200, 200, 2000), [OK], "2000 frames, of which one is wanted"


def bmp_header(width, height, bits=24):
    """A BMP without pixels."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def bmp_files():
    """Damaged and oversized BMP."""
    good = saved(pictures.draw(40, 30, 75), "BMP")
    yield "truncated.bmp", cut(good, 0.6), [BAD], "cut in the pixel data"
    yield "60000x60000.bmp", bmp_header(60000, 60000), [LARGE], "3.6 gigapixels by its header"
    side = 2**31 - 1
    yield "2147483647_square.bmp", bmp_header(side, side), [LARGE, BAD], "the greatest header"
    yield "lowest_height.bmp", bmp_header(10, -(2**31)), [LARGE, BAD], "a height without opposite"
    yield "negative_width.bmp", bmp_header(-10, 10), [BAD, LARGE], "negative width"


def foreign_files():
    """What is no picture, or none that a server should open."""
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9"/></svg>\n'
    heic = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic"
    tiff = saved(pictures.draw(8, 8, 76), "TIFF")
    noise = np.random.RandomState(77).randint(0, 256, 512, dtype=np.uint8)
    noise[0] = 0  # no signature begins like this
    yield "empty", b"", [BAD], "no bytes"
    yield "random", noise.tobytes(), [FOREIGN], "random bytes"
    yield "one_byte", b"\x89", [FOREIGN, BAD], "a single byte"
    yield "text.txt", b"This is not a picture.\n", [FOREIGN], "text"
    yield "page.html", b"<!DOCTYPE html><title>404</title>\n", [FOREIGN], "an error page"
    yield "drawing.svg", svg, [FOREIGN], "a vector drawing"
    yield "document.pdf", b"%PDF-1.4\n%%EOF\n", [FOREIGN], "a document"
    yield "picture.heic", heic, [FOREIGN], "a header of a HEIC file"
    yield "picture.tiff", tiff, [FOREIGN], "a whole TIFF file"
    yield "archive.zip", b"PK\x05\x06" + bytes(18), [FOREIGN], "an empty archive"


def make(out):
    """Writes the files and `manifest.json` into the new folder `out`."""
    out = Path(out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    manifest = []
    for files in (png_files, jpeg_files, webp_files, gif_files, bmp_files, foreign_files):
        for name, data, outcomes, about in files():
            (out / name).write_bytes(data)
            manifest.append({"file": name, "outcomes": outcomes, "about": about})
    text = json.dumps(manifest, indent=1)
    (out / "manifest.json").write_text(text + "\n", encoding="utf-8")
    print(f"{out}: {len(manifest)} files")
