"""Trains the tiny model on a CPU: first the vision tower on labelled patches, then everything together.

    python train.py --run RUN --tower-steps 1200 --steps 6000

A run is resumed from its last checkpoint if there is one; `--export-only` writes the model files from it.
Pictures are drawn while training runs, each one from its own seed, and none is used twice.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import dialogues
import vocabulary
from labels import IGNORE, PLACE_BINS, cell_labels, patch_labels
from model import IMAGE, MEAN, STD, Config, Padded, Phi3V, crops, encode_prompt, hd_transform, hub_config, image_layout
from questions import KINDS, ask
from scenes import CLASSES, COLOUR_NAMES, COLOURS, NUMBERS, PLACES, PLURALS, SHAPES, Item, Scene, draw_page, draw_scene

SEED = 20
TOWER_SEEDS = 1_000_000_000
JOINT_SEEDS = 2_000_000_000
HELD_OUT_SEEDS = 3_000_000_000
CORPUS_SEEDS = 4_000_000_000
"""Picture seeds of the two stages, of the checks during training, and of the tokenizer; evaluate.py uses small ones."""
K, C = len(CLASSES), len(COLOUR_NAMES)
SHIFTS = (((0, 1), (1, 0)), ((0, -1), (-1, 0)), ((0, 1), (1, 0)), ((0, -1), (-1, 0)))
"""Which neighbour (down, right) each head of each used tower layer attends to at the start."""
REUSE = 30
RANK, RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
"""This process and the number of processes that share the work (set by `torchrun`)."""
MOST = 5
"""Most items of one sort in a picture, and characters in a text."""
CONTENT_WEIGHT = 3.0
FIRST_WEIGHT = 2.0
"""Weights in the loss of the tokens that carry the answer, and of an answer's first token; the others weigh 1."""


class Heads(nn.Module):
    """Linear read-outs that exist during training only.

    `patch` reads class, colour and centre class from a tower feature; `cell` reads, from a projected token,
    centre class and colour for each of the four patches that were merged into it, in order. `relation` reads, from
    an image token half-way up the decoder, where it is in the picture and the numbers of the items centred there.
    `subject` reads class, colour and place of the item that a question is about, at the start of the answer and
    below the decoder's last layer.
    """

    def __init__(self, cfg: Config):
        super().__init__()
        self.patch = nn.Linear(cfg.tower_width, 2 * K + C)
        self.cell = nn.Linear(cfg.hidden_size, 4 * (K + C))
        self.relation = nn.Linear(cfg.hidden_size, 2 * PLACE_BINS + 4 * MOST)
        self.subject = nn.Linear(cfg.hidden_size, K + C + 9)
        rare = torch.ones(K)
        rare[0] = 0.25
        self.register_buffer("rare", rare)
        self.register_buffer("rare_colour", torch.cat([torch.tensor([0.25]), torch.ones(C - 1)]))

    def forward(self, features, tokens, labels, cfg: Config):
        """features [N, P, C], tokens [N*cells^2 + 2, H], labels [3, N, P] -> (loss, dict of accuracies)."""
        kind, colour, centre = labels
        a, b, c = self.patch(features).flatten(0, 1).split([K, C, K], -1)
        loss = F.cross_entropy(a, kind.flatten(), self.rare) + F.cross_entropy(b, colour.flatten(), self.rare_colour)
        loss = loss + F.cross_entropy(c, centre.flatten(), self.rare, ignore_index=IGNORE)
        n, k = features.shape[0], cfg.cells
        slots = lambda x: x.view(n, k, 2, k, 2).permute(0, 1, 3, 2, 4).reshape(-1)  # noqa: E731
        d, e = self.cell(tokens[:-2]).view(-1, K + C).split([K, C], -1)
        centre_slots = slots(centre)
        there = centre_slots > 0
        loss = loss + F.cross_entropy(d, centre_slots, self.rare, ignore_index=IGNORE)
        loss = loss + 0.5 * F.cross_entropy(e[there], slots(colour)[there])
        with torch.no_grad():
            drawn = (a.argmax(-1) == kind.flatten())[kind.flatten() > 0].float().mean()
            hit = (c.argmax(-1) == centre.flatten())[centre.flatten() > 0].float().mean()
            cell = (d.argmax(-1) == centre_slots)[there].float().mean()
            tint = (e.argmax(-1) == slots(colour))[there].float().mean()
        return loss, {"kind": drawn.item(), "centre": hit.item(), "cell": cell.item(), "colour": tint.item()}

    def relation_loss(self, hidden, image_rows, labels):
        """hidden [B, L, H] from the middle of the decoder, image_rows [B, L], labels [rows, 6] of `cell_labels`."""
        at = image_rows >= 0
        out = self.relation(F.rms_norm(hidden[at], hidden.shape[-1:]))
        column, row, numbers = out.split([PLACE_BINS, PLACE_BINS, 4 * MOST], -1)
        target = labels[image_rows[at]]
        there = target[:, 2:] >= 0
        numbers, wanted = numbers.view(-1, 4, MOST)[there], target[:, 2:][there]
        loss = F.cross_entropy(column, target[:, 0], ignore_index=IGNORE)
        loss = loss + F.cross_entropy(row, target[:, 1], ignore_index=IGNORE) + F.cross_entropy(numbers, wanted)
        with torch.no_grad():
            known = target[:, 0] >= 0
            place = ((column.argmax(-1) == target[:, 0]) & (row.argmax(-1) == target[:, 1]))[known].float().mean()
            number = (numbers.argmax(-1) == wanted).float().mean()
        return loss, {"place": place.item(), "number": number.item()}

    def subject_loss(self, hidden, subjects):
        """hidden [B, L, H] below the last decoder layer; subjects [B, L, 3], IGNORE where no answer starts."""
        at = subjects[..., 0] != IGNORE
        parts = self.subject(F.rms_norm(hidden[at], hidden.shape[-1:])).split([K, C, 9], -1)
        wanted = subjects[at].unbind(-1)
        loss = sum(F.cross_entropy(p, w) for p, w in zip(parts, wanted))
        with torch.no_grad():
            right = [(p.argmax(-1) == w).float().mean().item() for p, w in zip(parts, wanted)]
        return loss, dict(zip(("s_kind", "s_colour", "s_place"), right))


@torch.no_grad()
def initialise(model: Phi3V):
    """Gives the tower a start that saves it thousands of steps: it begins as a small convolutional network.

    The patch filters become the whitened principal components of real patches, so that strokes weigh as much as
    flat colour. The positions become sines and cosines of row and column in 16 directions of their own, and the
    queries and keys read those directions so that every head attends to one neighbour (`SHIFTS`).
    """
    cfg = model.cfg
    vision = model.model.vision_embed_tokens.img_processor.vision_model
    g, p, c = cfg.grid, cfg.patch, cfg.tower_width
    basis = torch.linalg.qr(torch.randn(c, c))[0]
    place, content = basis[:, :16], basis[:, 16:]

    x = torch.cat([crops(hd_transform(draw_page(CORPUS_SEEDS + i).image, cfg).pixels, cfg)[0] for i in range(300)])
    x = x.reshape(-1, 3, g, p, g, p).permute(0, 2, 4, 1, 3, 5).reshape(-1, 3 * p * p)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    values, vectors = values[16 - c :], vectors[:, 16 - c :]
    filters = (vectors * (values + 0.02 * values.mean()).rsqrt()).T
    vision.embeddings.patch_embedding.weight.copy_((content @ filters).view(c, 3, p, p))

    omega = 2 * torch.pi / torch.tensor([16.0, 8.0, 5.0, 3.5])
    row, column = torch.meshgrid(torch.arange(g), torch.arange(g), indexing="ij")
    angles = torch.cat([row.reshape(-1, 1) * omega, column.reshape(-1, 1) * omega], 1)
    waves = torch.cat([angles.cos(), angles.sin()], 1)
    vision.embeddings.position_embedding.weight[1:] = 3.0 * waves @ place.T

    for layer, shifts in zip(vision.encoder.layers, SHIFTS):
        attention = layer.self_attn
        for proj in (attention.q_proj, attention.k_proj):
            nn.init.normal_(proj.weight, std=0.02)
        for head, (down, right) in enumerate(shifts):
            turn = torch.cat([down * omega, right * omega])
            cos, sin = torch.diag(turn.cos()), torch.diag(turn.sin())
            rotation = torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])
            rows = slice(head * 64, head * 64 + 16)
            attention.q_proj.weight[rows] = 1.6 * rotation @ place.T
            attention.k_proj.weight[rows] = 1.6 * place.T
        nn.init.orthogonal_(attention.v_proj.weight)
        nn.init.orthogonal_(attention.out_proj.weight, 0.7)


class TowerData(IterableDataset):
    """Batches for the tower stage. Every picture is drawn once and used in three steps, `REUSE` steps apart.

    Step i is always the same pictures, except in the first steps after a start, which have fewer old ones.
    """

    def __init__(self, cfg: Config, start: int, size: int):
        self.cfg, self.start, self.size = cfg, start, size

    def __iter__(self):
        torch.set_num_threads(1)
        step, drawn = self.start, {}
        while True:
            drawn[step] = [self.picture((step * RANKS + RANK) * self.size + i) for i in range(self.size)]
            used = [p for s in (step, step - REUSE, step - 2 * REUSE) for p in drawn.get(s, [])]
            drawn.pop(step - 2 * REUSE, None)
            yield step, torch.cat([p for p, _ in used]), torch.cat([p for _, p in used], 1)
            step += 1

    def picture(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops and labels of one picture; every fourth one is an ordinary scene."""
        scene = (draw_page if number % 4 else draw_scene)(TOWER_SEEDS + number)
        padded = hd_transform(scene.image, self.cfg)
        labels = torch.from_numpy(patch_labels(scene, padded, self.cfg))
        return crops(padded.pixels, self.cfg)[0].half(), labels


@dataclass
class Batch:
    """Pictures and packed conversations of one step.

    pixels [N, 3, S, S]; labels [3, N, P]; cells [N*cells^2 + 2, 6] (see `cell_labels`);
    ids, image_rows, positions, segments, targets, weights [B, L];
    subjects [B, L, 3] (class, colour and place of the item asked about, where an answer starts).
    `segments` is 0 in the shared prefix, 1.. in the conversations that continue it, -1 in the padding.
    A target belongs to the position that has to predict it. `kinds` names the kind of every segment (checks only).
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    cells: torch.Tensor
    ids: torch.Tensor
    image_rows: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    subjects: torch.Tensor
    kinds: list[list[str]]


@dataclass
class Look:
    """One picture for the tower: crops [N, 3, S, S], labels [3, N, P], crop grid, and the padded picture."""

    views: torch.Tensor
    labels: torch.Tensor
    grid: tuple[int, int]
    padded: Padded


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
            if word.lower() in content or (len(word) == 1 and (word.isupper() or word.isdigit())):
                weight[i] = CONTENT_WEIGHT
        self.weight = weight.numpy()

    def look(self, scene: Scene) -> Look:
        """The scene as the tower sees it."""
        padded = hd_transform(scene.image, self.cfg)
        views, grid = crops(padded.pixels, self.cfg)
        return Look(views.half(), torch.from_numpy(patch_labels(scene, padded, self.cfg)), grid, padded)

    def pack(self, scenes: list[Scene], samples: list[dialogues.Sample], extra: list[Look], kinds=()) -> Batch:
        """The first `len(scenes)` samples are about the scenes, the others have no picture.

        `extra` pictures are seen by the auxiliary heads only.
        """
        cfg, layouts, cells, total = self.cfg, [], [], 0
        looks = [self.look(scene) for scene in scenes]
        for scene, look in zip(scenes, looks):
            order = image_layout(look.grid, cfg)
            layouts.append(np.where(order >= 0, order + total * cfg.cells**2, order))
            cells.append(cell_labels(scene, look.padded, cfg).reshape(-1, 6))
            total += len(look.views)
        looks += extra
        total = sum(len(look.views) for look in looks)
        blank = np.full((total * cfg.cells**2 + 2 - sum(map(len, cells)), 6), IGNORE)
        cells = torch.from_numpy(np.concatenate([*cells, blank]))
        separators = {-1: total * cfg.cells**2 + 1, -2: total * cfg.cells**2}
        rows, subjects = [], []
        for i, sample in enumerate(samples):
            layout = [separators.get(int(r), int(r)) for r in layouts[i]] if i < len(scenes) else []
            rows.append(self.row(sample, layout))
            subjects.append([describe(scenes[i], item) for about in sample.about for item in about])
        length = max(len(r[0]) for r in rows)
        fills = (0, -1, 0, -1, 0, 0.0)
        stacked = [
            np.array([r[k] + [fill] * (length - len(r[k])) for r in rows], np.float32 if k == 5 else np.int64)
            for k, fill in enumerate(fills)
        ]
        marks = np.full((len(rows), length, 3), IGNORE, np.int64)
        for row, found in enumerate(subjects):
            starts = [at for at, token in enumerate(rows[row][0]) if token == self.assistant]
            for at, mark in zip(starts, found):
                marks[row, at] = mark
        tensors = map(torch.from_numpy, [*stacked, marks])
        views, labels = torch.cat([k.views for k in looks]), torch.cat([k.labels for k in looks], 1)
        return Batch(views, labels, cells, *tensors, list(kinds))

    def row(self, sample: dialogues.Sample, layout: list[int]) -> list[list]:
        """ids, image rows, positions, segments, targets and weights of one sample."""
        parts = [(0, encode_prompt(self.tokenizer, sample.prefix, [len(layout)])[:-1])] if sample.prefix else []
        for k, text in enumerate(sample.segments):
            parts.append((k + 1, encode_prompt(self.tokenizer, text, [len(layout)])))
        out: list[list] = [[], [], [], [], [], []]
        start = len(parts[0][1]) if sample.prefix else 0
        for number, ids in parts:
            places = iter(layout)
            out[0] += [max(0, i) for i in ids]
            out[1] += [next(places) if i == IMAGE else -1 for i in ids]
            out[2] += range(start, start + len(ids)) if number else range(len(ids))
            out[3] += [number] * len(ids)
            targets, weights, answering, first = ids[1:] + [0], [0.0] * len(ids), False, False
            for at, token in enumerate(ids):
                if answering:
                    weights[at - 1] = max(float(self.weight[token]), FIRST_WEIGHT if first else 0.0)
                    first = False
                    answering = token != self.end
                elif token == self.assistant:
                    answering = first = True
            out[4] += [max(0, t) for t in targets]
            out[5] += weights
        return out


def describe(scene: Scene, item: Item | None) -> tuple[int, int, int]:
    """Class, colour and place of an item, as labels."""
    if item is None:
        return IGNORE, IGNORE, IGNORE
    places = [p for row in PLACES for p in row]
    return CLASSES.index(item.label), COLOUR_NAMES.index(item.colour), places.index(scene.place(item.centre))


class JointData(IterableDataset):
    """Batches for the second stage: step i is always the same pictures and questions."""

    def __init__(self, packer: Packer, start: int, args):
        self.packer, self.start, self.args = packer, start, args

    def __iter__(self):
        torch.set_num_threads(1)
        step, size, pages = self.start, self.args.batch, collections.deque(maxlen=60 * self.args.pages)
        while True:
            number = step * RANKS + RANK
            rng = np.random.default_rng((SEED, number))
            scenes = [draw_scene(JOINT_SEEDS + number * size + i) for i in range(size)]
            samples = [dialogues.picture_sample(s, rng, self.args.questions) for s in scenes]
            if step % 3 == 0:
                samples.append(dialogues.blind_sample(rng, 7))
            first = TOWER_SEEDS + 500_000_000 + number * self.args.pages
            new = [self.packer.look(draw_page(first + i)) for i in range(self.args.pages)]
            old = (
                [pages[i] for i in rng.choice(len(pages), 2 * self.args.pages, replace=False)]
                if len(pages) > 20
                else []
            )
            pages.extend(new)
            yield step, self.packer.pack(scenes, samples, new + old)
            step += 1


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
        batches.append(packer.pack(scenes, samples, [], [[q.kind for q in qs] for qs in asked]))
    return batches


def predict(model: Phi3V, batch: Batch):
    """(features, image tokens, logits at the weighted positions [n, V], their indices into [B*L])."""
    features, tokens = model.model.vision_embed_tokens(batch.pixels.float())
    x = model.embed(batch.ids, batch.image_rows, tokens)
    own, n = batch.segments, batch.ids.shape[1]
    seen = (own[:, None, :] == 0) | (own[:, None, :] == own[:, :, None])
    mask = seen & torch.ones(n, n, dtype=torch.bool).tril()
    mask |= torch.eye(n, dtype=torch.bool)
    hidden = model.decode(x, batch.positions, mask[:, None])
    at = batch.weights.flatten().nonzero()[:, 0]
    return features, tokens, model.lm_head(hidden.flatten(0, 1)[at]), at


@torch.no_grad()
def check(model: Phi3V, batches: list[Batch]) -> dict[str, float]:
    """Share of answers per kind in which every token is the most likely one, so that greedy decoding says it."""
    right, asked = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    for batch in batches:
        _, _, logits, at = predict(model, batch)
        wrong = torch.zeros(batch.ids.numel(), dtype=torch.bool)
        wrong[at] = logits.argmax(-1) != batch.targets.flatten()[at]
        wrong = wrong.view(batch.ids.shape)
        for b, kinds in enumerate(batch.kinds):
            for k, kind in enumerate(kinds):
                asked[kind] += 1
                right[kind] += not wrong[b][batch.segments[b] == k + 1].any()
    return {k: right[k] / max(1, asked[k]) for k in KINDS}


def train_joint(model: Phi3V, heads: Heads, tokenizer: Tokenizer, args, log: Log):
    """Stage 2: questions and answers, with the patch labels kept as a weaker second goal."""
    path = args.run / "joint.pt"
    packer = Packer(model.cfg, tokenizer)
    opts = optimisers([model, heads], args.joint_muon_lr, args.joint_adam_lr)
    start = load(path, model, heads, opts)
    if start >= args.steps:
        return
    checks = held_out(packer, 64, 8)
    seen: dict[str, torch.Tensor] = {}
    half, late = model.model.layers[model.cfg.num_hidden_layers // 2 - 1], model.model.layers[-2]
    half.register_forward_hook(lambda _module, _inputs, hidden: seen.update(half=hidden))
    late.register_forward_hook(lambda _module, _inputs, hidden: seen.update(late=hidden))
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    data = DataLoader(JointData(packer, start, args), batch_size=None, num_workers=1, prefetch_factor=6)
    began, sums, count = time.time(), {}, 0
    launched = began
    for step, batch in data:
        factor = min(
            schedule(step, args.steps), schedule_by_clock(time.time() - launched, args.minutes * 60, args.decay)
        )
        features, tokens, logits, at = predict(model, batch)
        weights, targets = batch.weights.flatten()[at], batch.targets.flatten()[at]
        losses = F.cross_entropy(logits, targets, reduction="none")
        answer_loss = (losses * weights).sum() / weights.sum()
        aux_loss, stats = heads(features, tokens, batch.labels, model.cfg)
        relation_loss, more = heads.relation_loss(seen["half"], batch.image_rows, batch.cells)
        subject_loss, found = heads.subject_loss(seen["late"], batch.subjects)
        stats |= more | found
        side_loss = args.aux * aux_loss + args.relation * relation_loss + args.subject * subject_loss
        (answer_loss + side_loss).backward()
        late_now = bool(stopped) or time.time() - launched > args.minutes * 60
        factor, stop = average([model, heads], [factor, float(late_now)])
        set_rates(opts, factor)
        nn.utils.clip_grad_norm_(list(model.parameters()) + list(heads.parameters()), 2.0)
        for o in opts:
            o.step()
            o.zero_grad(set_to_none=True)
        with torch.no_grad():
            heavy = weights > FIRST_WEIGHT
            stats["content"] = (logits.argmax(-1) == targets)[heavy].float().mean().item()
        for k, v in {"answer": answer_loss.item(), "aux": aux_loss.item(), **stats}.items():
            sums[k] = sums.get(k, 0.0) + v
        count += 1
        done = step + 1
        if done % 25 == 0:
            means = " ".join(f"{k} {v / count:.3f}" for k, v in sums.items())
            log(f"joint {done}/{args.steps} {means} {(time.time() - began) / count:.2f} s/step")
            began, sums, count = time.time(), {}, 0
        finished = done >= args.steps or stop > 0
        if RANK == 0 and (done % 250 == 0 or finished):
            kinds = check(model, checks)
            log(f"check {done} " + " ".join(f"{k} {v:.2f}" for k, v in kinds.items()))
            began = time.time() if count == 0 else began
        if done % 200 == 0 or finished:
            save(path, model, heads, opts, done)
        if finished:
            return


def make_tokenizer(cfg: Config, path: Path) -> Tokenizer:
    """The tokenizer, learnt from questions about pictures of its own; kept in `path` for the next start."""
    if path.exists():
        return Tokenizer.from_file(str(path))
    scenes = [draw_scene(CORPUS_SEEDS + i) for i in range(800)]
    tokenizer = vocabulary.build(dialogues.corpus(SEED, scenes), cfg.vocab_size)
    tokenizer.save(str(path))
    return tokenizer


class Muon(torch.optim.Optimizer):
    """Muon with its Newton-Schulz iteration in float32.

    `torch.optim.Muon` iterates in bfloat16, which is slower than float32 on CPUs without matrix units.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.02):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                average = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(average, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)


def orthogonal(m: torch.Tensor) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrix, roughly, by five quintic Newton-Schulz steps."""
    x = m.T if m.shape[0] > m.shape[1] else m
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return x.T if m.shape[0] > m.shape[1] else x


def optimisers(modules: list[nn.Module], muon_lr: float, adam_lr: float):
    """Muon for the matrices inside the transformer layers and the projection, AdamW for everything else.

    The patch filters see 588 strongly correlated pixels, so a sign-like AdamW step moves their output far more
    than that of other weights: they learn at a twentieth of the rate.
    """
    muon, adam, filters = [], [], []
    for module in modules:
        for name, p in module.named_parameters():
            inner = p.ndim == 2 and ("layers." in name or "img_projection" in name)
            (muon if inner else filters if "patch_embedding" in name else adam).append(p)
    opts = [
        Muon(muon, muon_lr),
        torch.optim.AdamW(
            [{"params": adam}, {"params": filters, "lr": adam_lr / 20}],
            lr=adam_lr,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            fused=True,
        ),
    ]
    for o in opts:
        for group in o.param_groups:
            group["max_lr"] = group["lr"]
    return opts


def average(modules: list[nn.Module], numbers: list[float]) -> list[float]:
    """Averages the gradients over all processes, and with them some numbers, so that all processes act alike."""
    if RANKS == 1:
        return numbers
    grads = [p.grad for m in modules for p in m.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads] + [torch.tensor(numbers)])
    dist.all_reduce(flat)
    flat /= RANKS
    *parts, rest = flat.split([g.numel() for g in grads] + [len(numbers)])
    for g, part in zip(grads, parts):
        g.copy_(part.view_as(g))
    return rest.tolist()


def schedule(step: int, steps: int, warmup: int = 60, decay: float = 0.35) -> float:
    """Warm-up, a plateau, and a linear descent to 2 % over the last `decay` of the run."""
    rise = min(1.0, (step + 1) / warmup)
    return rise * min(1.0, max(0.02, (steps - step) / (steps * decay)))


def schedule_by_clock(seconds: float, limit: float, decay: float) -> float:
    """The same descent over the last `decay` of a time limit, for machines whose speed is not known beforehand."""
    return min(1.0, max(0.02, (limit - seconds) / (limit * decay)))


class Log:
    """Prints lines and appends them to RUN/train.log, in the first process only."""

    def __init__(self, run: Path):
        self.file = (run / "train.log").open("a", buffering=1)

    def __call__(self, line: str):
        if RANK:
            return
        line = time.strftime("%H:%M:%S ") + line
        print(line, flush=True)
        print(line, file=self.file)


def train_tower(model: Phi3V, heads: Heads, args, log: Log):
    """Stage 1: the tower and the projection learn to name what every patch shows."""
    cfg = model.cfg
    path = args.run / "tower.pt"
    opts = optimisers([model.model.vision_embed_tokens, heads], args.muon_lr, args.adam_lr)
    start = load(path, model.model.vision_embed_tokens, heads, opts)
    if start >= args.tower_steps:
        return
    data = DataLoader(TowerData(cfg, start, args.tower_batch), batch_size=None, num_workers=1, prefetch_factor=6)
    began, sums, count = time.time(), {}, 0
    for step, pixels, labels in data:
        set_rates(opts, schedule(step, args.tower_steps))
        features, tokens = model.model.vision_embed_tokens(pixels.float())
        loss, stats = heads(features, tokens, labels, cfg)
        loss.backward()
        average([model, heads], [])
        nn.utils.clip_grad_norm_(list(model.parameters()) + list(heads.parameters()), 5.0)
        for o in opts:
            o.step()
            o.zero_grad(set_to_none=True)
        for k, v in {"loss": loss.item(), **stats}.items():
            sums[k] = sums.get(k, 0.0) + v
        count += 1
        done = step + 1
        if done % 25 == 0:
            means = " ".join(f"{k} {v / count:.3f}" for k, v in sums.items())
            log(f"tower {done}/{args.tower_steps} {means} {(time.time() - began) / count:.2f} s/step")
            began, sums, count = time.time(), {}, 0
        if done % 100 == 0 or done == args.tower_steps:
            save(path, model.model.vision_embed_tokens, heads, opts, done)
        if done >= args.tower_steps:
            return


def set_rates(opts, factor: float):
    """Sets every learning rate to this share of its maximum."""
    for o in opts:
        for group in o.param_groups:
            group["lr"] = group["max_lr"] * factor


def load(path: Path, model: nn.Module, heads: nn.Module, opts) -> int:
    """Continues from a checkpoint if there is one; returns the step to start with."""
    if not path.exists():
        return 0
    state = torch.load(path)
    model.load_state_dict(state["model"])
    heads.load_state_dict(state["heads"])
    for o, s in zip(opts, state["opts"]):
        rates = [g["max_lr"] for g in o.param_groups]
        o.load_state_dict(s)
        for group, rate in zip(o.param_groups, rates):
            group["max_lr"] = rate
    return state["step"]


def save(path: Path, model: nn.Module, heads: nn.Module, opts, step: int):
    """Writes a checkpoint in one move, so that a reader never sees half of one; in the first process only."""
    if RANK:
        return
    state = {"model": model.state_dict(), "heads": heads.state_dict(), "opts": [o.state_dict() for o in opts]}
    torch.save({**state, "step": step}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)


def export(model: Phi3V, tokenizer: Tokenizer, out: Path):
    """Writes the model in the layout of a Hugging Face repository, weights in bfloat16."""
    out.mkdir(parents=True, exist_ok=True)
    cfg = model.cfg
    ids = {t: tokenizer.token_to_id(f"<|{t}|>") for t in ("endoftext", "assistant", "end")}
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(out / "tokenizer.json"))
    files = {
        "config.json": hub_config(cfg, ids["endoftext"]),
        "generation_config.json": {
            "bos_token_id": 1,
            "eos_token_id": [2, ids["endoftext"], ids["assistant"], ids["end"]],
            "pad_token_id": ids["endoftext"],
        },
        "preprocessor_config.json": {
            "image_mean": list(MEAN),
            "image_std": list(STD),
            "image_processor_type": "Phi3VImageProcessor",
            "processor_class": "Phi3VProcessor",
            "num_crops": cfg.num_crops,
            "num_img_tokens": cfg.cells**2,
        },
        "tokenizer_config.json": vocabulary.tokenizer_config(tokenizer),
    }
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--run", type=Path, required=True, help="folder for checkpoints and the log")
    ap.add_argument("--tower-steps", type=int, default=1200)
    ap.add_argument("--tower-batch", type=int, default=4, help="new pictures per step")
    ap.add_argument("--muon-lr", type=float, default=6e-3)
    ap.add_argument("--adam-lr", type=float, default=3e-3)
    ap.add_argument("--steps", type=int, default=6000)
    ap.add_argument(
        "--minutes", type=float, default=1e6, help="stop the second stage after this long, decaying in time"
    )
    ap.add_argument("--decay", type=float, default=0.5, help="share of --minutes over which the learning rate descends")
    ap.add_argument("--batch", type=int, default=8, help="pictures per step")
    ap.add_argument("--questions", type=int, default=8, help="questions per picture")
    ap.add_argument(
        "--pages",
        type=int,
        default=3,
        help="new crowded pages per step for the tower alone; each is used about three times",
    )
    ap.add_argument("--aux", type=float, default=1.0, help="weight of the patch labels")
    ap.add_argument("--relation", type=float, default=0.5, help="weight of the labels half-way up the decoder")
    ap.add_argument("--subject", type=float, default=0.3, help="weight of the labels of the item asked about")
    ap.add_argument("--joint-muon-lr", type=float, default=2e-3)
    ap.add_argument("--joint-adam-lr", type=float, default=1e-3)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument(
        "--export-only", action="store_true", help="write the model files from the last checkpoint and stop"
    )
    ap.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the model files")
    args = ap.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    if RANKS > 1:
        dist.init_process_group("gloo")
    torch.manual_seed(SEED)
    torch.set_num_threads(args.threads)
    cfg = Config()
    model, heads, log = Phi3V(cfg), Heads(cfg), Log(args.run)
    tokenizer = make_tokenizer(cfg, args.run / "tokenizer.json")
    if not args.export_only:
        if not (args.run / "joint.pt").exists():
            initialise(model)
            train_tower(model, heads, args, log)
        train_joint(model, heads, tokenizer, args, log)
    if RANK == 0:
        load(args.run / "joint.pt", model, heads, [])
        export(model, tokenizer, args.out)
    if RANKS > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
