"""Golden of beam search: what transformers' `generate` finds with the tiny LLaVA checkpoint.

`beams.json` has cases of `input_ids`, `num_beams`, `length_penalty`, `early_stopping`, `eos`, and
`max_new_tokens`, with the answers best first: `sequences` without the prompt and without padding,
and their `scores`. Tokens that end an answer are chosen among those that it likes to say, since
random weights hardly ever say their own.
"""

import json
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

PAD = 0


def case(model, input_ids, num_beams, length_penalty, early_stopping, eos, max_new_tokens):
    ids = torch.tensor([input_ids])
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            eos_token_id=eos or [10**6],
            pad_token_id=PAD,
            max_new_tokens=max_new_tokens,
            output_scores=True,
            return_dict_in_generate=True,
        )
    sequences = []
    for row in out.sequences[:, len(input_ids) :].tolist():
        ends = [place for place, token in enumerate(row) if token in eos]
        sequences.append(row[: ends[0] + 1] if ends else row[:max_new_tokens])
    return {
        "input_ids": input_ids,
        "num_beams": num_beams,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping,
        "eos": eos,
        "max_new_tokens": max_new_tokens,
        "sequences": sequences,
        "scores": [round(score, 6) for score in out.sequences_scores.tolist()],
    }


def make(out, checkpoint):
    """Reads the checkpoint of `make.py llava` and writes `beams.json`."""
    checkpoint = Path(checkpoint)
    golden = json.loads((checkpoint / "golden.json").read_text(encoding="utf-8"))
    prompts = [c["input_ids"] for c in golden["cases"] if not c["images"]][:3]
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, torch_dtype=torch.float32)
    model.eval()
    cases = []
    for prompt in prompts:
        plain = case(model, prompt, 4, 1.0, False, [], 12)
        liked = sorted({token for sequence in plain["sequences"] for token in sequence[2:9:3]})
        cases.append(plain)
        for num_beams in (2, 3, 5):
            for length_penalty, early_stopping in [
                (1.0, False),
                (0.4, False),
                (2.0, True),
                (-1.0, False),
            ]:
                settings = (num_beams, length_penalty, early_stopping, liked[:3], 12)
                cases.append(case(model, prompt, *settings))
    Path(out).mkdir(parents=True, exist_ok=True)
    text = json.dumps({"cases": cases}, separators=(",", ":"))
    (Path(out) / "beams.json").write_text(text + "\n", encoding="utf-8")
