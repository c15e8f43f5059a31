#!/usr/bin/env python3
"""Starts a CUDA binary on a host without a card, or with none that it may see.

usage: no_card.py BINARY

By itself it must serve on the CPU, and say in one line of its log why. With `--device cuda` it must
end, with one line. Standard library only.
"""

import os
import re
import subprocess
import sys
import urllib.request

# Where there is a card, it is hidden.
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
PATIENCE = 60  # Seconds to load the embedded model.


def serve(binary, *arguments):
    """The server's process, on a free port."""
    command = [binary, "serve", "--host", "127.0.0.1", "--port", "0", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT)


def by_itself(binary):
    """Has it serve, and gives the line that says why it does so on the CPU."""
    server = serve(binary)
    url = None
    for line in server.stdout:
        if found := re.search(r"http://\S+", line):
            url = found.group()
        if line.startswith("ready"):
            break
    if url is None:
        sys.exit(f"it does not serve: {server.communicate(timeout=PATIENCE)[1]}")
    with urllib.request.urlopen(f"{url}/v1/health/ready", timeout=PATIENCE) as response:
        assert response.status == 200
    server.terminate()
    told = server.communicate(timeout=PATIENCE)[1]
    lines = [line for line in told.splitlines() if "serving on the CPU: " in line]
    if len(lines) != 1:
        sys.exit(f"it does not say once why it serves on the CPU: {told}")
    return lines[0].partition("serving on the CPU: ")[2]


def with_a_card(binary):
    """Asks for a card, and gives the line that it ends with."""
    server = serve(binary, "--device", "cuda", "--log-level", "warn")
    told = server.communicate(timeout=PATIENCE)[1].strip()
    if server.returncode == 0 or len(told.splitlines()) != 1 or not told.startswith("vlmd: "):
        sys.exit(f"--device cuda ends with {server.returncode} and {told!r}")
    return told.removeprefix("vlmd: ")


def main():
    """Does both, and prints the two lines."""
    (binary,) = sys.argv[1:]
    print(f"no card: serving on the CPU: {by_itself(binary)}")
    print(f"no card, --device cuda: {with_a_card(binary)}")


if __name__ == "__main__":
    main()
