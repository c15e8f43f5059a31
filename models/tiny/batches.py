"""What one training step sees: pictures cut into crops, and conversations packed into rows.

Conversations about one picture share it: their common beginning is a *root*, and each conversation is a *branch* that
sees its root and itself. `Packed` is the attention that keeps them apart.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import IterableDataset

import dialogues
from labels import IGNORE, cell_labels, patch_labels
from model import IMAGE, Config, Padded, attention, causal, crops, encode_prompt, hd_transform, image_layout
from questions import ask
from scenes import CLASSES, COLOUR_NAMES, COLOURS, NUMBERS, PLACES, PLURALS, SHAPES, Item, Scene, draw_page, draw_scene

SEED = 20
TOWER_SEEDS = 1_000_000_000
JOINT_SEEDS = 2_000_000_000
HELD_OUT_SEEDS = 3_000_000_000
"""Picture seeds of the two stages and of the checks during training; evaluate.py uses small ones."""
REUSE = 30
"""Steps between two uses of a picture in the tower stage."""
POOL = 3000
"""Crops of crowded pages that are kept to fill up the pictures of a step."""
SPARE_CROPS = 2
"""Page crops of a step for every picture, at least."""
CONTENT_WEIGHT = 3.0
NUMBER_WEIGHT = 8.0
FIRST_WEIGHT = 2.0
"""Weights in the loss of the tokens that carry the answer, of numbers among them, which are hardest to learn, and of
an answer's first token; the others weigh 1."""
SHORT = 40
"""Branches up to this many tokens are padded apart from the longer ones."""


class TowerData(IterableDataset):
    """Batches for the tower stage. Every picture is drawn once and used in three steps, `REUSE` steps apart.

    Step i is always the same pictures, except in the first steps after a start, which have fewer old ones.
    """

    def __init__(self, cfg: Config, start: int, size: int):
        self.cfg, self.start, self.size = cfg, start, size

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        torch.set_num_threads(1)
        step, drawn = self.start, {}
        while True:
            drawn[step] = [self.picture(step * self.size + i) for i in range(self.size)]
            used = [p for s in (step, step - REUSE, step - 2 * REUSE) for p in drawn.get(s, [])]
            drawn.pop(step - 2 * REUSE, None)
            yield step, torch.cat([p for p, _ in used]), torch.cat([p for _, p in used], 1)
            step += 1

    def picture(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops and labels of one picture; every fourth one is an ordinary scene."""
        look = look_at((draw_page if number % 4 else draw_scene)(TOWER_SEEDS + number), self.cfg)
        return look.views, look.labels


@dataclass
class Look:
    """One picture for the tower: crops [N, 3, S, S], labels [3, N, P], crop grid, and the padded picture."""

    views: torch.Tensor
    labels: torch.Tensor
    grid: tuple[int, int]
    padded: Padded


def look_at(scene: Scene, cfg: Config) -> Look:
    """The scene as the tower sees it."""
    padded = hd_transform(scene.image, cfg)
    views, grid = crops(padded.pixels, cfg)
    return Look(views.bfloat16(), torch.from_numpy(patch_labels(scene, padded, cfg)), grid, padded)


@dataclass
class Branches:
    """Branches of about one length: n rows of `length` positions; `owner` [n] is the root of each, `bias`
    [n, 1, length, longest root + length] hides the padding of the root and what comes later in the branch."""

    length: int
    owner: torch.Tensor
    bias: torch.Tensor


@dataclass
class Packed:
    """Attention over one step: T positions are `roots` rows of `root_length`, then the rows of every `Branches`."""

    roots: int
    root_length: int
    branches: list[Branches]

    def __call__(self, q, k, v):
        """q, k, v [T, heads, d] -> [T, heads, d]."""
        rows = [(self.roots, self.root_length)] + [(len(b.owner), b.length) for b in self.branches]
        sizes = [n * length for n, length in rows]
        cut = [[x.reshape(*row, *x.shape[1:]) for x, row in zip(t.split(sizes), rows)] for t in (q, k, v)]
        turn = lambda *tensors: (x.transpose(1, 2) for x in tensors)  # noqa: E731
        root_q, root_k, root_v = (parts[0] for parts in cut)
        # Padding comes last, so being causal is enough to keep it unseen.
        out = [attention(*turn(root_q, root_k, root_v), causal(self.root_length).to(v.dtype))]
        for branch, own_q, own_k, own_v in zip(self.branches, *(parts[1:] for parts in cut)):
            keys = torch.cat([root_k.index_select(0, branch.owner), own_k], 1)
            values = torch.cat([root_v.index_select(0, branch.owner), own_v], 1)
            out.append(attention(*turn(own_q, keys, values), branch.bias.to(v.dtype)))
        return torch.cat([x.transpose(1, 2).flatten(0, 1) for x in out])


@dataclass
class Batch:
    """Pictures and packed conversations of one step.

    pixels [N, 3, S, S]; labels [3, N, P]; cells [N*cells^2 + 2, 6] (see `cell_labels`);
    ids, image_rows, positions, targets, weights [T];
    subjects [T, 3] (class, colour and place of the item asked about, where an answer starts).
    A target belongs to the position that has to predict it. `kinds` lists (kind, first position, end) of every
    branch that a check marks.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    cells: torch.Tensor
    ids: torch.Tensor
    image_rows: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    subjects: torch.Tensor
    attend: Packed
    kinds: list[tuple[str, int, int]]


@dataclass
class Row:
    """One root or branch before packing; the lists have one entry per token."""

    ids: list[int]
    image_rows: list[int]
    first: int
    weights: list[float]
    subjects: list[tuple[int, int, int]]
    owner: int = -1
    kind: str = ""


class Packer:
    """Turns scenes and conversations into a Batch."""

    def __init__(self, cfg: Config, tokenizer: Tokenizer):
        self.cfg, self.tokenizer = cfg, tokenizer
        ids = {t: tokenizer.token_to_id(f"<|{t}|>") for t in ("assistant", "end")}
        self.assistant, self.end = ids["assistant"], ids["end"]
        weight = torch.ones(cfg.vocab_size)
        content = {*COLOURS, *SHAPES, *PLURALS.values(), *NUMBERS, "yes", "no"}
        content |= {w for row in PLACES for p in row for w in p.split()}
        for token, i in tokenizer.get_vocab().items():
            word = token.removeprefix("▁")
            if word in NUMBERS:
                weight[i] = NUMBER_WEIGHT
            elif word.lower() in content or (len(word) == 1 and (word.isupper() or word.isdigit())):
                weight[i] = CONTENT_WEIGHT
        self.weight = weight.tolist()

    def pack(self, scenes: list[Scene], samples: list[dialogues.Sample], spare, kinds=()) -> Batch:
        """The first `len(scenes)` samples are about the scenes, the others have no picture.

        `spare` gives that many more crops and labels, for the heads on the tower only. `kinds` names the kind of
        every conversation of every sample.
        """
        cfg, layouts, cells, looks, total = self.cfg, [], [], [look_at(scene, self.cfg) for scene in scenes], 0
        for scene, look in zip(scenes, looks):
            order = image_layout(look.grid, cfg)
            layouts.append(np.where(order >= 0, order + total * cfg.cells**2, order))
            cells.append(cell_labels(scene, look.padded, cfg).reshape(-1, 6))
            total += len(look.views)
        views, labels = [k.views for k in looks], [k.labels for k in looks]
        for crop, label in spare(total):
            views.append(crop[None])
            labels.append(label[:, None])
            total += 1
        blank = np.full((total * cfg.cells**2 + 2 - sum(map(len, cells)), 6), IGNORE)
        separators = {-1: total * cfg.cells**2 + 1, -2: total * cfg.cells**2}
        roots, branches = [], []
        for i, sample in enumerate(samples):
            layout = [separators.get(int(r), int(r)) for r in layouts[i]] if i < len(scenes) else []
            scene = scenes[i] if i < len(scenes) else None
            if sample.prefix:
                roots.append(self.root(sample.prefix, layout))
            for j, text in enumerate(sample.segments):
                about = [describe(scene, item) for item in sample.about[j]] if scene and sample.about else []
                kind = kinds[i][j] if kinds else ""
                if sample.prefix:
                    start = len(roots[-1].ids)
                    branches.append(self.answers(text, [], start, about, len(roots) - 1, kind))
                else:
                    roots.append(self.answers(text, layout, 0, about, -1, kind))
        return self.stack(torch.cat(views), torch.cat(labels, 1), np.concatenate([*cells, blank]), roots, branches)

    def stack(self, views, labels, cells, roots: list[Row], branches: list[Row]) -> Batch:
        """Pads rows of about one length to that length and lays them one after another."""
        groups = [roots] + [
            g for g in ([b for b in branches if (len(b.ids) <= SHORT) == short] for short in (True, False)) if g
        ]
        columns: list[list] = [[] for _ in range(6)]
        kinds, widths = [], []
        for group in groups:
            width = -(-max(len(r.ids) for r in group) // 8) * 8
            widths.append(width)
            for row in group:
                n, start = len(row.ids), len(columns[0])
                pad = width - n
                columns[0] += row.ids + [0] * pad
                columns[1] += row.image_rows + [-1] * pad
                columns[2] += range(row.first, row.first + width)
                columns[3] += row.ids[1:] + [0] * (pad + 1)
                columns[4] += row.weights + [0.0] * pad
                columns[5] += row.subjects + [(IGNORE,) * 3] * pad
                if row.kind:
                    kinds.append((row.kind, start, start + n))
        attend = Packed(len(roots), widths[0], [])
        root_sizes = torch.tensor([len(r.ids) for r in roots])
        for group, width in zip(groups[1:], widths[1:]):
            owner = torch.tensor([r.owner for r in group])
            seen = torch.arange(widths[0])[None, None, None] < root_sizes[owner][:, None, None, None]
            past = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf).expand(-1, 1, width, -1)
            bias = torch.cat([past, causal(width).expand(len(group), 1, -1, -1)], -1)
            attend.branches.append(Branches(width, owner, bias.bfloat16()))
        tensors = [torch.tensor(c, dtype=torch.float32 if k == 4 else torch.int64) for k, c in enumerate(columns)]
        tensors[3].clamp_(min=0)
        tensors[0].clamp_(min=0)
        return Batch(views, labels, torch.from_numpy(cells), *tensors, attend, kinds)

    def root(self, prefix: str, layout: list[int]) -> Row:
        """A beginning with a picture; the space before the branch is the branch's own."""
        ids = encode_prompt(self.tokenizer, prefix, [len(layout)])[:-1]
        return Row(ids, self.image_rows(ids, layout), 0, [0.0] * len(ids), [(IGNORE,) * 3] * len(ids))

    def answers(self, text: str, layout: list[int], first: int, about, owner: int, kind: str) -> Row:
        """A conversation whose answers are to be learnt, from position `first` on."""
        ids = encode_prompt(self.tokenizer, text, [len(layout)])
        weights, subjects, found = [0.0] * len(ids), [(IGNORE,) * 3] * len(ids), iter(about)
        answering = starting = False
        for at, token in enumerate(ids):
            if answering:
                weights[at - 1] = max(self.weight[token], FIRST_WEIGHT if starting else 0.0)
                starting = False
                answering = token != self.end
            elif token == self.assistant:
                answering = starting = True
                subjects[at] = next(found, subjects[at])
        return Row(ids, self.image_rows(ids, layout), first, weights, subjects, owner, kind)

    def image_rows(self, ids: list[int], layout: list[int]) -> list[int]:
        """For every token the row of the image tokens that it stands for, or -1."""
        places = iter(layout)
        return [next(places) if i == IMAGE else -1 for i in ids]


def describe(scene: Scene, item: Item | None) -> tuple[int, int, int]:
    """Class, colour and place of an item, as labels."""
    if item is None:
        return IGNORE, IGNORE, IGNORE
    places = [p for row in PLACES for p in row]
    return CLASSES.index(item.label), COLOUR_NAMES.index(item.colour), places.index(scene.place(item.centre))


class JointData(IterableDataset):
    """Batches for the second stage: step i is always the same pictures and questions.

    The number of crops is the same in every step: what the pictures leave over is filled with crops of crowded pages,
    which are used several times.
    """

    def __init__(self, packer: Packer, start: int, batch: int, questions: int, pages: int):
        self.packer, self.start = packer, start
        self.batch, self.questions, self.pages = batch, questions, pages

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        torch.set_num_threads(1)
        step, pool = self.start, collections.deque(maxlen=POOL)
        crops_wanted = self.batch * (4 + SPARE_CROPS)
        while True:
            rng = np.random.default_rng((SEED, step))
            scenes = [self.scene(rng, JOINT_SEEDS + 2 * (step * self.batch + i)) for i in range(self.batch)]
            samples = [dialogues.picture_sample(s, rng, self.questions) for s in scenes]
            if step % 3 == 0:
                samples.append(dialogues.blind_sample(rng, 7))
            for i in range(self.pages if len(pool) > POOL // 3 else 8 * self.pages):
                look = look_at(draw_page(TOWER_SEEDS + 500_000_000 + 8 * step * self.pages + i), self.packer.cfg)
                pool.extend(zip(look.views, look.labels.unbind(1)))

            def spare(used: int):
                return [pool[i] for i in rng.choice(len(pool), min(len(pool), crops_wanted - used), replace=False)]

            yield step, self.packer.pack(scenes, samples, spare)
            step += 1

    def scene(self, rng: np.random.Generator, seed: int) -> Scene:
        """A scene to learn from: few bar charts, which are easy, and often the one of two with more shapes."""
        kind = str(rng.choice(["shapes", "text", "bars"], p=[0.5, 0.45, 0.05]))
        scene = draw_scene(seed, kind)
        if kind == "shapes" and rng.random() < 0.5:
            other = draw_scene(seed + 1, kind)
            return max(scene, other, key=lambda s: len(s.shapes))
        return scene


def held_out(packer: Packer, count: int, size: int) -> list[Batch]:
    """Fixed batches of single-turn questions about pictures that are not trained on."""
    batches = []
    for first in range(0, count, size):
        rng = np.random.default_rng((SEED, first))
        scenes = [draw_scene(HELD_OUT_SEEDS + first + i) for i in range(size)]
        asked = [[ask(s, rng) for _ in range(8)] for s in scenes]
        samples = [
            dialogues.Sample("<|user|>\n<|image_1|>", ["\n" + dialogues.turn(q.text, q.answer) for q in qs])
            for qs in asked
        ]
        batches.append(packer.pack(scenes, samples, lambda _used: [], [[q.kind for q in qs] for qs in asked]))
    return batches
