"""Asks freshly drawn pictures of a running server, or of the PyTorch model, and marks the replies.

    python evaluate.py --url http://127.0.0.1:8000 --scenes 300 --seed 1
    python evaluate.py --local --scenes 300 --seed 1

Over HTTP it needs nothing but Pillow and numpy.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from questions import KINDS, Question, ask, is_right
from scenes import draw_scene

HERE = Path(__file__).parent
Ask = Callable[[Image.Image, str], str]


def png_uri(image: Image.Image) -> str:
    """The picture as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def over_http(url: str, model: str | None, timeout: float) -> Ask:
    """Asks a server that speaks the OpenAI chat API; the first model it lists, unless one is named."""
    if model is None:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=timeout) as reply:
            model = json.load(reply)["data"][0]["id"]

    def one(image: Image.Image, question: str) -> str:
        content = [
            {"type": "image_url", "image_url": {"url": png_uri(image)}},
            {"type": "text", "text": question},
        ]
        body = {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": 64,
        }
        request = urllib.request.Request(
            f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return json.load(reply)["choices"][0]["message"]["content"]

    return one


def in_process(folder: Path) -> Ask:
    """Asks the exported files with the PyTorch model: bfloat16 weights, float32 arithmetic, greedy."""
    import torch
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    from model import Config, Phi3V, crops, encode_prompt, hd_transform, image_tokens

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    generation = json.loads((folder / "generation_config.json").read_text())
    net = Phi3V(Config()).eval()
    net.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})

    def one(image: Image.Image, question: str) -> str:
        grid = crops(hd_transform(image, net.cfg).pixels, net.cfg)[1]
        prompt = f"<|user|>\n<|image_1|>\n{question}<|end|>\n<|assistant|>\n"
        ids = encode_prompt(tokenizer, prompt, [image_tokens(grid, net.cfg)])
        with torch.inference_mode():
            return tokenizer.decode(net.generate(ids, [image], set(generation["eos_token_id"])))

    return one


def questions_about(seed: int, scenes: int, per_scene: int) -> list[tuple[Image.Image, Question]]:
    """The examination: for every scene, questions of different kinds."""
    out = []
    for i in range(scenes):
        scene = draw_scene(seed * 1_000_000 + i)
        rng = np.random.default_rng((seed, i))
        asked: dict[str, Question] = {}
        for _ in range(40):
            question = ask(scene, rng)
            asked.setdefault(question.kind, question)
            if len(asked) == per_scene:
                break
        out += [(scene.image, q) for q in asked.values()]
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--url", default="http://127.0.0.1:8000")
    ap.add_argument("--local", action="store_true", help="use the PyTorch model instead of a server")
    ap.add_argument("--folder", type=Path, default=HERE, help="model files for --local")
    ap.add_argument("--model", help="model name to ask for (default: the first that the server lists)")
    ap.add_argument("--scenes", type=int, default=300)
    ap.add_argument("--per-scene", type=int, default=4, help="questions per scene, each of another kind")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--parallel", type=int, default=4, help="requests at a time")
    ap.add_argument("--timeout", type=float, default=120.0)
    ap.add_argument("--wrong", type=int, default=0, help="print this many wrong replies")
    args = ap.parse_args()
    exam = questions_about(args.seed, args.scenes, args.per_scene)
    one = in_process(args.folder) if args.local else over_http(args.url.rstrip("/"), args.model, args.timeout)
    began = time.time()
    with ThreadPoolExecutor(1 if args.local else args.parallel) as pool:
        replies = list(pool.map(lambda item: one(item[0], item[1].text), exam))
    marks = [is_right(question, reply) for (_, question), reply in zip(exam, replies)]
    print(f"{'kind':10} {'asked':>6} {'right':>6} {'%':>6}")
    for kind in (*KINDS, "all"):
        of_kind = [m for (_, q), m in zip(exam, marks) if kind in (q.kind, "all")]
        if of_kind:
            print(f"{kind:10} {len(of_kind):6} {sum(of_kind):6} {100 * sum(of_kind) / len(of_kind):6.1f}")
    print(f"{args.scenes} scenes, seed {args.seed}, {time.time() - began:.0f} s")
    wrong = [(q, reply) for (_, q), reply, mark in zip(exam, replies, marks) if not mark]
    for question, reply in wrong[: args.wrong]:
        print(f"[{question.kind}] {question.text} -> {reply}   (expected: {question.answer})")


if __name__ == "__main__":
    main()
