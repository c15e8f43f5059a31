"""Draws the four example pictures and writes down what the exported model says about them.

python examples.py        # writes examples/*.png and examples/examples.json
"""

from __future__ import annotations

import json

import numpy as np

from evaluate import HERE, in_process
from questions import ask, is_right
from scenes import draw_scene

SEED = 9_000_000_000
"""The first picture seed to try; none of this range is used in training or by evaluate.py."""
WANTED = {
    "shapes": {"kind": "shapes", "noisy": False},
    "text": {"kind": "text", "noisy": False},
    "bars": {"kind": "bars", "noisy": False},
    "noisy": {"kind": "shapes", "noisy": True},
}
QUESTIONS = 6
MAX_BYTES = 60_000


def main():
    folder = HERE / "examples"
    folder.mkdir(exist_ok=True)
    one = in_process(HERE)
    record = []
    for number, (name, wish) in enumerate(WANTED.items()):
        path = folder / f"{name}.png"
        seed = SEED + 1000 * number
        while True:
            scene = draw_scene(seed, **wish)
            scene.image.save(path, optimize=True)
            if path.stat().st_size < MAX_BYTES and len(scene.shapes or scene.bars or scene.chars) >= 3:
                break
            seed += 1
        rng = np.random.default_rng(seed)
        asked = {}
        while len(asked) < QUESTIONS:
            q = ask(scene, rng)
            asked.setdefault(q.text, q)
        for q in asked.values():
            reply = one(scene.image, q.text)
            record.append(
                {"image": path.name, "kind": q.kind, "question": q.text, "answer": reply, "right": is_right(q, reply)}
            )
    (folder / "examples.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
