"""Runs a reference model over its cases and records what a server must reproduce.

An architecture is an object with the attributes of `Architecture`; this module knows nothing else
about it.
"""

import hashlib
import json
import shutil
from contextlib import contextmanager, nullcontext
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
# Inputs with more values than this go to golden.safetensors, the others into golden.json.
INLINE_VALUES = 64


@dataclass
class Case:
    """One conversation.

    `stride` thins the stored pixels; 1 stores all. `patch` names a deviation from the reference,
    for inputs on which the reference fails; what it did is recorded beside the patched result.
    `options` are further fields of the record that the architecture reads.
    """

    name: str
    messages: list
    images: list = field(default_factory=list)
    stride: int = None
    trace: bool = False
    patch: str = None
    options: dict = field(default_factory=dict)


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
    # Steps of the cacheless cross-check for prompts with images.
    no_cache_steps_with_images = NEW_TOKENS
    # Arguments of `generate` beyond those of greedy decoding.
    generate_options = {}
    # Steps whose logits are stored of a case that is not traced.
    logit_steps = NEW_TOKENS
    # Whether `modes` compute other logits, or only choose otherwise among them.
    modes_change_logits = True
    # Every how many rows and columns of the pixels are stored, where a case does not say.
    stride = 24
    # Pixel tensors up to this size are stored whole all the same.
    full_pixels = 120_000
    # Mean and deviation of the pixels' channels: the bytes before normalisation get a checksum.
    normalisation = None

    def build(self, out, seed):
        """Writes configuration, tokenizer and processor files to `out`; returns the model."""
        raise NotImplementedError

    def save(self, model, out):
        """Writes the weights."""
        checkpoint.save(model, out / "model.safetensors", self.skip_weights)

    def cases(self):
        """The list of `Case`."""
        raise NotImplementedError

    def refused(self):
        """Cases for which the reference makes no prompt; the error is recorded."""
        return []

    def prompt(self, case):
        """The chat template's rendering, ready for an answer."""
        return self.tokenizer.apply_chat_template(
            case.messages, add_generation_prompt=True, tokenize=False
        )

    def inputs(self, prompt, images, patch=None):
        """The processor's tensors; `input_ids` is among them."""
        raise NotImplementedError

    def model_inputs(self, inputs, length):
        """What goes into the model beside `length` ids, the prompt's and generated ones."""
        skipped = ("input_ids", "attention_mask")
        return {name: value for name, value in inputs.items() if name not in skipped}

    def reference(self, model, inputs):
        """The module that computes a prompt."""
        return model

    def choose(self, ids, logits):
        """The greedy token behind `ids`, for the cacheless cross-check."""
        return logits.argmax()

    def image_spans(self, ids, inputs):
        """`[start, length]` of each image among the ids, or `None` where the ids say it."""
        return None

    def encode(self, out, case, prompt):
        """The ids of a prompt without images from the written files alone."""
        tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
        return tokenizer.encode(prompt, add_special_tokens=self.add_special_tokens).ids

    def decode(self, ids):
        """Text of generated ids, special tokens included."""
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def finish(self, record):
        """Adds to a case's record what follows from the rest of it."""

    def extras(self, out):
        """Writes further files when all cases are done."""

    def notes(self, case, prompt_len):
        """Further fields for a case's record."""
        return {}

    def modes(self, case, prompt_len):
        """`{suffix: context manager}`: other ways to run the case, recorded under the suffix."""
        return {}

    def trace(self):
        """A context manager that yields a dict, filled with named inner tensors by a forward."""
        return nullcontext({})


@contextmanager
def traced(watched):
    """The trace of `{module: function}`: functions of a module's arguments and output that give
    `{name: tensor}`.
    """
    inner = {}

    def hook(function):
        def keep(module, arguments, output):
            for name, tensor in function(arguments, output).items():
                inner[name] = tensor.float().contiguous()

        return keep

    hooks = [module.register_forward_hook(hook(look)) for module, look in watched.items()]
    try:
        yield inner
    finally:
        for registered in hooks:
            registered.remove()


@dataclass
class Run:
    """Greedy decoding of one prompt."""

    logits_last: torch.Tensor
    step_logits: torch.Tensor
    step_scores: torch.Tensor
    generated: list
    no_cache: list
    hidden_last: torch.Tensor

    def gaps(self):
        """Distance from the best to the second-best logit that may be chosen, per step."""
        best = self.step_scores.topk(2, dim=-1).values
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
    model = architecture.reference(model, inputs)
    prompt = inputs["input_ids"]
    extra = architecture.model_inputs(inputs, prompt.shape[1])

    def forward(ids):
        # The reference may write into its arguments, hence the copy.
        return model(
            input_ids=ids.clone(),
            attention_mask=torch.ones_like(ids),
            use_cache=False,
            output_hidden_states=True,
            **architecture.model_inputs(inputs, ids.shape[1]),
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
        output_scores=True,
        **architecture.generate_options,
    )
    # Some references give the prompt back as well.
    generated = output.sequences[0].tolist()[-NEW_TOKENS:]

    no_cache, ids = [], prompt
    steps = architecture.no_cache_steps_with_images if extra else NEW_TOKENS
    for _ in range(steps):
        token = architecture.choose(ids, forward(ids).logits[0, -1])
        no_cache.append(int(token))
        ids = torch.cat([ids, token.reshape(1, 1)], dim=1)

    return Run(
        logits_last=first.logits[0, -1].float(),
        step_logits=torch.stack([step[0].float() for step in output.logits]),
        step_scores=torch.stack([step[0].float() for step in output.scores]),
        generated=generated,
        no_cache=no_cache,
        hidden_last=torch.stack([state[0, -1].float() for state in first.hidden_states]),
    )


def levels(pixels, normalisation):
    """The bytes that were normalised to `pixels`, channels being the third axis from behind.

    A pixel that is exactly zero after normalisation, as in a tile that does not exist, comes out as
    the level nearest to the mean.
    """
    mean, deviation = (
        torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1) for values in normalisation
    )
    return ((pixels.double() * deviation + mean) * 255).round().to(torch.uint8)


def pixel_record(architecture, pixels, stride):
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
    if architecture.normalisation:
        data = levels(pixels, architecture.normalisation).contiguous().numpy().tobytes()
        record["sha256_u8"] = hashlib.sha256(data).hexdigest()
    if stride == 1 or pixels.numel() <= architecture.full_pixels:
        return {**record, "stored": "full"}, pixels, "pixel_values"
    record["stored"] = f"[..., ::{stride}, ::{stride}]"
    record["stride"] = stride
    return record, pixels[..., ::stride, ::stride].contiguous(), "pixel_values_strided"


def input_records(architecture, case, inputs, full):
    """`tensors` of the JSON record, and the tensors that are stored."""
    stride = 1 if full else case.stride or architecture.stride
    records, stored = {}, {}
    for name, value in inputs.items():
        if name in ("input_ids", "attention_mask"):
            continue
        record = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        if value.numel() <= INLINE_VALUES:
            record["value"] = value.tolist()
        if name == "pixel_values":
            summary, tensor, key = pixel_record(architecture, value, stride)
            record.update(summary)
            stored[key] = tensor
        elif value.numel() > INLINE_VALUES:
            stored[name] = value.to(torch.uint8) if value.dtype == torch.bool else value
        records[name] = record
    return records, stored


def reference_failure(architecture, model, prompt, images, patched):
    """What the unpatched reference does on a case that needs a patch."""
    try:
        result = run(architecture, model, architecture.inputs(prompt, images))
    except Exception as error:  # whatever it is, it is the finding
        return f"{type(error).__name__}: {error}"
    difference = float((result.logits_last - patched.logits_last).abs().max())
    if difference == 0:
        raise AssertionError("the reference accepts this case: it needs no patch")
    return f"wrong: the logits are off by {difference:.3f}"


def refusal(architecture, case, folder):
    """The record of a case that the reference refuses."""
    for name in case.images:
        pictures.write_model_picture(folder, name)
    try:
        prompt = architecture.prompt(case)
        architecture.inputs(prompt, [pictures.load(folder / name) for name in case.images])
    except Exception as error:  # whatever it is, it is the finding
        return {
            "name": case.name,
            "messages": case.messages,
            "images": [f"images/{name}" for name in case.images],
            **case.options,
            "error": f"{type(error).__name__}: {error}",
        }
    raise AssertionError(f"{case.name}: the reference accepts this case")


def record_case(architecture, model, case, folder, full):
    """One case: its JSON record and its tensors."""
    decoded = [pictures.write_model_picture(folder, name) for name in case.images]
    opened = [Image.open(folder / name) for name in case.images]
    images = [pictures.load(folder / name) for name in case.images]
    prompt = architecture.prompt(case)
    inputs = architecture.inputs(prompt, images, case.patch)
    ids = inputs["input_ids"][0].tolist()

    result = run(architecture, model, inputs)
    records, tensors = input_records(architecture, case, inputs, full)
    stops = stop_ids(model)
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
        "generated_text": architecture.decode(result.generated),
        "tensors": records,
        **case.options,
        **result.fields(),
        **architecture.notes(case, len(ids)),
    }
    spans = architecture.image_spans(ids, inputs)
    if spans is not None:
        record["image_spans"] = spans
    steps = NEW_TOKENS if case.trace else architecture.logit_steps
    tensors["logits_last"] = result.logits_last
    tensors["step_logits"] = result.step_logits[:steps]
    if case.patch:
        record["patched"] = case.patch
        record["reference_error"] = reference_failure(architecture, model, prompt, images, result)
    if case.trace:
        tensors["hidden_states_last_token"] = result.hidden_last
        with architecture.trace() as inner, torch.no_grad():
            extra = architecture.model_inputs(inputs, len(ids))
            reference = architecture.reference(model, inputs)
            reference(input_ids=inputs["input_ids"].clone(), **extra)
        tensors.update(inner)
    for suffix, forced in architecture.modes(case, len(ids)).items():
        with forced:
            other = run(architecture, model, inputs)
        record.update(other.fields("_" + suffix))
        if case.trace or architecture.modes_change_logits:
            tensors["logits_last_" + suffix] = other.logits_last
            tensors["step_logits_" + suffix] = other.step_logits[:steps]
    architecture.finish(record)
    for image in opened:
        image.close()
    return record, {f"{case.name}/{name}": value for name, value in tensors.items()}


def stop_ids(model):
    """The ids that end an answer, as a list."""
    ids = model.generation_config.eos_token_id
    return ids if isinstance(ids, list) else [ids]


def check_tokenizer(architecture, out, cases, records):
    """The plain tokenizer file, which is all a server has, agrees with the processor."""
    for case, record in zip(cases, records, strict=True):
        if case.images:
            continue
        if architecture.encode(out, case, record["prompt"]) != record["input_ids"]:
            raise AssertionError(f"{case.name}: the written files tokenise differently")


def write_json(path, value, indent=2):
    """Sorted, pretty JSON with a final newline."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, sort_keys=True)
    Path(path).write_text(text + "\n", encoding="utf-8")


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
    architecture.save(model, out)

    records, tensors = [], {}
    cases = architecture.cases()
    for case in cases:
        record, stored = record_case(architecture, model, case, out / "images", full)
        records.append(record)
        tensors.update(stored)
        print(summary(record))
    check_tokenizer(architecture, out, cases, records)

    golden = {
        "arch": architecture.name,
        "seed": seed,
        **versions(),
        "dtype": "float32 (weights are bf16-representable)",
        "attn": "eager",
        "stop_ids": stop_ids(model),
        "max_new_tokens": NEW_TOKENS,
        "cases": records,
        **architecture.header,
    }
    refused = [refusal(architecture, case, out / "images") for case in architecture.refused()]
    if refused:
        golden["refused"] = refused
    write_json(out / "golden.json", golden, indent=1)
    architecture.extras(out)
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
