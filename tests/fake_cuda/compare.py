#!/usr/bin/env python3
"""Greedy answers of one binary with `--device cuda` on the fake driver and with `--device cpu`.

usage: compare.py BINARY FAKE [--dtype f32] [--tie GAP] [--at-once 4] [--cases N]
                  [--model FOLDER]... [SERVER ARGUMENTS]

BINARY was built with `--features cuda`, FAKE is what build.sh made for it. Asks the embedded
model about its examples, then golden checkpoints for their cases. Prints a line per model and
one per answer that differs, and fails if any does, except where the two choices are within the
gap of a tie by the CPU's log probabilities: either may come first. Standard library only.
"""

import argparse
import base64
import concurrent.futures
import contextlib
import json
import math
import mimetypes
import os
import pathlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

PROJECT = pathlib.Path(__file__).resolve().parents[2]
EMBEDDED = "vlmd/tiny"
GOLDENS = [PROJECT / "tests/golden/phi3_v", PROJECT / "tests/golden/phi3_v_crops16"]
CANDIDATES = 20  # Of each token, with their log probabilities.
PATIENCE = 3600  # Seconds for one answer: a CUDA thread is a fiber on one core.


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("fake", type=pathlib.Path)
    parser.add_argument("--dtype", default="f32", help="of the weights on both devices")
    parser.add_argument("--tie", type=float, default=0, help="of log probabilities; default: none")
    parser.add_argument("--at-once", type=int, default=4, help="requests side by side")
    parser.add_argument("--cases", type=int, help="of each golden, evenly spread; default: all")
    parser.add_argument("--model", action="append", help="default: the embedded one and Phi-3's goldens")
    options, options.server = parser.parse_known_args()
    return options


def picture(path):
    kind = mimetypes.guess_type(path.name)[0]
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}


def text(words):
    return {"type": "text", "text": words}


def user(*parts):
    return [{"role": "user", "content": list(parts)}]


def embedded_requests():
    """Every example, then a prompt without a picture, with two, and of two turns."""
    folder = PROJECT / "models/tiny/examples"
    examples = json.loads((folder / "examples.json").read_text())
    requests = [
        (f"{e['image']}: {e['question']}", user(picture(folder / e["image"]), text(e["question"])))
        for e in examples
    ]
    first = picture(folder / examples[0]["image"])
    last = picture(folder / examples[-1]["image"])
    turn = user(first, text(examples[0]["question"]))
    answer = {"role": "assistant", "content": examples[0]["answer"]}
    requests += [
        ("text only", user(text("What can you tell me?"))),
        ("two pictures", user(first, last, text("Describe what you see."))),
        ("two turns", [*turn, answer, *user(text(examples[1]["question"]))]),
    ]
    return [(name, {"messages": messages, "max_tokens": 64}) for name, messages in requests]


def golden_requests(folder):
    """Every case, for as many tokens as the reference wrote."""
    requests = []
    for case in json.loads((folder / "golden.json").read_text())["cases"]:
        messages = []
        pictures = iter(case["images"])
        shown = {}
        # Kosmos-2's cases are prompts.
        prompt = [*({"type": "image"} for _ in case["images"]), text(case["prompt"])]
        for message in case["messages"] or user(*prompt):
            parts = []
            if isinstance(message["content"], list):
                for part in message["content"]:
                    shows = part["type"] == "image"
                    parts.append(picture(folder / next(pictures)) if shows else part)
                messages.append({"role": message["role"], "content": parts})
                continue
            # Texts and tags by turns: `<|image_1|>` is the first picture wherever it stands.
            for piece in re.split(r"(<\|image_\d+\|>)", message["content"]):
                if piece.startswith("<|image_"):
                    file = shown[piece] = shown.get(piece) or next(pictures)
                    parts.append(picture(folder / file))
                elif words := piece.strip("\n"):
                    parts.append(text(words))
            messages.append({"role": message["role"], "content": parts})
        count = len(case["generated_ids"])
        requests.append((case["name"], {"messages": messages, "max_tokens": count, "ignore_eos": True}))
    return requests


def named(model):
    """The arguments that name a model to the server."""
    if (archive := pathlib.Path(model) / "neva.nemo").exists():
        return ["--model", archive, "--vision-tower", archive.with_name("clip")]
    return ["--model", model]


@contextlib.contextmanager
def served(options, model, device):
    """Runs the server and gives its URL once it is ready."""
    command = [options.binary, "serve", "--host", "127.0.0.1", "--port", "0", "--log-level", "warn"]
    command += ["--served-model-name", "test", "--max-images", "8", *named(model)]
    command += ["--device", device, "--dtype", options.dtype, "--kv-cache-memory", "256MiB"]
    # A step of 2048 tokens, which takes a simulated card minutes; see profile.py.
    command += ["--no-memory-profile"]
    command += options.server
    environment = {**os.environ, "LD_LIBRARY_PATH": str(options.fake.resolve())}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        url = None
        for line in server.stdout:
            print(f"  {device}: {line}", end="", flush=True)
            if found := re.search(r"http://\S+", line):
                url = found.group()
            if line.startswith("ready"):
                break
        else:
            sys.exit(f"the server with --device {device} ended")
        yield url
    finally:
        server.terminate()
        server.communicate()


def ask(url, body):
    """The answer's text and its tokens with their likeliest candidates."""
    body = {"model": "test", "temperature": 0, "logprobs": True, "top_logprobs": CANDIDATES, **body}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            choice = json.load(response)["choices"][0]
    except urllib.error.HTTPError as error:
        sys.exit(f"{error}: {error.read().decode()}")
    return choice["message"]["content"], choice["logprobs"]["content"]


def answers(options, model, device, requests):
    begin = time.monotonic()
    with (
        served(options, model, device) as url,
        concurrent.futures.ThreadPoolExecutor(options.at_once) as pool,
    ):
        given = list(pool.map(lambda request: ask(url, request[1]), requests))
    return given, time.monotonic() - begin


def gap(cpu, cuda):
    """How much likelier the CPU's choice is than the other, by the CPU's own numbers, where two
    answers part. What a rule forbids may be likelier than both. Several tokens are spelt alike,
    as parts of characters are no text: answers may have parted at an earlier one of those."""
    gaps = [math.inf]
    for ours, theirs in zip(cpu, cuda):
        alike = [c["logprob"] for c in ours["top_logprobs"] if c["token"] == theirs["token"]]
        if ours["token"] != theirs["token"]:
            gaps += [abs(ours["logprob"] - logprob) for logprob in alike[:1]]
            break
        gaps += [alike[0] - logprob for logprob in alike[1:2]]
    return min(gaps)


def compare(options, model, requests):
    """Prints what came out; gives the number of answers that differ."""
    print(f"{model}, {options.dtype}, {len(requests)} requests, {options.at_once} at once")
    cpu, _ = answers(options, model, "cpu", requests)
    cuda, seconds = answers(options, model, "cuda", requests)
    different = ties = tokens = 0
    largest = 0.0
    for (name, _), (ours, cpu_tokens), (theirs, cuda_tokens) in zip(requests, cpu, cuda):
        tokens += len(cpu_tokens)
        same = 0
        for one, other in zip(cpu_tokens, cuda_tokens):
            if one["token"] != other["token"]:
                break
            largest = max(largest, abs(one["logprob"] - other["logprob"]))
            same += 1
        if ours == theirs:
            continue
        apart = gap(cpu_tokens, cuda_tokens)
        if apart < options.tie:
            ties += 1
            continue
        different += 1
        print(f"  {name}: after {same} equal tokens, where the CPU's and its choice differ by {apart:.4f}")
        print(f"    cpu:  {ours!r}\n    cuda: {theirs!r}")
    print(
        f"  {len(requests) - different - ties} of {len(requests)} answers equal, "
        f"{ties} with a tie, {tokens} tokens, "
        f"log probabilities within {largest:.1e}, {seconds:.0f} s on the fake driver",
        flush=True,
    )
    return different


def requests_of(options, model):
    """What a model is asked: all that there is for it, or `--cases` of it."""
    if model == EMBEDDED:
        return embedded_requests()
    requests = golden_requests(pathlib.Path(model))
    if options.cases and options.cases < len(requests):
        count = options.cases
        requests = [requests[i * len(requests) // count] for i in range(count)]
    return requests


def main():
    options = arguments()
    models = options.model or [EMBEDDED, *map(str, GOLDENS)]
    different = 0
    for model in models:
        different += compare(options, model, requests_of(options, model))
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
