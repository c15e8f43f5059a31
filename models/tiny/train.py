"""Trains the tiny model on a CPU: first the vision tower on labelled patches, then everything together.

    python train.py --run RUN --tower-minutes 15 --minutes 105

A run is resumed from its last checkpoint if there is one; `--export-only` writes the model files from it.
Pictures are drawn while training runs, each one from its own seed. Matrix products are in bfloat16, which a CPU with
AVX512-BF16 or AMX does several times as fast as float32; weights, norms and losses stay in float32.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from torch.utils.data import DataLoader

import dialogues
import vocabulary
from batches import FIRST_WEIGHT, SEED, Batch, JointData, Packer, TowerData, held_out
from heads import Heads, initialise
from model import MEAN, STD, Config, Phi3V, hub_config
from optim import optimisers, schedule, set_rates
from questions import KINDS
from scenes import draw_scene

CORPUS_SEEDS = 4_000_000_000
"""Picture seeds of the questions from which the tokenizer is learnt."""


class Log:
    """Prints lines and appends them to RUN/train.log."""

    def __init__(self, run: Path):
        self.file = (run / "train.log").open("a", buffering=1)

    def __call__(self, line: str):
        line = time.strftime("%H:%M:%S ") + line
        print(line, flush=True)
        print(line, file=self.file)


class Means:
    """Means of named numbers over the steps since the last report."""

    def __init__(self):
        self.sums, self.count, self.began = {}, 0, time.time()

    def add(self, numbers: dict[str, float]):
        for k, v in numbers.items():
            self.sums[k] = self.sums.get(k, 0.0) + v
        self.count += 1

    def report(self) -> str:
        line = " ".join(f"{k} {v / self.count:.3f}" for k, v in self.sums.items())
        line += f" {(time.time() - self.began) / self.count:.2f} s/step"
        self.__init__()
        return line


class Clock:
    """Time spent in a stage, over all starts of the run, and whether it is to stop."""

    def __init__(self, before: float, minutes: float):
        self.before, self.limit, self.began, self.asked = before, minutes * 60, time.time(), False
        signal.signal(signal.SIGTERM, self.ask)

    def ask(self, *_):
        """Ends the stage after the running step."""
        self.asked = True

    @property
    def seconds(self) -> float:
        return self.before + time.time() - self.began

    @property
    def share(self) -> float:
        """How much of the stage is over, 0 to 1."""
        return min(1.0, self.seconds / self.limit)

    @property
    def over(self) -> bool:
        return self.asked or self.share >= 1.0


def update(modules: list[nn.Module], opts, factor: float, clip: float):
    """One step of the optimisers."""
    set_rates(opts, factor)
    nn.utils.clip_grad_norm_([p for m in modules for p in m.parameters()], clip)
    for o in opts:
        o.step()
        o.zero_grad(set_to_none=True)


def train_tower(model: Phi3V, heads: Heads, args, log: Log):
    """Stage 1: the tower and the projection learn to name what every patch shows."""
    path, tower = args.run / "tower.pt", model.model.vision_embed_tokens
    opts = optimisers([tower, heads], args.muon_lr, args.adam_lr)
    start, spent = load(path, tower, heads, opts)
    clock, means = Clock(spent, args.tower_minutes), Means()
    if clock.over:
        return
    loader = DataLoader(
        TowerData(model.cfg, start, args.tower_batch), batch_size=None, num_workers=1, prefetch_factor=6
    )
    for step, pixels, labels in loader:
        with torch.autocast("cpu", torch.bfloat16):
            features, tokens = tower(pixels)
        loss, stats = heads(features.float(), tokens.float(), labels, model.cfg)
        loss.backward()
        update([tower, heads], opts, schedule(step, clock.share, 0.35), 5.0)
        means.add({"loss": loss.item(), **stats})
        if (step + 1) % 50 == 0:
            log(f"tower {step + 1} {means.report()}")
        if (step + 1) % 500 == 0 or clock.over:
            save(path, tower, heads, opts, step + 1, clock.seconds)
        if clock.over:
            return


def predict(model: Phi3V, batch: Batch):
    """(features, image tokens, logits at the weighted positions [n, V], those positions)."""
    with torch.autocast("cpu", torch.bfloat16):
        features, tokens = model.model.vision_embed_tokens(batch.pixels)
        x = model.embed(batch.ids, batch.image_rows, tokens)
        hidden = model.decode(x, batch.positions, [batch.attend] * model.cfg.num_hidden_layers)
        at = batch.weights.nonzero()[:, 0]
        logits = model.lm_head(hidden.index_select(0, at))
    return features.float(), tokens.float(), logits.float(), at


@torch.no_grad()
def check(model: Phi3V, batches: list[Batch]) -> dict[str, float]:
    """Share of answers per kind in which every token is the most likely one, so that greedy decoding says it."""
    right, asked = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    for batch in batches:
        _, _, logits, at = predict(model, batch)
        wrong = torch.zeros(len(batch.ids), dtype=torch.bool)
        wrong[at] = logits.argmax(-1) != batch.targets[at]
        for kind, start, end in batch.kinds:
            asked[kind] += 1
            right[kind] += not wrong[start:end].any()
    return {k: right[k] / max(1, asked[k]) for k in KINDS}


def train_joint(model: Phi3V, heads: Heads, tokenizer: Tokenizer, args, log: Log):
    """Stage 2: questions and answers, with the patch labels kept as a weaker second goal."""
    path, packer = args.run / "joint.pt", Packer(model.cfg, tokenizer)
    opts = optimisers([model, heads], args.joint_muon_lr, args.joint_adam_lr)
    start, spent = load(path, model, heads, opts)
    clock, means = Clock(spent, args.minutes), Means()
    if clock.over:
        return
    checks, seen = held_out(packer, 192, 16), {}
    half, late = model.model.layers[model.cfg.num_hidden_layers // 2 - 1], model.model.layers[-2]
    half.register_forward_hook(lambda _module, _inputs, hidden: seen.update(half=hidden))
    late.register_forward_hook(lambda _module, _inputs, hidden: seen.update(late=hidden))
    loader = DataLoader(
        JointData(packer, start, args.batch, args.questions, args.pages),
        batch_size=None,
        num_workers=1,
        prefetch_factor=6,
    )
    for step, batch in loader:
        features, tokens, logits, at = predict(model, batch)
        weights, targets = batch.weights[at], batch.targets[at]
        losses = F.cross_entropy(logits, targets, reduction="none")
        answer_loss = (losses * weights).sum() / weights.sum()
        aux_loss, stats = heads(features, tokens, batch.labels, model.cfg)
        relation_loss, more = heads.relation_loss(seen["half"].float(), batch.image_rows, batch.cells)
        subject_loss, found = heads.subject_loss(seen["late"].float(), batch.subjects)
        side_loss = args.aux * aux_loss + args.relation * relation_loss + args.subject * subject_loss
        (answer_loss + side_loss).backward()
        update([model, heads], opts, schedule(step, clock.share, args.decay), 2.0)
        content = (logits.argmax(-1) == targets)[weights > FIRST_WEIGHT].float().mean().item()
        means.add({"answer": answer_loss.item(), "content": content, "aux": aux_loss.item(), **stats, **more, **found})
        done = step + 1
        if done % 50 == 0:
            log(f"joint {done} {means.report()}")
        if done % 500 == 0 or clock.over:
            kinds = check(model, checks)
            log(f"check {done} " + " ".join(f"{k} {v:.3f}" for k, v in kinds.items()))
            save(path, model, heads, opts, done, clock.seconds)
        if clock.over:
            return


def load(path: Path, model: nn.Module, heads: nn.Module, opts) -> tuple[int, float]:
    """Continues from a checkpoint if there is one; returns the step to start with and the seconds spent before."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path)
    model.load_state_dict(state["model"])
    heads.load_state_dict(state["heads"])
    for o, s in zip(opts, state["opts"]):
        rates = [g["max_lr"] for g in o.param_groups]
        o.load_state_dict(s)
        for group, rate in zip(o.param_groups, rates):
            group["max_lr"] = rate
    return state["step"], state["seconds"]


def save(path: Path, model: nn.Module, heads: nn.Module, opts, step: int, seconds: float):
    """Writes a checkpoint in one move, so that a reader never sees half of one."""
    state = {"model": model.state_dict(), "heads": heads.state_dict(), "opts": [o.state_dict() for o in opts]}
    torch.save({**state, "step": step, "seconds": seconds}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)


def make_tokenizer(cfg: Config, path: Path) -> Tokenizer:
    """The tokenizer, learnt from questions about pictures of its own; kept in `path` for the next start."""
    if path.exists():
        return Tokenizer.from_file(str(path))
    scenes = [draw_scene(CORPUS_SEEDS + i) for i in range(800)]
    tokenizer = vocabulary.build(dialogues.corpus(SEED, scenes), cfg.vocab_size)
    tokenizer.save(str(path))
    return tokenizer


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
    ap.add_argument("--tower-minutes", type=float, default=15, help="length of the first stage")
    ap.add_argument("--tower-batch", type=int, default=6, help="new pictures per step of the first stage")
    ap.add_argument("--muon-lr", type=float, default=6e-3)
    ap.add_argument("--adam-lr", type=float, default=3e-3)
    ap.add_argument("--minutes", type=float, default=105, help="length of the second stage")
    ap.add_argument(
        "--decay", type=float, default=0.55, help="share of the second stage over which the learning rate descends"
    )
    ap.add_argument("--batch", type=int, default=16, help="pictures per step of the second stage")
    ap.add_argument("--questions", type=int, default=12, help="questions per picture")
    ap.add_argument("--pages", type=int, default=2, help="new crowded pages per step, for the tower alone")
    ap.add_argument("--aux", type=float, default=1.5, help="weight of the patch labels")
    ap.add_argument("--relation", type=float, default=1.0, help="weight of the labels half-way up the decoder")
    ap.add_argument("--subject", type=float, default=0.5, help="weight of the labels of the item asked about")
    ap.add_argument("--joint-muon-lr", type=float, default=2.5e-3)
    ap.add_argument("--joint-adam-lr", type=float, default=1.2e-3)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument(
        "--export-only", action="store_true", help="write the model files from the last checkpoint and stop"
    )
    ap.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the model files")
    args = ap.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
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
    load(args.run / "joint.pt", model, heads, [])
    export(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
