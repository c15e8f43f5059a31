#!/usr/bin/env python3
"""Load on an OpenAI-compatible server, from the outside: closed loop, streamed answers.

    python3 benches/http_load.py --url http://127.0.0.1:8000 --concurrency 1,8 --requests 16 \
        --picture photo.png --prompt 'Describe the picture.' --max-tokens 64

Each of `--concurrency` users sends its next request when it has its last answer. Printed per
concurrency, as a table and with --json as one line each: time to first token (TTFT), gap between
tokens (ITL), tokens per second of one stream and of all, requests per second, errors. Standard
library only. Times are medians and 99th percentiles in milliseconds.
"""

import argparse
import base64
import http.client
import json
import mimetypes
import queue
import statistics
import threading
import time
import urllib.parse


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", help="default: the first that the server lists")
    parser.add_argument("--key", help="bearer key")
    parser.add_argument("--concurrency", default="1,4,8")
    parser.add_argument("--requests", type=int, default=16, help="per concurrency")
    parser.add_argument("--prompt", default="Describe the picture in detail.")
    parser.add_argument("--picture", help="file, sent as data URI with every request")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--timeout", type=float, default=600, help="seconds per request")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


class Server:
    """One endpoint and the headers that it wants."""

    def __init__(self, url, key, timeout):
        parts = urllib.parse.urlsplit(url)
        self.address, self.prefix, self.timeout = parts.netloc, parts.path.rstrip("/"), timeout
        secure = parts.scheme == "https"
        self.connection = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self.headers = {"content-type": "application/json"}
        if key:
            self.headers["authorization"] = f"Bearer {key}"

    def open(self, method, path, body=None):
        connection = self.connection(self.address, timeout=self.timeout)
        data = json.dumps(body) if body is not None else None
        connection.request(method, self.prefix + path, data, self.headers)
        return connection, connection.getresponse()

    def first_model(self):
        connection, response = self.open("GET", "/v1/models")
        try:
            return json.load(response)["data"][0]["id"]
        finally:
            connection.close()


def one_request(server, body):
    """Seconds to the first token, the gaps after it, and the tokens of one streamed answer."""
    begin = time.perf_counter()
    connection, response = server.open("POST", "/v1/chat/completions", body)
    try:
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {response.read(300)!r}")
        stamps, tokens = [], 0
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(chunk["error"])
            if any(choice["delta"].get("content") for choice in chunk["choices"]):
                stamps.append(time.perf_counter())
            if chunk.get("usage"):
                tokens = chunk["usage"]["completion_tokens"]
        if not stamps:
            raise RuntimeError("no token arrived")
        gaps = [later - earlier for earlier, later in zip(stamps, stamps[1:])]
        return stamps[0] - begin, gaps, tokens, stamps[-1] - stamps[0]
    finally:
        connection.close()


def run(server, body, users, requests):
    """Closed loop of `users` over `requests` requests."""
    todo, results, errors = queue.SimpleQueue(), [], []
    for _ in range(requests):
        todo.put(body)

    def user():
        while True:
            try:
                results.append(one_request(server, todo.get_nowait()))
            except queue.Empty:
                return
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                errors.append(str(error))

    threads = [threading.Thread(target=user) for _ in range(users)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - begin
    if not results:
        raise SystemExit(f"every request failed, the first with: {errors[0]}")
    first = [result[0] for result in results]
    gaps = [gap for result in results for gap in result[1]] or [0.0]
    tokens = sum(result[2] for result in results)
    rates = [(result[2] - 1) / result[3] for result in results if result[3] > 0] or [0.0]
    return {
        "concurrency": users,
        "requests": len(results),
        "errors": len(errors),
        "ttft_ms": 1e3 * statistics.median(first),
        "ttft_p99_ms": 1e3 * percentile(first, 0.99),
        "itl_ms": 1e3 * statistics.median(gaps),
        "itl_p99_ms": 1e3 * percentile(gaps, 0.99),
        "stream_tokens_per_s": statistics.median(rates),
        "all_tokens_per_s": tokens / wall,
        "requests_per_s": len(results) / wall,
    }


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main():
    options = arguments()
    server = Server(options.url, options.key, options.timeout)
    content = [{"type": "text", "text": options.prompt}]
    if options.picture:
        kind = mimetypes.guess_type(options.picture)[0] or "image/png"
        with open(options.picture, "rb") as file:
            url = f"data:{kind};base64,{base64.b64encode(file.read()).decode()}"
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    body = {
        "model": options.model or server.first_model(),
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": options.max_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    one_request(server, body)  # warms caches up, and fails early
    header = None
    for users in map(int, options.concurrency.split(",")):
        row = run(server, body, users, options.requests)
        if options.json:
            print(json.dumps(row), flush=True)
            continue
        if header is None:
            header = "  ".join(f"{name:>19}" for name in row)
            print(header)
        print("  ".join(f"{value:19.1f}" for value in row.values()), flush=True)


if __name__ == "__main__":
    main()
