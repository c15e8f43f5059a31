"""Read-outs that exist during training only, and the start that training gives the tower."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from labels import IGNORE, PLACE_BINS
from model import Config, Phi3V, crops, hd_transform
from scenes import CLASSES, COLOUR_NAMES, draw_page

K, C = len(CLASSES), len(COLOUR_NAMES)
MOST = 5
"""Most items of one sort in a picture, and characters in a text."""
FILTER_SEEDS = 5_000_000_000
"""Picture seeds of the patches whose principal components become the first filters."""
SHIFTS = (
    ((0, 1), (1, 0), (1, 1)),
    ((0, -1), (-1, 0), (-1, -1)),
    ((0, 1), (1, 0), (1, -1)),
    ((0, -1), (-1, 0), (-1, 1)),
)
"""Which neighbour (down, right) each head of each used tower layer attends to at the start."""


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
        """hidden [T, H] from the middle of the decoder, image_rows [T], labels [rows, 6] of `cell_labels`."""
        at = (image_rows >= 0).nonzero()[:, 0]
        out = self.relation(F.rms_norm(hidden.index_select(0, at), hidden.shape[-1:]))
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
        """hidden [T, H] below the last decoder layer; subjects [T, 3], IGNORE where no answer starts."""
        at = (subjects[:, 0] != IGNORE).nonzero()[:, 0]
        parts = self.subject(F.rms_norm(hidden.index_select(0, at), hidden.shape[-1:])).split([K, C, 9], -1)
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

    x = torch.cat([crops(hd_transform(draw_page(FILTER_SEEDS + i).image, cfg).pixels, cfg)[0] for i in range(300)])
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
