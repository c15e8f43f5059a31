#!/usr/bin/env python3
"""A chat server with a clock in place of a model: what load generators measure is known beforehand.

    python3 benches/paced_server.py --port 8001 --first 150 --gap 15 --tokens 64

Every answer is a stream whose first token comes `--first` milliseconds after the request, each
other one `--gap` milliseconds after the one before; then comes the usage. One model, `m`. Standard
library only.
"""

import argparse
import asyncio
import json

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
MODELS = b'{"object":"list","data":[{"id":"m","object":"model"}]}'


def event(data: bytes) -> bytes:
    data = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def chunk(**fields) -> bytes:
    base = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    return event(json.dumps({**base, **fields}).encode())


def token(last: bool) -> bytes:
    delta = {"role": "assistant", "content": "word "}
    choice = {"index": 0, "delta": delta, "finish_reason": "length" if last else None}
    return chunk(choices=[choice])


async def answer(options, writer, begin: float):
    loop = asyncio.get_running_loop()
    writer.write(HEAD)
    for n in range(options.tokens):
        due = begin + (options.first + n * options.gap) / 1e3
        await asyncio.sleep(max(0, due - loop.time()))
        writer.write(token(last=n == options.tokens - 1))
        await writer.drain()
    usage = {"prompt_tokens": 10, "completion_tokens": options.tokens}
    writer.write(chunk(choices=[], usage={**usage, "total_tokens": sum(usage.values())}))
    writer.write(event(b"[DONE]") + b"0\r\n\r\n")
    await writer.drain()


async def connection(options, reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            begin = asyncio.get_running_loop().time()
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    await reader.readexactly(int(line.split(b":")[1]))
            if head.startswith(b"GET"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
                writer.write(b"content-length: %d\r\n\r\n%s" % (len(MODELS), MODELS))
            else:
                await answer(options, writer, begin)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--first", type=float, default=150, help="ms to the first token")
    parser.add_argument("--gap", type=float, default=15, help="ms between tokens")
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    server = await asyncio.start_server(
        lambda reader, writer: connection(options, reader, writer), "127.0.0.1", options.port
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
