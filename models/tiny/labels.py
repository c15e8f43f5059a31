"""Dense training labels: what every patch of the vision tower is looking at.

They feed auxiliary heads that exist during training only. Without them a model this small would have to
learn letters, places and counting from the words of the answers alone, which takes far more pictures.
"""

from __future__ import annotations

import numpy as np

from model import Config, Padded
from scenes import CLASSES, COLOUR_NAMES, Scene

IGNORE = -100
PLACE_BINS = 6
LEAST_SHARE = 0.15
"""A patch is labelled with an item if the item's box covers at least this share of it."""


def patch_labels(scene: Scene, padded: Padded, cfg: Config) -> np.ndarray:
    """Labels [3, 1 + h*w, grid^2]: class, colour, and class of the item whose centre lies in the patch.

    Crops are in the order of `model.crops` (global view first). A patch that holds several centres gets
    IGNORE as its centre label.
    """
    high, wide = padded.pixels.shape[:2]
    h, w, g = high // cfg.crop, wide // cfg.crop, cfg.grid
    scale, offset = np.tile(padded.scale, 2), np.tile(padded.offset, 2)
    boxes = np.array([i.box for i in scene.items]) * scale + offset
    centres = np.array([i.centre for i in scene.items]) * padded.scale + padded.offset
    kinds = np.array([CLASSES.index(i.label) for i in scene.items])
    colours = np.array([COLOUR_NAMES.index(i.colour) for i in scene.items])
    whole = raster(boxes, centres, kinds, colours, (wide / g, high / g), (g, g)).reshape(3, 1, g * g)
    fine = raster(boxes, centres, kinds, colours, (cfg.patch, cfg.patch), (w * g, h * g))
    fine = fine.reshape(3, h, g, w, g).transpose(0, 1, 3, 2, 4).reshape(3, h * w, g * g)
    return np.concatenate([whole, fine], 1)


def cell_labels(scene: Scene, padded: Padded, cfg: Config) -> np.ndarray:
    """What the decoder should know at each image token, [1 + h*w, cells^2, 2 + 4].

    The first two are the column and row of the token in a grid of `PLACE_BINS` over the picture (of the item
    centred there, if there is one). The others belong to the four patches merged into the token: where an item
    is centred, which one it is, counted from 0: of the characters of the text, of the shapes of its sort in
    reading order, or of the bars by height (in the global view only, since the bars to the right come later).
    """
    high, wide = padded.pixels.shape[:2]
    h, w, g, k = high // cfg.crop, wide // cfg.crop, cfg.grid, cfg.cells
    out = np.full((1 + h * w, k * k, 6), IGNORE, np.int64)
    size = np.array(scene.image.size) * padded.scale

    def bins(points):
        """Bins [n, 2] of points [n, 2] in model pixels; IGNORE in the padding."""
        shares = (points - padded.offset) / size
        inside = ((shares >= 0) & (shares < 1)).all(1, keepdims=True)
        return np.where(inside, (shares * PLACE_BINS).astype(int), IGNORE)

    y, x = np.mgrid[0 : h * k, 0 : w * k].reshape(2, -1)
    crop, cell = 1 + y // k * w + x // k, y % k * k + x % k
    out[crop, cell, :2] = bins((np.stack([x, y], 1) + 0.5) * 2 * cfg.patch)
    y, x = np.mgrid[0:k, 0:k].reshape(2, -1)
    out[0, :, :2] = bins((np.stack([x, y], 1) + 0.5) * (wide / k, high / k))

    centres = np.array([i.centre for i in scene.items]) * padded.scale + padded.offset
    limit = np.array([w * g, h * g]) - 1
    fine = np.clip((centres / cfg.patch).astype(int), 0, limit)
    coarse = np.clip((centres / (wide / g, high / g)).astype(int), 0, g - 1)
    numbers = ordinals(scene, fine)
    for item, place, (px, py), (gx, gy), number in zip(scene.items, bins(centres), fine, coarse, numbers):
        spots = [(0, gx, gy)]
        if item.label != "bar":
            spots.append((1 + py // g * w + px // g, px % g, py % g))
        for view, column, row in spots:
            at = out[view, row // 2 * k + column // 2]
            at[:2] = place
            at[2 + row % 2 * 2 + column % 2] = number
    return out


def ordinals(scene: Scene, patches: np.ndarray) -> list[int]:
    """Number of every item among its likes (see `cell_labels`); `patches` [n, 2] are the items' centre patches."""
    order = [(y // 2, x // 2, y, x) for x, y in patches]
    heights = sorted((b.box[3] - b.box[1] for b in scene.bars), reverse=True)
    out = []
    for i, item in enumerate(scene.items):
        if item.label == "bar":
            out.append(heights.index(item.box[3] - item.box[1]))
        elif i >= len(scene.shapes):
            out.append(i - len(scene.shapes))
        else:
            out.append(sum(o.label == item.label and order[j] < order[i] for j, o in enumerate(scene.shapes)))
    return out


def raster(boxes, centres, kinds, colours, patch: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """The three labels [3, rows, columns] of a grid of `size` (columns, rows) patches of `patch` (w, h) pixels."""
    out = np.zeros((3, size[1], size[0]), np.int64)
    x, y = np.arange(size[0]) * patch[0], np.arange(size[1]) * patch[1]
    across = np.minimum(boxes[:, 2:3], x + patch[0]) - np.maximum(boxes[:, 0:1], x)
    down = np.minimum(boxes[:, 3:4], y + patch[1]) - np.maximum(boxes[:, 1:2], y)
    area = np.clip(down, 0, None)[:, :, None] * np.clip(across, 0, None)[:, None, :] / (patch[0] * patch[1])
    owner, shown = area.argmax(0), area.max(0) >= LEAST_SHARE
    out[0], out[1] = np.where(shown, kinds[owner], 0), np.where(shown, colours[owner], 0)
    columns = np.clip((centres[:, 0] / patch[0]).astype(int), 0, size[0] - 1)
    rows = np.clip((centres[:, 1] / patch[1]).astype(int), 0, size[1] - 1)
    for row, column, kind in zip(rows, columns, kinds):
        out[2, row, column] = kind if out[2, row, column] == 0 else IGNORE
    return out
