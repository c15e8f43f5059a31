#!/usr/bin/env python3
"""A crowd of every kind of request on one server, and its books afterwards.

    tests/soak/soak.py BINARY [--requests 20000] [--users 24] [--seed 1]

Starts `BINARY serve` with the embedded model, few KV blocks and short limits, so that requests
wait, step back and time out, and sends text, pictures (new and repeated), several answers to one
prompt, formats, cancellations, requests that take too long, and bad ones. Checks that

- every request gets the answer of its kind, and none is lost or hangs;
- greedy answers to the same question are the same, whoever else is there;
- afterwards nothing runs, waits or holds a block, and the counters account for every request;
- resident memory does not grow after warming up.

Standard library only. Ends with status 0 if all of it held.
"""

import argparse
import base64
import collections
import http.client
import json
import random
import re
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib

WARM_SHARE = 0.3
MEMORY_SLACK = 0.05
PATIENCE = 120


def png(rng, width, height):
    row = lambda: b"\0" + bytes(rng.randrange(256) for _ in range(3)) * width  # noqa: E731
    rows = b"".join(row() for _ in range(height))

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


class Server:
    def __init__(self, binary):
        arguments = [binary, "serve", "--port", "0", "--host", "127.0.0.1", "--log-level", "error"]
        arguments += ["--kv-cache-memory", "4MiB", "--max-model-len", "512", "--max-num-seqs", "16"]
        arguments += ["--max-queue", "64", "--request-timeout", "20", "--speculative-tokens", "3"]
        arguments += ["--encoder-cache-memory", "1MiB", "--image-cache-memory", "4MiB"]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        self.address = None
        for line in self.process.stdout:
            found = re.search(r"http://([0-9.:]+)", line)
            self.address = found.group(1) if found else self.address
            if line.startswith("ready"):
                break
        else:
            raise SystemExit("the server did not start")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def connect(self):
        return http.client.HTTPConnection(self.address, timeout=PATIENCE)

    def post(self, body):
        """Status and body."""
        connection = self.connect()
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(
            "POST", "/v1/chat/completions", data, {"content-type": "application/json"}
        )
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response.status, text

    def metrics(self):
        connection = self.connect()
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        values = collections.Counter()
        for line in text.splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name.split("{")[0]] += float(value)
        return values

    def resident(self):
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * 4096


class Soak:
    def __init__(self, server, options):
        self.server, self.options = server, options
        rng = random.Random(options.seed)
        self.model = "vlmd/tiny"
        self.pictures = [png(rng, rng.randrange(20, 200), rng.randrange(20, 200)) for _ in range(8)]
        self.questions = ["What colour is the circle?", "How many squares?", "What does it say?"]
        self.lock = threading.Lock()
        self.kinds, self.faults = collections.Counter(), []
        self.answers, self.greedy = {}, 0
        self.started = self.choices = 0
        self.memory = []

    def fault(self, text):
        with self.lock:
            self.faults.append(text)

    def body(self, rng, pictures=(), **more):
        text = rng.choice(self.questions)
        content = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
        content.append({"type": "text", "text": text})
        message = {"role": "user", "content": content}
        return {"model": self.model, "messages": [message], "max_tokens": 16, **more}

    def ask(self, rng):
        kinds = {
            self.text: 6,
            self.repeated: 5,
            self.fresh: 2,
            self.several: 2,
            self.streamed: 4,
            self.formatted: 3,
            self.cancelled: 3,
            self.late: 0.05,
            self.bad: 3,
            self.scored: 1,
        }
        left_out = self.options.without.split(",")
        kinds = {kind: share for kind, share in kinds.items() if kind.__name__ not in left_out}
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        kind(rng)
        with self.lock:
            self.kinds[kind.__name__] += 1

    def complete(self, kind, body, statuses=(200,)):
        """A whole answer. Where the server is full, tries again as clients do."""
        for _ in range(200):
            status, text = self.server.post(body)
            if status != 503:
                break
            time.sleep(0.05)
        if status not in statuses:
            self.fault(f"{kind}: {status} {text[:300]!r}")
            return None
        return json.loads(text)

    def same(self, body, answer):
        """Greedy answers must not depend on company."""
        if answer is None:
            return
        key = json.dumps(body, sort_keys=True)
        text = answer["choices"][0]["message"]["content"]
        with self.lock:
            self.greedy += 1
            before = self.answers.setdefault(key, text)
        if before != text:
            self.fault(f"another answer: {before!r} {text!r}")

    def text(self, rng):
        body = self.body(rng, temperature=0, max_tokens=rng.choice([1, 8, 40]))
        self.same(body, self.complete("text", body))

    def repeated(self, rng):
        body = self.body(rng, rng.choices(self.pictures, k=rng.choice([1, 1, 2])), temperature=0)
        self.same(body, self.complete("repeated", body))

    def fresh(self, rng):
        self.complete("fresh", self.body(rng, [png(rng, 40, 30)], seed=1))

    def several(self, rng):
        count = rng.randrange(2, 5)
        body = self.body(rng, n=count, seed=7, max_tokens=rng.choice([8, 30]))
        answer = self.complete("several", body)
        if answer and len(answer["choices"]) != count:
            self.fault("several: another number of answers")

    def formatted(self, rng):
        schema = {
            "type": "object",
            "properties": {
                "colour": {"enum": ["red", "green", "blue"]},
                "count": {"type": "integer", "minimum": 0, "maximum": 9},
            },
            "required": ["colour", "count"],
            "additionalProperties": False,
        }
        form = {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": schema, "strict": True},
        }
        body = self.body(rng, [rng.choice(self.pictures)], response_format=form, max_tokens=60)
        answer = self.complete("formatted", body)
        if answer:
            document = json.loads(answer["choices"][0]["message"]["content"])
            if set(document) != {"colour", "count"}:
                self.fault(f"formatted: {document}")

    def scored(self, rng):
        body = self.body(rng, prompt_logprobs=1, logprobs=True, temperature=0, max_tokens=4)
        answer = self.complete("scored", body)
        if answer and len(answer["prompt_logprobs"]) != answer["usage"]["prompt_tokens"]:
            self.fault("scored: not one entry for each token")

    def stream(self, body, lines):
        connection = self.server.connect()
        data = json.dumps({**body, "stream": True})
        connection.request(
            "POST", "/v1/chat/completions", data, {"content-type": "application/json"}
        )
        response = connection.getresponse()
        seen = []
        if response.status == 200:
            for line in response:
                seen.append(line)
                if len(seen) >= lines:
                    break
        status = response.status
        connection.close()
        return status, seen

    def streamed(self, rng):
        body = self.body(rng, [rng.choice(self.pictures)], max_tokens=12)
        for _ in range(200):
            status, seen = self.stream(body, 10_000)
            if status != 503:
                break
            time.sleep(0.05)
        if status != 200 or b"data: [DONE]\n" not in seen:
            self.fault(f"streamed: {status} {seen[-2:]!r}")

    def cancelled(self, rng):
        """The client leaves before the first chunk, or after some."""
        body = self.body(rng, ignore_eos=True, max_tokens=300)
        status, _ = self.stream(body, rng.randrange(1, 12))
        if status not in (200, 503):
            self.fault(f"cancelled: {status}")

    def late(self, rng):
        """As many answers as a request may have, longer than its time allows."""
        body = self.body(rng, n=16, ignore_eos=True, max_tokens=420)
        status, text = self.server.post(body)
        if status not in (200, 503, 504):
            self.fault(f"late: {status} {text[:200]!r}")

    def bad(self, rng):
        good = self.body(rng)
        bodies = [
            b"{",
            b"[]",
            {**good, "temperature": 3},
            {**good, "model": "none"},
            {**good, "n": 0},
            {**good, "max_tokens": 10**6},
            {**good, "messages": []},
            self.body(rng, ["data:image/png;base64,AAAA"]),
            self.body(rng, self.pictures[:6]),
            {**good, "response_format": {"type": "json_schema"}},
            {**good, "guided_regex": "("},
        ]
        body = rng.choice(bodies)
        status, text = self.server.post(body)
        if status not in (400, 404, 503) or "error" not in json.loads(text):
            self.fault(f"bad: {status} {text[:200]!r} for {str(body)[:200]}")

    def user(self, number):
        rng = random.Random(self.options.seed * 1000 + number)
        while True:
            with self.lock:
                if self.started >= self.options.requests or len(self.faults) > 20:
                    return
                self.started += 1
                if self.started % 500 == 0:
                    self.memory.append(self.server.resident())
                    print(f"{self.started} {self.memory[-1] >> 20} MiB", flush=True)
            try:
                self.ask(rng)
            except Exception as error:  # noqa: BLE001: whatever it is, it is reported
                self.fault(f"{type(error).__name__}: {error}")

    def run(self):
        users = [threading.Thread(target=self.user, args=(n,)) for n in range(self.options.users)]
        for user in users:
            user.start()
        for user in users:
            user.join()

    def settle(self):
        """Waits until the server is idle, and holds its books against ours."""
        gauges = [
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
            "vllm:kv_cache_usage_perc",
        ]
        end = time.time() + PATIENCE
        while time.time() < end:
            metrics = self.server.metrics()
            if not any(metrics[name] for name in gauges):
                break
            time.sleep(0.2)
        else:
            self.fault(f"not idle: {[(name, metrics[name]) for name in gauges]}")
        submitted = metrics["vlmd:answers_submitted_total"]
        ended = metrics["vllm:request_success_total"]
        if submitted != ended or submitted == 0:
            self.fault(f"{submitted} answers were taken and {ended} ended")
        return metrics

    def check_memory(self):
        warm = self.memory[int(len(self.memory) * WARM_SHARE) :]
        if len(warm) < 6:
            return
        third = len(warm) // 3
        early, late = statistics.median(warm[:third]), statistics.median(warm[-third:])
        print(
            f"memory: {early / 2**20:.0f} MiB after warming up, {late / 2**20:.0f} MiB at the end"
        )
        if late > early * (1 + MEMORY_SLACK):
            self.fault(f"memory grew from {early} to {late} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without", default="", help="kinds of requests to leave out")
    options = parser.parse_args()
    server = Server(options.binary)
    try:
        begin = time.time()
        soak = Soak(server, options)
        soak.run()
        metrics = soak.settle()
        soak.check_memory()
        seconds = time.time() - begin
        print(f"{soak.started} requests in {seconds:.0f} s: {dict(soak.kinds)}")
        print(f"{soak.greedy} greedy answers to {len(soak.answers)} questions were the same")
        for name in ("num_preemptions", "prefix_cache_hits", "spec_decode_num_accepted_tokens"):
            print(f"{name}: {metrics[f'vllm:{name}_total']:.0f}")
    finally:
        server.process.terminate()
        status = server.process.wait(PATIENCE)
    if status != 0:
        soak.fault(f"the server ended with status {status}")
    for fault in soak.faults[:20]:
        print(f"FAULT {fault}")
    sys.exit(bool(soak.faults))


if __name__ == "__main__":
    main()
