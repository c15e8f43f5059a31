#!/usr/bin/env python3
"""How long the host takes for a decode step on CUDA, with a card that does nothing.

    python3 benches/launch_overhead.py BINARY FAKE --at-once 1,8 --rounds 5

A card waits while the host prepares what it launches, so a step never takes less than that. BINARY
was built with `--features cuda`, FAKE is what tests/fake_cuda/build.sh made for it: with
FAKE_CUDA_IDLE its launches return at once, and all that is measured is vlmd, candle and cudarc. A
real driver's own time for each launch comes on top, and is not known here.

The model has as many layers as Phi-3.5-vision (32, repeated from a golden checkpoint) and small ones:
their size is the card's business. Printed per number of sequences side by side: the launches of a
step, and the microseconds of one, the median of several rounds. Standard library only.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

PROJECT = pathlib.Path(__file__).resolve().parents[1]
GOLDEN = PROJECT / "tests/golden/phi3_v"
LAYER = re.compile(r"model\.layers\.(\d+)\.")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("fake", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--at-once", default="1,8", help="sequences side by side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=1000, help="of one answer")
    return parser.parse_args()


def deepened(folder, layers):
    """The golden checkpoint with its first decoder layer so many times."""
    for file in GOLDEN.iterdir():
        if file.suffix == ".json" and not file.name.startswith("golden"):
            shutil.copy(file, folder)
    config = json.loads((GOLDEN / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    data = (GOLDEN / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    begin = 8 + length
    header, body = {}, bytearray()
    for name, tensor in json.loads(data[8:begin]).items():
        found = LAYER.match(name)
        if name == "__metadata__" or (found and found.group(1) != "0"):
            continue
        first, last = tensor["data_offsets"]
        values = data[begin + first : begin + last]
        for number in range(layers if found else 1):
            at = [len(body), len(body) + len(values)]
            copy = f"model.layers.{number}.{name[found.end() :]}" if found else name
            header[copy] = {**tensor, "data_offsets": at}
            body += values
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(packed)) + packed + body)


@contextlib.contextmanager
def served(options, folder, trace=None):
    """Runs the server and gives its URL once it is ready."""
    command = [options.binary, "serve", "--host", "127.0.0.1", "--port", "0", "--log-level", "warn"]
    command += ["--model", folder, "--served-model-name", "test", "--device", "cuda"]
    command += ["--kv-cache-memory", "256MiB", "--no-memory-profile", "--no-prefix-cache"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(options.fake.resolve())}
    environment |= {"FAKE_CUDA_IDLE": "1"} | ({"FAKE_CUDA_TRACE": trace} if trace else {})
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    url = None
    try:
        for line in server.stdout:
            if found := re.search(r"http://\S+", line):
                url = found.group()
            if line.startswith("ready"):
                break
        else:
            sys.exit("the server ended")
        yield url
    finally:
        server.terminate()
        server.communicate()


def answer(url, tokens):
    """Has one answer written."""
    body = {"model": "test", "prompt": "Tell me", "max_tokens": tokens, "temperature": 0}
    data = json.dumps({**body, "ignore_eos": True}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/completions", data, headers)
    with urllib.request.urlopen(request) as response:
        written = json.load(response)["usage"]["completion_tokens"]
    assert written == tokens, written


def launches(options, folder):
    """The launches of a step, by kernel: what one more token adds."""
    counts = []
    for tokens in (10, 11):
        with tempfile.NamedTemporaryFile(mode="r", suffix=".trace") as trace:
            with served(options, folder, trace.name) as url:
                answer(url, tokens)
            found = re.findall(r"^fake cuda: (\w+) ", trace.read(), re.MULTILINE)
            counts.append(collections.Counter(found))
    return counts[1] - counts[0]


def main():
    """Measures, and prints."""
    options = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        deepened(folder, options.layers)
        counted = launches(options, folder)
        kernels = ", ".join(f"{count} {kernel}" for kernel, count in counted.most_common())
        print(f"{counted.total()} launches of a step with one sequence: {kernels}", flush=True)
        with served(options, folder) as url:
            for at_once in map(int, options.at_once.split(",")):
                times = []
                with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
                    for _ in range(options.rounds + 1):
                        begin = time.perf_counter()
                        list(pool.map(lambda _: answer(url, options.tokens), range(at_once)))
                        times.append((time.perf_counter() - begin) / options.tokens * 1e6)
                # The first one warms up.
                middle = statistics.median(times[1:])
                least, most = min(times[1:]), max(times[1:])
                print(f"{at_once} at once: {middle:.0f} us a step ({least:.0f} to {most:.0f})", flush=True)


if __name__ == "__main__":
    main()
