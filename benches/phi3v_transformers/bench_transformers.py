#!/usr/bin/env python3
"""Times the reference implementation of Phi-3-vision on the CPU: one picture and a question.

    bench_transformers.py CHECKPOINT [--dtype bf16|f32] [--threads N] [--new-tokens N] [--runs N]

Prints one JSON object. `prefill` is the forward over the whole prompt, vision tower included;
`ttft_s`, the time to the first token, is picture processing and prefill together; `decode` counts
the cached steps after it. Of several runs the fastest counts. The checkpoint's remote code is
executed. Attention is the reference's eager one, as it has no other on the CPU.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Transformers copies remote code before it imports it; leave no trace in the home directory.
MODULES = tempfile.TemporaryDirectory(prefix="bench-modules-")
os.environ["HF_MODULES_CACHE"] = MODULES.name

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoModelForCausalLM, AutoProcessor, DynamicCache  # noqa: E402

DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


def picture(width, height):
    """Seeded noise, enlarged: neither flat nor random in every pixel."""
    rng = np.random.RandomState(0)
    coarse = rng.randint(0, 256, (24, 32, 3), dtype=np.uint8)
    return Image.fromarray(coarse, "RGB").resize((width, height), Image.Resampling.BICUBIC)


@torch.inference_mode()
def measure(model, processor, prompt, image, new_tokens):
    """One run: seconds for the processor, the prefill and the further tokens."""
    start = time.perf_counter()
    inputs = processor(prompt, [image], return_tensors="pt")
    processed = time.perf_counter()

    length = inputs["input_ids"].shape[1]
    cache = DynamicCache()
    logits = model(
        # The reference overwrites the ids of its placeholders.
        input_ids=inputs["input_ids"].clone(),
        pixel_values=inputs["pixel_values"].to(model.dtype),
        image_sizes=torch.as_tensor(inputs["image_sizes"]),
        past_key_values=cache,
        use_cache=True,
    ).logits
    token = logits[:, -1:].argmax(-1)
    prefilled = time.perf_counter()

    for step in range(new_tokens):
        logits = model(
            input_ids=token,
            position_ids=torch.tensor([[length + step]]),
            past_key_values=cache,
            use_cache=True,
        ).logits
        token = logits[:, -1:].argmax(-1)
    decoded = time.perf_counter()
    return length, processed - start, prefilled - processed, decoded - prefilled


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument("--text", default="What is shown in this image?")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(
        arguments.checkpoint,
        torch_dtype=DTYPES[arguments.dtype],
        trust_remote_code=True,
        _attn_implementation="eager",
    ).eval()
    processor = AutoProcessor.from_pretrained(arguments.checkpoint, trust_remote_code=True)
    load_s = time.perf_counter() - start

    prompt = f"<|user|>\n<|image_1|>\n{arguments.text}<|end|>\n<|assistant|>\n"
    image = picture(arguments.width, arguments.height)
    runs = [
        measure(model, processor, prompt, image, arguments.new_tokens)
        for _ in range(arguments.runs)
    ]
    length = runs[0][0]
    process_s, prefill_s, decode_s = (min(times) for times in list(zip(*runs, strict=True))[1:])
    report = {
        "checkpoint": arguments.checkpoint.name,
        "layers": model.config.num_hidden_layers,
        "dtype": arguments.dtype,
        "threads": arguments.threads,
        "runs": arguments.runs,
        "picture": [arguments.width, arguments.height],
        "prompt_tokens": length,
        "load_s": round(load_s, 3),
        "process_s": round(process_s, 3),
        "prefill_s": round(prefill_s, 3),
        "prefill_tokens_per_s": round(length / prefill_s, 3),
        "ttft_s": round(process_s + prefill_s, 3),
        "decode_tokens": arguments.new_tokens,
        "decode_s": round(decode_s, 3),
        "decode_tokens_per_s": round(arguments.new_tokens / decode_s, 3),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3),
        "torch": torch.__version__.partition("+")[0],
        "transformers": transformers.__version__,
        "machine": platform.machine(),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
