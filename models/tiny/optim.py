"""Optimisers and learning rates of the training."""

from __future__ import annotations

import torch
from torch import nn


class Muon(torch.optim.Optimizer):
    """Muon: momentum whose update is made orthogonal, so that every direction of a matrix learns at one rate."""

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
    """The nearest (semi-)orthogonal matrix, roughly, by five quintic Newton-Schulz steps in bfloat16."""
    x = m.T if m.shape[0] > m.shape[1] else m
    x = (x / x.norm().clamp(min=1e-7)).bfloat16()
    for _ in range(5):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return (x.T if m.shape[0] > m.shape[1] else x).float()


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


def schedule(step: int, share: float, decay: float, warmup: int = 60) -> float:
    """Share of the highest learning rate: warm-up, a plateau, and a linear descent to 2 % over the last `decay` of
    the stage, of which `share` is over."""
    return min(1.0, (step + 1) / warmup) * min(1.0, max(0.02, (1 - share) / decay))


def set_rates(opts, factor: float):
    """Sets every learning rate to this share of its maximum."""
    for o in opts:
        for group in o.param_groups:
            group["lr"] = group["max_lr"] * factor
