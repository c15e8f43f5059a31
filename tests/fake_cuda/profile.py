#!/usr/bin/env python3
"""Holds the formulas of the memory plan against what the fake driver has seen in use.

usage: profile.py BINARY FAKE [--dtype f32] [--tokens 96] --model FOLDER... [SERVER ARGUMENTS]

BINARY was built with `--features cuda`, FAKE is what build.sh made for it. Starts the server with
`--device cuda` on a driver with memory pools: it then takes the largest step, here of a few tokens, and
the largest picture, and plans with the larger of what that took and of what a formula says. The
formulas are to be upper bounds: fails where more was in use. Workspaces of a card's own libraries
are not part of it. Prints a line per model. Standard library only.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import compare

PARTS = {"step": "step_activations", "encoder": "encoder_workspace"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("fake", type=pathlib.Path)
    parser.add_argument("--dtype", default="f32", help="of the weights")
    parser.add_argument("--tokens", type=int, default=96, help="of the largest step")
    parser.add_argument("--model", action="append", required=True)
    options, options.server = parser.parse_known_args()
    return options


def told(options, model):
    """What the server's log says until it serves, an object for each line."""
    command = [options.binary, "serve", "--host", "127.0.0.1", "--port", "0", "--log-format", "json"]
    command += ["--device", "cuda", "--dtype", options.dtype, "--kv-cache-memory", "64MiB"]
    command += ["--max-num-batched-tokens", str(options.tokens), *compare.named(model), *options.server]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(options.fake.resolve()),
        "FAKE_CUDA_POOLS": "1",
    }
    pipe = subprocess.PIPE
    server = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
    for line in server.stdout:
        if line.startswith("ready"):
            break
    server.terminate()
    log = server.communicate()[1]
    if server.returncode != 0:
        sys.exit(f"{model}: the server ended with {server.returncode}: {log}")
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def main():
    """Starts each model, and compares."""
    options = arguments()
    status = 0
    for model in options.model:
        lines = told(options, model)
        seen = next(line for line in lines if "largest step" in line["message"])
        planned = {line["part"]: line for line in lines if "part" in line}
        shown = []
        for name, part in PARTS.items():
            took, plan = seen[name], planned[part]
            # A plan says what it took from a formula that was not exceeded.
            if took == 0 or plan["known"] != "formula":
                status = 1
            share = f"{100 * took / plan['bytes']:.0f} %"
            shown.append(f"{name} {took} of {plan['bytes']} bytes ({share}, {plan['known']})")
        print(f"{model} {options.dtype}: {', '.join(shown)}", flush=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
