"""Picture files of every kind a server must decode, with their pixels as Pillow gives them.

`expected/<name>.png` holds RGB bytes: upright by EXIF, alpha composited on white as
`(value * alpha + 255 * (255 - alpha)) / 255`, rounded; colour profiles and gamma ignored; of an
animation the first frame; of sixteen-bit samples the high byte. `manifest.json` lists

    {"file", "expected", "tolerance", "mean_tolerance", "about"}

where `tolerance` bounds the difference of every value and `mean_tolerance` the mean difference.
"""

import io
import json
import shutil
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

import pictures
import png

EXACT = (0, 0.0)
# Sixteen bits go to eight by dropping the low byte here, by rounding elsewhere.
SIXTEEN = (1, 1.0)
# With alpha in sixteen bits the composite may round once more.
SIXTEEN_ALPHA = (2, 1.0)
# Inverse cosine transforms and colour conversions differ by a level or two among decoders.
LOSSY = (3, 0.3)
# Chroma at half resolution is interpolated as well, which rounds once more.
SUBSAMPLED = (4, 0.6)


def saved(image, kind, **options):
    """The bytes of `image` in a format of Pillow's."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def samples(image, depth):
    """The bytes of an image as integers of `depth` bits; wide ones get distinct low bytes."""
    values = np.asarray(image).astype(np.int64)
    if depth == 16:
        return values * 256 + (values * 37 + 11) % 256
    return values >> (8 - depth)


def exif(orientation, big_endian=False):
    """An Exif block whose only entry is the orientation."""
    order = ">" if big_endian else "<"
    mark = b"MM" if big_endian else b"II"
    entry = struct.pack(order + "HHIHH", pictures.EXIF_ORIENTATION, 3, 1, orientation, 0)
    directory = struct.pack(order + "H", 1) + entry + struct.pack(order + "I", 0)
    return b"Exif\0\0" + mark + struct.pack(order + "HI", 42, 8) + directory


def profile():
    """An sRGB profile, without the date of its making."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data[:24] + bytes(12) + data[36:]


def png_files():
    """PNG in all depths, colour types and transparencies."""
    rgb = pictures.draw(23, 17, 21)
    rgba = pictures.draw(23, 17, 22, "RGBA")
    grey = pictures.draw(23, 17, 23, "L")
    grey_alpha = pictures.draw(23, 17, 24, "LA")
    indexed = pictures.draw(23, 17, 25).quantize(200)

    yield "rgb.png", saved(rgb, "PNG"), EXACT, "8-bit RGB"
    yield "rgba.png", saved(rgba, "PNG"), EXACT, "8-bit RGBA"
    yield "grey.png", saved(grey, "PNG"), EXACT, "8-bit grey"
    yield "grey_alpha.png", saved(grey_alpha, "PNG"), EXACT, "8-bit grey with alpha"
    yield "one_pixel.png", saved(rgb.crop((0, 0, 1, 1)), "PNG"), EXACT, "1x1"
    for depth in (1, 2, 4):
        data = png.encode(samples(grey, depth), depth, png.GREY)
        yield f"grey_{depth}_bit.png", data, EXACT, f"{depth}-bit grey"
        coarse = pictures.draw(23, 17, 26).quantize(2**depth)
        data = saved(coarse, "PNG", bits=depth)
        yield f"palette_{depth}_bit.png", data, EXACT, f"{depth}-bit palette"
    yield "palette_8_bit.png", saved(indexed, "PNG"), EXACT, "8-bit palette"

    ramp = bytes(min(255, 3 * index) for index in range(200))
    data = saved(indexed, "PNG", transparency=ramp)
    yield "palette_alpha.png", data, EXACT, "palette with an alpha for every entry (tRNS)"
    data = saved(indexed, "PNG", transparency=indexed.getpixel((3, 3)))
    yield "palette_colour_key.png", data, EXACT, "palette with one clear entry (tRNS)"
    data = saved(rgb, "PNG", transparency=rgb.getpixel((3, 3)))
    yield "rgb_colour_key.png", data, EXACT, "RGB with one clear colour (tRNS)"
    data = saved(grey, "PNG", transparency=grey.getpixel((3, 3)))
    yield "grey_colour_key.png", data, EXACT, "grey with one clear level (tRNS)"

    for name, image, colour, tolerance in [
        ("grey", grey, png.GREY, SIXTEEN),
        ("grey_alpha", grey_alpha, png.GREY_ALPHA, SIXTEEN_ALPHA),
        ("rgb", rgb, png.RGB, SIXTEEN),
        ("rgba", rgba, png.RGBA, SIXTEEN_ALPHA),
    ]:
        data = png.encode(samples(image, 16), 16, colour)
        yield f"{name}_16_bit.png", data, tolerance, f"16-bit {name.replace('_', ' ')}"

    data = png.encode(samples(rgb, 8), 8, png.RGB, interlaced=True)
    yield "rgb_interlaced.png", data, EXACT, "Adam7"
    data = png.encode(samples(grey, 4), 4, png.GREY, interlaced=True)
    yield "grey_4_bit_interlaced.png", data, EXACT, "Adam7 with packed samples"
    data = png.encode(samples(grey.crop((0, 0, 3, 2)), 8), 8, png.GREY, interlaced=True)
    yield "small_interlaced.png", data, EXACT, "Adam7 with empty passes"

    yield "icc_profile.png", saved(rgb, "PNG", icc_profile=profile()), EXACT, "profile, ignored"
    gamma = png.chunk(b"gAMA", struct.pack(">I", 100000))
    data = png.encode(samples(rgb, 8), 8, png.RGB, before=gamma)
    yield "gamma.png", data, EXACT, "gamma 1.0, ignored"
    data = saved(rgb, "PNG") + b"trailing bytes"
    yield "trailing_bytes.png", data, EXACT, "bytes behind the end"
    frames = [pictures.draw(23, 17, seed) for seed in (27, 28)]
    data = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    yield "animated.png", data, EXACT, "APNG: the first frame"
    for orientation in (3, 6):
        data = saved(rgb, "PNG", exif=exif(orientation))
        yield f"orientation_{orientation}.png", data, EXACT, "EXIF in an eXIf chunk"


def ycck(image):
    """A YCCK JPEG, which Pillow reads but does not write.

    The first three channels are converted to YCbCr here, stored as if they were CMY (Pillow
    inverts all four on the way out), and the Adobe marker is told of the conversion.
    """
    cyan, magenta, yellow, black = image.split()
    converted = Image.merge("RGB", (cyan, magenta, yellow)).convert("YCbCr").split()
    inverted = [channel.point(lambda value: 255 - value) for channel in converted]
    data = saved(Image.merge("CMYK", (*inverted, black)), "JPEG", quality=95, subsampling=0)
    marker = data.index(b"Adobe")
    return data[: marker + 11] + b"\x02" + data[marker + 12 :]


def jpeg_files():
    """JPEG: processes, colour spaces, orientations."""
    rgb = pictures.draw(37, 29, 31)
    grey = pictures.draw(37, 29, 32, "L")
    cmyk = pictures.draw(37, 29, 33, "CMYK")
    plain = {"quality": 92, "subsampling": 0}

    yield "baseline.jpg", saved(rgb, "JPEG", **plain), LOSSY, "baseline 4:4:4"
    data = saved(rgb, "JPEG", quality=92, subsampling=1)
    yield "baseline_422.jpg", data, SUBSAMPLED, "baseline 4:2:2"
    data = saved(rgb, "JPEG", quality=92, subsampling=2)
    yield "baseline_420.jpg", data, SUBSAMPLED, "baseline 4:2:0"
    data = saved(rgb, "JPEG", progressive=True, **plain)
    yield "progressive.jpg", data, LOSSY, "progressive 4:4:4"
    data = saved(rgb, "JPEG", quality=92, subsampling=2, progressive=True)
    yield "progressive_420.jpg", data, SUBSAMPLED, "progressive 4:2:0"
    data = saved(rgb, "JPEG", restart_marker_blocks=2, **plain)
    yield "restart_markers.jpg", data, LOSSY, "restart markers"
    data = saved(rgb, "JPEG", keep_rgb=True, **plain)
    yield "stored_rgb.jpg", data, LOSSY, "channels stored as RGB (Adobe marker)"
    yield "grey.jpg", saved(grey, "JPEG", quality=92), LOSSY, "grey"
    data = saved(grey, "JPEG", quality=92, progressive=True)
    yield "grey_progressive.jpg", data, LOSSY, "progressive grey"
    yield "cmyk.jpg", saved(cmyk, "JPEG", **plain), LOSSY, "CMYK, inverted by Adobe"
    yield "ycck.jpg", ycck(cmyk), LOSSY, "YCCK, inverted by Adobe"
    data = saved(rgb, "JPEG", icc_profile=profile(), **plain)
    yield "icc_profile.jpg", data, LOSSY, "profile, ignored"
    data = saved(rgb, "JPEG", **plain) + b"trailing bytes"
    yield "trailing_bytes.jpg", data, LOSSY, "bytes behind the end"

    upright = pictures.draw(24, 16, 34)
    for orientation in range(1, 9):
        data = saved(upright, "JPEG", exif=exif(orientation), **plain)
        yield f"orientation_{orientation}.jpg", data, LOSSY, f"EXIF orientation {orientation}"
    data = saved(upright, "JPEG", exif=exif(6, big_endian=True), **plain)
    yield "orientation_6_big_endian.jpg", data, LOSSY, "EXIF orientation 6, big endian"
    data = saved(upright, "JPEG", exif=exif(9), **plain)
    yield "orientation_9.jpg", data, LOSSY, "an orientation that does not exist: as it is"
    data = saved(upright, "JPEG", exif=exif(6)[:-9], **plain)
    yield "orientation_cut_short.jpg", data, LOSSY, "EXIF that ends too soon: as it is"


def webp_files():
    """WebP: both codecs, alpha, animation, metadata."""
    rgb = pictures.draw(37, 29, 41)
    rgba = pictures.draw(37, 29, 42, "RGBA")
    lossless = {"lossless": True, "exact": True}

    yield "lossy.webp", saved(rgb, "WEBP", quality=90), SUBSAMPLED, "VP8"
    yield "lossy_alpha.webp", saved(rgba, "WEBP", quality=90), SUBSAMPLED, "VP8 with alpha"
    yield "lossless.webp", saved(rgb, "WEBP", **lossless), EXACT, "VP8L"
    yield "lossless_alpha.webp", saved(rgba, "WEBP", **lossless), EXACT, "VP8L with alpha"
    data = saved(rgb.quantize(16), "WEBP", **lossless)
    yield "lossless_palette.webp", data, EXACT, "VP8L with a colour table"
    frames = [pictures.draw(37, 29, seed) for seed in (43, 44)]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], **lossless)
    yield "animated.webp", data, EXACT, "animation: the first frame"
    data = saved(rgb, "WEBP", icc_profile=profile(), **lossless)
    yield "icc_profile.webp", data, EXACT, "profile, ignored"
    for orientation in (5, 8):
        data = saved(rgb, "WEBP", exif=exif(orientation), **lossless)
        yield f"orientation_{orientation}.webp", data, EXACT, "EXIF in an EXIF chunk"


def gif_files():
    """GIF: static, clear colours, animation."""
    indexed = pictures.draw(31, 19, 51).quantize(64)
    clear = indexed.getpixel((4, 4))

    yield "static.gif", saved(indexed, "GIF", interlace=0), EXACT, "one frame"
    yield "interlaced.gif", saved(indexed, "GIF", interlace=1), EXACT, "interlaced"
    data = saved(indexed, "GIF", transparency=clear)
    yield "colour_key.gif", data, EXACT, "one clear colour"
    data = offset_frame(saved(indexed, "GIF", transparency=clear))
    yield "offset_frame.gif", data, EXACT, "a frame smaller than its canvas"
    frames = [pictures.draw(31, 19, seed).quantize(64) for seed in (52, 53, 54)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
    yield "animated.gif", data, EXACT, "animation: the first frame"


def offset_frame(data):
    """The only frame of a GIF moved right and down on a larger canvas, which is clear there."""
    data = bytearray(data)
    width, height = struct.unpack_from("<HH", data, 6)
    struct.pack_into("<HH", data, 6, width + 9, height + 7)
    position = 13 + 3 * (2 << (data[10] & 7))
    while data[position] == 0x21:  # extensions before the image: label, blocks, terminator
        position += 2
        while data[position]:
            position += data[position] + 1
        position += 1
    struct.pack_into("<HH", data, position + 1, 5, 3)
    return bytes(data)


def bmp_files():
    """BMP: the depths in use."""
    rgb = pictures.draw(23, 17, 61)

    yield "24_bit.bmp", saved(rgb, "BMP"), EXACT, "24 bits"
    padded = rgb.copy()
    padded.putalpha(0)
    yield "32_bit.bmp", saved(padded, "BMP"), EXACT, "32 bits, the fourth byte 0 and no alpha"
    rgba = pictures.draw(23, 17, 62, "RGBA")
    yield "32_bit_alpha.bmp", masked_bmp(rgba), EXACT, "32 bits with alpha (a version 4 header)"
    yield "8_bit.bmp", saved(rgb.quantize(64), "BMP"), EXACT, "8-bit palette"
    yield "grey.bmp", saved(rgb.convert("L"), "BMP"), EXACT, "8-bit grey"
    yield "1_bit.bmp", saved(rgb.convert("1"), "BMP"), EXACT, "1 bit"
    yield "top_down.bmp", top_down(rgb), EXACT, "24 bits, rows from the top (negative height)"


def masked_bmp(image):
    """A BMP with a version 4 header, whose masks name the alpha bits."""
    rows = np.asarray(image)[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    size = struct.pack("<IiiHHII", 108, *image.size, 1, 32, 3, len(rows))
    info = size + struct.pack("<iiII", 2835, 2835, 0, 0) + masks + b"BGRs" + bytes(48)
    offset = 14 + len(info)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + info + rows


def top_down(image):
    """A 24-bit BMP with its rows from the top."""
    flipped = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    data = bytearray(saved(flipped, "BMP"))
    data[22:26] = struct.pack("<i", -image.height)
    return bytes(data)


def make(out):
    """Writes files, expected pixels and `manifest.json` into the new folder `out`."""
    out = Path(out)
    shutil.rmtree(out, ignore_errors=True)
    (out / "expected").mkdir(parents=True)
    manifest = []
    for files in (png_files, jpeg_files, webp_files, gif_files, bmp_files):
        for name, data, (tolerance, mean_tolerance), about in files():
            expected = f"expected/{name}.png"
            (out / name).write_bytes(data)
            pictures.load(out / name).save(out / expected, optimize=True)
            manifest.append(
                {
                    "file": name,
                    "expected": expected,
                    "tolerance": tolerance,
                    "mean_tolerance": mean_tolerance,
                    "about": about,
                }
            )
    text = json.dumps(manifest, indent=1)
    (out / "manifest.json").write_text(text + "\n", encoding="utf-8")
    print(f"{out}: {len(manifest)} files")
