#!/usr/bin/env python3
"""Counts what is launched for one layer of a decoder when one token is decoded.

usage: launches.py BINARY FAKE [--dtype bf16] [--limit N] [SERVER ARGUMENTS]

BINARY was built with `--features cuda`, FAKE is what build.sh made for it. Asks the embedded model
for a few tokens on the fake driver, whose trace tells every launch, products of matrices among
them; copies between host and device are none. A layer is what comes from one of its launches that
writes keys and values up to the same one of the next layer. Prints them, and fails where they are
more than the limit. Standard library only.
"""

import argparse
import json
import os
import pathlib
import re
import sys
import tempfile

import compare

LIMIT = 12
# Into pages of numbers, and of codes.
MARKS = ("qkv_rope_write", "write_codes")
CONFIG = compare.PROJECT / "models/tiny/config.json"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("fake", type=pathlib.Path)
    parser.add_argument("--dtype", default="bf16", help="of the weights")
    parser.add_argument("--limit", type=int, default=LIMIT, help="launches that a layer may take")
    options, options.server = parser.parse_known_args()
    return options


def traced(options):
    """The launches of a whole answer, each with the blocks of its grid's first dimension."""
    with tempfile.NamedTemporaryFile(mode="r", suffix=".trace") as trace:
        os.environ["FAKE_CUDA_TRACE"] = trace.name
        question = {"messages": compare.user(compare.text("What do you see?")), "max_tokens": 3}
        with compare.served(options, compare.EMBEDDED, "cuda") as url:
            compare.ask(url, {**question, "ignore_eos": True})
        return re.findall(r"^fake cuda: (\w+) <<<\(?(\d+)", trace.read(), re.MULTILINE)


def layers(launches, count):
    """The launches of the last decoded token's layers but the last one, which ends with the head."""
    marks = [i for i, (name, rows) in enumerate(launches) if name.startswith(MARKS) and rows == "1"]
    if len(marks) < count:
        sys.exit(f"{len(marks)} launches of {' or '.join(MARKS)} for one token, not one for each of {count} layers")
    marks = marks[-count:]
    return [[name for name, _ in launches[a:b]] for a, b in zip(marks, marks[1:])]


def main():
    options = arguments()
    count = json.loads(CONFIG.read_text())["num_hidden_layers"]
    found = layers(traced(options), count)
    most = max(found, key=len)
    print(f"launches of a layer for one token, from its {most[0]} on:")
    for name in most:
        print(f"  {name}")
    print(f"{len(most)} launches, {options.limit} are allowed; {len(found)} layers were counted")
    sys.exit(1 if len(most) > options.limit else 0)


if __name__ == "__main__":
    main()
