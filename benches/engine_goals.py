#!/usr/bin/env python3
"""What the engine is for, measured from the outside on a running server, as ratios.

    python3 benches/engine_goals.py --url http://127.0.0.1:8000 [--only streams,picture,gaps,scrape]

streams   tokens per second of 8 streams together against those of one
picture   time to the first token of a question about a picture that was asked about before,
          against that of a new one
gaps      99th percentile of the gaps between tokens of running streams while a prompt with four
          new pictures arrives, against their median
scrape    time that `/metrics` takes, idle and under load, in milliseconds

Streams and pictures are random, so that no cache helps where none should. Rounds are interleaved
and medians taken. Standard library only.
"""

import argparse
import base64
import random
import statistics
import struct
import threading
import time
import zlib

from http_load import Server, one_request, percentile

WORDS = [
    "stone",
    "river",
    "lamp",
    "green",
    "seven",
    "house",
    "cloud",
    "paper",
    "window",
    "garden",
    "silver",
    "engine",
]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", help="bearer key")
    parser.add_argument("--only", default="streams,picture,gaps,scrape")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48, help="of each stream")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--running", type=int, default=4, help="streams that pictures interrupt")
    parser.add_argument("--size", default="640x480", help="of pictures")
    parser.add_argument("--ids", help="FIRST:LAST, the only tokens of answers: for random weights")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    return parser.parse_args()


def png(rng, width, height):
    """Noise in squares of 16 pixels: neither flat nor random in every pixel."""
    squares = [
        [bytes(rng.randrange(256) for _ in range(3)) * 16 for _ in range(width // 16 + 1)]
        for _ in range(height // 16 + 1)
    ]
    rows = (b"\0" + b"".join(squares[y // 16])[: 3 * width] for y in range(height))

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(rows), 1)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


class Bench:
    def __init__(self, options):
        self.options = options
        self.server = Server(options.url, options.key, 1200)
        self.model = self.server.first_model()
        self.rng = random.Random(options.seed)
        self.width, self.height = map(int, options.size.split("x"))

    def body(self, pictures=(), max_tokens=1):
        question = " ".join(self.rng.choices(WORDS, k=12))
        content = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
        first, last = map(int, (self.options.ids or "0:0").split(":"))
        return {
            "model": self.model,
            **({"allowed_token_ids": list(range(first, last + 1))} if last else {}),
            "messages": [
                {"role": "user", "content": [*content, {"type": "text", "text": question}]}
            ],
            "temperature": 0,
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "skip_special_tokens": False,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def picture(self):
        data = base64.b64encode(png(self.rng, self.width, self.height)).decode()
        return f"data:image/png;base64,{data}"

    def together(self, bodies):
        """All requests at once; what `one_request` gives for each."""
        results = [None] * len(bodies)

        def ask(index):
            results[index] = one_request(self.server, bodies[index])

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(bodies))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if None in results:
            raise SystemExit("a request failed")
        return results

    def rate(self, streams):
        """Tokens per second from the first token on, of all streams together."""
        bodies = [self.body(max_tokens=self.options.tokens) for _ in range(streams)]
        return sum((tokens - 1) / took for _, _, tokens, took in self.together(bodies))

    def streams(self):
        count = self.options.streams
        rounds = [(self.rate(1), self.rate(count)) for _ in range(self.options.rounds)]
        one, many = (statistics.median(column) for column in zip(*rounds))
        print(f"streams: one {one:.1f} tok/s, {count} together {many:.1f} tok/s: {many / one:.2f}x")

    def first_token(self, pictures):
        return one_request(self.server, self.body(pictures))[0]

    def pictures(self):
        pairs = []
        for _ in range(self.options.rounds):
            picture = [self.picture()]
            pairs.append((self.first_token(picture), self.first_token(picture)))
        new, known = (statistics.median(column) for column in zip(*pairs))
        print(
            f"picture: new {new:.3f} s, known {known:.3f} s to the first token: {known / new:.3f}x"
        )

    def gaps(self):
        """Streams run until the pictures' answer is there; their gaps are told apart by then."""
        stop = threading.Event()
        stamps = [[] for _ in range(self.options.running)]

        def stream(mine):
            body = self.body(max_tokens=2000)
            connection, response = self.server.open("POST", "/v1/chat/completions", body)
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {response.read(300)!r}")
            for line in response:
                if b'"content"' in line:
                    mine.append(time.perf_counter())
                if stop.is_set():
                    break
            connection.close()

        threads = [threading.Thread(target=stream, args=(mine,)) for mine in stamps]
        for thread in threads:
            thread.start()
        while min(len(mine) for mine in stamps) < 25:
            if not all(thread.is_alive() for thread in threads):
                raise SystemExit("a stream ended too early")
            time.sleep(0.05)
        begin = time.perf_counter()
        first = self.first_token([self.picture() for _ in range(4)])
        end = time.perf_counter()
        stop.set()
        for thread in threads:
            thread.join()

        def between(since, until):
            pairs = [(a, b) for mine in stamps for a, b in zip(mine[3:], mine[4:])]
            return [b - a for a, b in pairs if b > since and a < until]

        before, during = between(0, begin), between(begin, end)
        alone, median, worst = (
            statistics.median(before),
            statistics.median(during),
            percentile(during, 0.99),
        )
        print(
            f"gaps: median {alone * 1e3:.0f} ms before; while four pictures arrive in {first:.1f} s "
            f"median {median * 1e3:.0f}, p99 {worst * 1e3:.0f}, most {max(during) * 1e3:.0f} ms of "
            f"{len(during)}: p99 is {worst / alone:.2f}x the median before, "
            f"{worst / median:.2f}x their own"
        )

    def scrape_times(self, count):
        times = []
        connection = self.server.connection(self.server.address, timeout=60)
        for _ in range(count):
            begin = time.perf_counter()
            connection.request("GET", self.server.prefix + "/metrics", headers=self.server.headers)
            connection.getresponse().read()
            times.append(1e3 * (time.perf_counter() - begin))
        connection.close()
        return times

    def scrape(self):
        idle = self.scrape_times(300)
        bodies = [self.body(max_tokens=self.options.tokens) for _ in range(self.options.streams)]
        load = threading.Thread(target=self.together, args=(bodies,))
        load.start()
        busy = self.scrape_times(100)
        load.join()
        for name, times in (("idle", idle), ("under load", busy)):
            median, worst = statistics.median(times), percentile(times, 0.99)
            print(f"scrape: {name} median {median:.2f} ms, p99 {worst:.2f} ms, there and back")


def main():
    options = arguments()
    bench = Bench(options)
    one_request(bench.server, bench.body(max_tokens=2))  # warms up, and fails early
    parts = {
        "streams": bench.streams,
        "picture": bench.pictures,
        "gaps": bench.gaps,
        "scrape": bench.scrape,
    }
    for name in options.only.split(","):
        parts[name]()


if __name__ == "__main__":
    main()
