"""Runs a reference model over its cases and records what a server must reproduce.

An architecture is an object with the attributes of `Architecture`; this module knows nothing else
about it.
"""

import hashlib
import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer

import checkpoint
import pictures

NEW_TOKENS = 16
# A pixel tensor with more values than this is stored as a grid of samples.
FULL_PIXELS = 120_000
# Inputs with more values than this go to golden.safetensors, the others into golden.json.
INLINE_VALUES = 64


@dataclass
class Case:
    """One conversation.

    `stride` thins the stored pixels. `patch` names a deviation from the reference, for inputs on
    which the reference fails; what it raised is recorded beside the patched result.
    """

    name: str
    messages: list
    images: list = field(default_factory=list)
    stride: int = 24
    trace: bool = False
    patch: str = None


class Architecture:
    """What an architecture module provides."""

    name = ""
    # Fields for the head of golden.json.
    header = {}
    # The tokenizer as the reference loads it; `build` sets it.
    tokenizer = None
    # Whether text-only prompts are encoded with the tokenizer's own BOS.
    add_special_tokens = True
    # Parts of parameter names that are not stored.
    skip_weights = ()
    # Steps of the cacheless cross-check for prompts with images, which are dear.
    no_cache_steps_with_images = 3

    def build(self, out, seed):
        """Writes configuration, tokenizer and processor files to `out`; returns the model."""
        raise NotImplementedError

    def cases(self):
        """The list of `Case`."""
        raise NotImplementedError

    def prompt(self, messages):
        """The chat template's rendering, ready for an answer."""
        raise NotImplementedError

    def inputs(self, prompt, images, patch=None):
        """The processor's tensors; `input_ids` is among them."""
        raise NotImplementedError

    def model_inputs(self, inputs):
        """What goes into the model beside the ids."""
        skipped = ("input_ids", "attention_mask")
        return {name: value for name, value in inputs.items() if name not in skipped}

    def notes(self, case, prompt_len):
        """Further fields for a case's record."""
        return {}

    def modes(self, case, prompt_len):
        """`{suffix: context manager}`: other ways to run the case, recorded under the suffix."""
        return {}

    def trace(self):
        """A context manager that yields a dict, filled with named inner tensors by a forward."""
        return no_trace()


@contextmanager
def no_trace():
    """The trace of an architecture that has nothing to show."""
    yield {}


@dataclass
class Run:
    """Greedy decoding of one prompt."""

    logits_last: torch.Tensor
    step_logits: torch.Tensor
    generated: list
    no_cache: list
    hidden_last: torch.Tensor

    def gaps(self):
        """Distance from the best to the second-best logit, per step."""
        best = self.step_logits.topk(2, dim=-1).values
        return (best[:, 0] - best[:, 1]).tolist()

    def fields(self, suffix=""):
        """The JSON fields of a run."""
        gaps = self.gaps()
        record = {
            "generated_ids": self.generated,
            "no_cache_ids": self.no_cache,
            "cache_equals_no_cache": self.no_cache == self.generated[: len(self.no_cache)],
            "min_top2_gap": min(gaps),
            "top2_gaps": [round(gap, 4) for gap in gaps],
            "logits_std": float(self.logits_last.std()),
        }
        return {name + suffix: value for name, value in record.items()}


@torch.no_grad()
def run(architecture, model, inputs):
    """The reference's own cached greedy decoding, and the same without a cache."""
    prompt = inputs["input_ids"]
    extra = architecture.model_inputs(inputs)

    def forward(ids):
        # The reference may write into its arguments, hence the copy.
        return model(
            input_ids=ids.clone(),
            attention_mask=torch.ones_like(ids),
            use_cache=False,
            output_hidden_states=True,
            **extra,
        )

    first = forward(prompt)
    output = model.generate(
        input_ids=prompt.clone(),
        attention_mask=torch.ones_like(prompt),
        **extra,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=[-1],
        pad_token_id=model.generation_config.pad_token_id,
        return_dict_in_generate=True,
        output_logits=True,
    )
    generated = output.sequences[0].tolist()[prompt.shape[1] :]

    no_cache, ids = [], prompt
    steps = architecture.no_cache_steps_with_images if extra else NEW_TOKENS
    for _ in range(steps):
        token = forward(ids).logits[0, -1].argmax()
        no_cache.append(int(token))
        ids = torch.cat([ids, token.reshape(1, 1)], dim=1)

    return Run(
        logits_last=first.logits[0, -1].float(),
        step_logits=torch.stack([step[0].float() for step in output.logits]),
        generated=generated,
        no_cache=no_cache,
        hidden_last=torch.stack([state[0, -1].float() for state in first.hidden_states]),
    )


def pixel_record(pixels, stride, full):
    """Summary of a pixel tensor, the tensor to store and the name to store it under."""
    pixels = pixels.float().contiguous()
    record = {
        "sha256_f32": hashlib.sha256(pixels.numpy().tobytes()).hexdigest(),
        "mean": float(pixels.double().mean()),
        "std": float(pixels.double().std()),
        "per_tile_sum_f64": [
            float(tile.double().sum()) for tile in pixels.reshape(-1, *pixels.shape[-3:])
        ],
    }
    if full or pixels.numel() <= FULL_PIXELS:
        return {**record, "stored": "full"}, pixels, "pixel_values"
    record["stored"] = f"[..., ::{stride}, ::{stride}]"
    record["stride"] = stride
    return record, pixels[..., ::stride, ::stride].contiguous(), "pixel_values_strided"


def input_records(case, inputs, full):
    """`tensors` of the JSON record, and the tensors that are stored."""
    records, stored = {}, {}
    for name, value in inputs.items():
        if name in ("input_ids", "attention_mask"):
            continue
        record = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        if value.numel() <= INLINE_VALUES:
            record["value"] = value.tolist()
        if name == "pixel_values":
            summary, tensor, key = pixel_record(value, case.stride, full)
            record.update(summary)
            stored[key] = tensor
        elif value.numel() > INLINE_VALUES:
            stored[name] = value.to(torch.uint8) if value.dtype == torch.bool else value
        records[name] = record
    return records, stored


def reference_failure(architecture, model, prompt, images):
    """What the unpatched reference raises for a case that needs a patch."""
    try:
        run(architecture, model, architecture.inputs(prompt, images))
    except Exception as error:  # whatever it is, it is the finding
        return f"{type(error).__name__}: {error}"
    raise AssertionError("the reference accepts this case: it needs no patch")


def record_case(architecture, model, tokenizer, case, folder, full):
    """One case: its JSON record and its tensors."""
    decoded = [pictures.write_model_picture(folder, name) for name in case.images]
    opened = [Image.open(folder / name) for name in case.images]
    images = [pictures.load(folder / name) for name in case.images]
    prompt = architecture.prompt(case.messages)
    inputs = architecture.inputs(prompt, images, case.patch)
    ids = inputs["input_ids"][0].tolist()

    result = run(architecture, model, inputs)
    records, tensors = input_records(case, inputs, full)
    stops = set(model.generation_config.eos_token_id)
    record = {
        "name": case.name,
        "messages": case.messages,
        "prompt": prompt,
        "images": [f"images/{name}" for name in case.images],
        "images_decoded": [f"images/{name}" for name in decoded],
        "image_sizes_wh": [list(image.size) for image in images],
        "image_modes": [image.mode for image in opened],
        "input_ids": ids,
        "prompt_len": len(ids),
        "first_stop_index": next(
            (index for index, token in enumerate(result.generated) if token in stops), None
        ),
        "generated_text": tokenizer.decode(result.generated, skip_special_tokens=False),
        "tensors": records,
        **result.fields(),
        **architecture.notes(case, len(ids)),
    }
    tensors["logits_last"] = result.logits_last
    tensors["step_logits"] = result.step_logits
    if case.patch:
        record["patched"] = case.patch
        record["reference_error"] = reference_failure(architecture, model, prompt, images)
    if case.trace:
        tensors["hidden_states_last_token"] = result.hidden_last
        with architecture.trace() as inner, torch.no_grad():
            model(input_ids=inputs["input_ids"].clone(), **architecture.model_inputs(inputs))
        tensors.update(inner)
    for suffix, forced in architecture.modes(case, len(ids)).items():
        with forced:
            other = run(architecture, model, inputs)
        record.update(other.fields("_" + suffix))
        tensors["logits_last_" + suffix] = other.logits_last
        tensors["step_logits_" + suffix] = other.step_logits
    for image in opened:
        image.close()
    return record, {f"{case.name}/{name}": value for name, value in tensors.items()}


def check_tokenizer(architecture, out, records):
    """The plain tokenizer file, which is all a server has, agrees with the processor."""
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    for record in records:
        if record["images"]:
            continue
        encoding = tokenizer.encode(
            record["prompt"], add_special_tokens=architecture.add_special_tokens
        )
        if encoding.ids != record["input_ids"]:
            raise AssertionError(f"{record['name']}: tokenizer.json tokenises differently")


def versions():
    """The libraries whose arithmetic the goldens hold."""
    import torchvision
    import transformers

    return {
        "numpy": np.__version__,
        "pillow": Image.__version__,
        "torch": torch.__version__.partition("+")[0],
        "torchvision": torchvision.__version__.partition("+")[0],
        "transformers": transformers.__version__,
    }


def make(architecture, out, seed, full=False):
    """Writes checkpoint, pictures, golden.json and golden.safetensors into the new folder `out`."""
    out = Path(out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    model = architecture.build(out, seed).eval().float()
    checkpoint.save(model, out / "model.safetensors", architecture.skip_weights)

    records, tensors = [], {}
    for case in architecture.cases():
        record, stored = record_case(
            architecture, model, architecture.tokenizer, case, out / "images", full
        )
        records.append(record)
        tensors.update(stored)
        print(summary(record))
    check_tokenizer(architecture, out, records)

    golden = {
        "arch": architecture.name,
        "seed": seed,
        **versions(),
        "dtype": "float32 (weights are bf16-representable)",
        "attn": "eager",
        "stop_ids": model.generation_config.eos_token_id,
        "max_new_tokens": NEW_TOKENS,
        "cases": records,
        **architecture.header,
    }
    text = json.dumps(golden, indent=1, ensure_ascii=False, sort_keys=True)
    (out / "golden.json").write_text(text + "\n", encoding="utf-8")
    save_file(
        {name: tensors[name].contiguous() for name in sorted(tensors)},
        out / "golden.safetensors",
    )
    for path in out.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def summary(record):
    """One line for the terminal."""
    return (
        f"{record['name']:24s} {record['prompt_len']:5d} tokens"
        f"  gap {record['min_top2_gap']:.3f}  std {record['logits_std']:.2f}"
        f"  cache {'agrees' if record['cache_equals_no_cache'] else 'DIFFERS'}"
        f"  {record['generated_ids'][:6]}"
    )
