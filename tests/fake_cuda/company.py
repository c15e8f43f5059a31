#!/usr/bin/env python3
"""Answers in company on the fake driver: the same as alone on the CPU, whoever comes and goes.

usage: company.py BINARY FAKE [--dtype f32] [--cases N] [--model FOLDER]... [SERVER ARGUMENTS]

With prompts in chunks, several requests at once and streams that are given up in between, asks
everything twice: the second time what was computed for the first is found again. Asks for no log
probabilities, so that a kernel chooses the tokens and the logits stay where they are. Fails where a text
is not the CPU's, nothing was found again, or the server does not notice who left. Standard library
only.
"""

import concurrent.futures
import http.client
import json
import re
import sys
import time
import urllib.parse
import urllib.request

import compare

CHUNK = ["--max-prefill-chunk", "48"]
LEAVING = 3


def ask(url, body):
    """The answer's text."""
    body = {"model": "test", "temperature": 0, **body}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=compare.PATIENCE) as response:
        return json.load(response)["choices"][0]["message"]["content"]


def leave(url, body):
    """Begins to read a stream, and goes."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=compare.PATIENCE)
    body = {**body, "model": "test", "stream": True, "max_tokens": 200, "ignore_eos": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    assert response.readline().startswith(b"data: "), response.status
    connection.close()


def metric(url, pattern):
    """The value of the first metric that matches."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=compare.PATIENCE) as response:
        found = re.search(rf"^{pattern} (\S+)$", response.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0


def answers(options, model, device, requests, leaving):
    """All texts of two rounds, and how many tokens of the second were found again."""
    with (
        compare.served(options, model, device) as url,
        concurrent.futures.ThreadPoolExecutor(options.at_once + leaving) as pool,
    ):
        gone = [pool.submit(leave, url, requests[i % len(requests)][1]) for i in range(leaving)]
        hits = []
        texts = []
        for _ in range(2):
            texts += pool.map(lambda request: ask(url, request[1]), requests)
            hits.append(metric(url, r"vllm:prefix_cache_hits_total\{[^}]*\}"))
        for one in gone:
            one.result()
        deadline = time.monotonic() + 60
        while metric(url, r"vllm:num_requests_running\{[^}]*\}"):
            if time.monotonic() > deadline:
                sys.exit("a minute after the last answer requests are still running")
            time.sleep(0.1)
        aborted = metric(url, r'vllm:request_success_total\{[^}]*finished_reason="abort"[^}]*\}')
        if aborted != leaving:
            sys.exit(f"{leaving} clients left, {aborted:.0f} were noticed")
    return texts, int(hits[1] - hits[0])


def main():
    options = compare.arguments()
    options.server += CHUNK
    different = again = 0
    for model in options.model or [compare.EMBEDDED]:
        requests = compare.requests_of(options, model)
        print(f"{model}, {options.dtype}, in company: {len(requests)} requests twice, {LEAVING} given up")
        expected, _ = answers(options, model, "cpu", requests, 0)
        given, found = answers(options, model, "cuda", requests, LEAVING)
        for (name, _), ours, theirs in zip([*requests, *requests], expected, given):
            if ours != theirs:
                different += 1
                print(f"  {name}\n    cpu:  {ours!r}\n    cuda: {theirs!r}")
        again += found
        print(f"  in company {len(given) - different} of {len(given)} answers equal, {found} tokens found again")
    if not again:
        sys.exit("nothing was found again")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
