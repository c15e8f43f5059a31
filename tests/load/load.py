#!/usr/bin/env python3
"""Good clients among thousands of bad ones, and a shutdown under load.

    tests/load/load.py BINARY [--connections 2000] [--bad 1500] [--seconds 60] [--users 4]

Starts `BINARY serve` with the embedded model on loopback and measures the latency of good requests

1. alone: `--users` at a time, each with its own connection, while the other good connections are
   open and idle between rare probes;
2. beside `--bad` connections that never send a byte, send a header or a body a byte at a time, ask
   for more than they read, or send rubbish, and that come again as soon as they are let go.

Then asks the server to end (SIGTERM) while requests run, and counts the answers. Holds that

- the median and the 95th percentile of the second are at most twice those of the first (plus 5 ms,
  which is the grain of the measurement), and no good request fails;
- every request that was under way at the signal gets its whole answer within the drain time, and
  the process ends with status 0.

Standard library only; nothing leaves loopback. Ends with status 0 if all of it held.
"""

import argparse
import http.client
import json
import random
import resource
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

DRAIN = 25
SLACK = 0.005
PATIENCE = 120


def request(target, body=None, headers=()):
    lines = [f"{'POST' if body else 'GET'} {target} HTTP/1.1", "Host: load", *headers]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


class Server:
    def __init__(self, binary, *arguments):
        command = [binary, "serve", "--host", "127.0.0.1", "--port", "0", "--log-level", "error"]
        command += ["--served-model-name", "test", "--drain-timeout", str(DRAIN), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = None
        for line in self.process.stdout:
            if "http://" in line:
                host, port = line.split("http://")[1].split()[0].rsplit(":", 1)
                self.address = (host, int(port))
            if line.startswith("ready"):
                break
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def connect(self):
        return http.client.HTTPConnection(*self.address, timeout=PATIENCE)

    def metric(self, name):
        connection = self.connect()
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        for line in text.splitlines():
            if line.startswith((name + " ", name + "{")):
                return float(line.rsplit(" ", 1)[1])
        raise KeyError(name)


def chat(max_tokens, **extra):
    body = {"model": "test", "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    body["messages"] = [{"role": "user", "content": "Say something."}]
    return json.dumps({**body, **extra}).encode()


class Crowd(threading.Thread):
    """Bad connections, all of them on one thread."""

    KINDS = ("silent", "header", "body", "reader", "rubbish")

    def __init__(self, address, count, seed):
        super().__init__(daemon=True)
        self.address, self.random = address, random.Random(seed)
        self.selector = selectors.DefaultSelector()
        self.ending = threading.Event()
        self.open, self.opened, self.closed = [], 0, 0
        self.wanted = count

    def enter(self):
        kind = self.KINDS[self.opened % len(self.KINDS)]
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            connection.connect(self.address)
            connection.setblocking(False)
            connection.send(self.first(kind))
        except OSError:
            connection.close()
            return
        self.opened += 1
        self.open.append((connection, kind))

    def first(self, kind):
        return {
            "silent": b"",
            "header": b"GET /health HTTP/1.1\r\nHost: load\r\nX-Slow: ",
            "body": b"POST /v1/chat/completions HTTP/1.1\r\nHost: load\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{",
            "reader": request("/openapi.json") * 20,
            "rubbish": bytes(self.random.randrange(256) for _ in range(64)) + b"\r\n\r\n",
        }[kind]

    def step(self, connection, kind):
        """Goes on with one connection; whether it is still there."""
        try:
            if kind in ("header", "body"):
                connection.send(b"a")
            if kind != "reader" and not connection.recv(65536):
                return False
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def run(self):
        while not self.ending.is_set():
            # Not all at once: the machine is the server's, too.
            for _ in range(min(100, self.wanted - len(self.open))):
                self.enter()
            share = self.random.sample(range(len(self.open)), len(self.open) // 20)
            for index in sorted(share, reverse=True):
                connection, kind = self.open[index]
                if not self.step(connection, kind):
                    connection.close()
                    self.closed += 1
                    self.open.pop(index)
            time.sleep(0.2)
        for connection, _ in self.open:
            connection.close()


class Good:
    """Users in a closed loop, and connections that are open and rarely used."""

    def __init__(self, server, options):
        self.server, self.options = server, options
        self.lock = threading.Lock()
        self.latencies, self.faults = [], []
        self.until = 0

    def user(self):
        connection, body = self.server.connect(), chat(16)
        while time.monotonic() < self.until:
            begin = time.monotonic()
            try:
                connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
                response = connection.getresponse()
                response.read()
                fault = None if response.status == 200 else f"status {response.status}"
            except OSError as error:
                fault, connection = repr(error), self.server.connect()
            with self.lock:
                if fault:
                    self.faults.append(fault)
                self.latencies.append(time.monotonic() - begin)

    def idle(self, count):
        """Health probes over connections that stay open for some seconds each."""
        connections = []
        while time.monotonic() < self.until:
            if len(connections) < count:
                connection = self.server.connect()
                connection.connect()
                connections.append(connection)
            else:
                connections.pop(0).close()
            connection = random.choice(connections)
            try:
                connection.request("GET", "/health")
                if connection.getresponse().read() is None:
                    raise OSError("no answer")
            except (OSError, http.client.HTTPException):
                # Let go for its silence, as it should be.
                connections.remove(connection)
                connection.close()
            time.sleep(0.01)
        for connection in connections:
            connection.close()

    def run(self, seconds):
        self.latencies, self.faults = [], []
        self.until = time.monotonic() + seconds
        count = self.options.connections - self.options.bad - self.options.users
        threads = [threading.Thread(target=self.user) for _ in range(self.options.users)]
        threads.append(threading.Thread(target=self.idle, args=(max(count, 1),)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ordered = sorted(self.latencies)
        return {
            "requests": len(ordered),
            "p50": statistics.median(ordered),
            "p95": ordered[int(len(ordered) * 0.95)],
            "max": ordered[-1],
            "faults": self.faults,
        }


def told(name, result):
    numbers = " ".join(f"{key} {result[key] * 1000:.1f} ms" for key in ("p50", "p95", "max"))
    print(f"{name}: {result['requests']} requests, {numbers}, {len(result['faults'])} faults", flush=True)


def beside_bad_clients(options):
    """Whether good requests keep their latency."""
    limits = ["--header-timeout", "5", "--body-timeout", "10", "--write-timeout", "5"]
    server = Server(options.binary, *limits)
    good = Good(server, options)
    good.run(min(5, options.seconds))
    alone = good.run(options.seconds)
    told("alone", alone)
    crowd = Crowd(server.address, options.bad, options.seed)
    crowd.start()
    begin = time.monotonic()
    while len(crowd.open) < options.bad * 0.9 and time.monotonic() - begin < PATIENCE:
        time.sleep(0.1)
    beside = good.run(options.seconds)
    told("beside", beside)
    crowd.ending.set()
    crowd.join()
    print(f"bad connections: {crowd.opened} came, {crowd.closed} were let go", flush=True)
    failed = alone["faults"] + beside["faults"]
    slower = [key for key in ("p50", "p95") if beside[key] > 2 * alone[key] + SLACK]
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(PATIENCE)
    for fault in failed[:5]:
        print("fault:", fault)
    for key in slower:
        print(f"{key} is more than twice as long")
    if crowd.closed == 0:
        print("no bad connection was let go")
    return not failed and not slower and crowd.closed > 0


def shut_down(options):
    """Whether a shutdown loses no request that was under way."""
    server = Server(options.binary)
    outcomes, lock = [], threading.Lock()

    def ask(streamed):
        connection = server.connect()
        try:
            body = chat(200, stream=streamed)
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode()
            if response.status != 200:
                outcome = f"status {response.status}"
            elif streamed:
                whole = text.endswith("data: [DONE]\n\n") and '"finish_reason":"length"' in text
                outcome = "whole" if whole and '"error"' not in text else "cut"
            else:
                tokens = json.loads(text)["usage"]["completion_tokens"]
                outcome = "whole" if tokens == 200 else f"{tokens} tokens"
        except (OSError, http.client.HTTPException, ValueError) as error:
            outcome = repr(error)
        with lock:
            outcomes.append(outcome)

    threads = [threading.Thread(target=ask, args=(n % 2 == 0,)) for n in range(40)]
    for thread in threads:
        thread.start()
    begin = time.monotonic()
    # All of them let in: those that run and those in line.
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    while sum(server.metric(name) for name in names) + len(outcomes) < len(threads):
        if time.monotonic() - begin > PATIENCE:
            break
    under_way = len(threads) - len(outcomes)
    server.process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    for thread in threads:
        thread.join(PATIENCE)
    status = server.process.wait(PATIENCE)
    took = time.monotonic() - begin
    lost = [outcome for outcome in outcomes if outcome != "whole"]
    print(f"shutdown: {under_way} of {len(threads)} under way, ended after {took:.1f} s with status {status}, {len(lost)} lost")
    for outcome in lost[:5]:
        print("lost:", outcome)
    return not lost and status == 0 and took < DRAIN + 5 and under_way > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--bad", type=int, default=1500)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = 4 * options.connections
    limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, 1024), hard))
    held = [beside_bad_clients(options), shut_down(options)]
    print("held" if all(held) else "did not hold")
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
