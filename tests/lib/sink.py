"""Receivers of webhooks: they write down what arrives when, check its signature, and answer as they are told."""

import asyncio
import base64
import collections
import hmac
import json
import socket
import threading
import time

REASONS = {200: b"OK", 204: b"No Content", 410: b"Gone", 429: b"Too Many Requests", 500: b"Internal Server Error", 503: b"Service Unavailable"}

Arrival = collections.namedtuple("Arrival", "path id time stamp status body headers")
"""One request: `time` is monotonic, taken when its last byte was read; `stamp` is its `webhook-timestamp`; `status` is
what was answered (0: nothing); `body` and `headers` only if the sink keeps them."""


def signatures(secret, id, stamp, body):
    """The `v1` signature that Standard Webhooks asks for."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.digest(key, f"{id}.{stamp}.".encode() + body, "sha256")).decode()


class Sink:
    """An HTTP server on a free port of 127.0.0.1, in a thread of its own.

    `answer(path, id, body, n)` says how to answer the `n`-th request (from 1) of this id on this path: a status, a tuple
    `(status, delay in seconds)`, `None` to close without an answer, or `"hang"` to never answer. Replace it at any time.
    `closing()`, if set, says how many seconds after an answer the connection is closed without a word.
    """

    def __init__(self, answer=None, keep=False, record=True):
        self.answer = answer or (lambda path, id, body, n: 200)
        self.keep, self.record = keep, record
        self.closing = None
        self.arrivals = []
        self.count = 0
        self.seen = collections.Counter()
        self.secrets = {}
        self.unsigned = 0
        self.open = set()
        self.loop = asyncio.new_event_loop()
        self.listening = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.up()

    def url(self, path="/"):
        return f"http://127.0.0.1:{self.port}{path}"

    def up(self):
        """Listens (again)."""

        async def listen():
            # Long queues: a herd that returns must not be turned away by the kernel.
            self.listening = await self.loop.create_server(
                lambda: Connection(self), "127.0.0.1", self.port, backlog=4096, reuse_address=True
            )

        asyncio.run_coroutine_threadsafe(listen(), self.loop).result(10)

    def down(self):
        """Stops listening and cuts every connection: whoever comes is refused."""

        async def close():
            self.listening.close()
            for connection in list(self.open):
                connection.transport.abort()

        asyncio.run_coroutine_threadsafe(close(), self.loop).result(10)

    def close(self):
        self.down()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)

    # Reading what arrived.

    def ids(self, path=None, taken=True):
        """How often each id arrived; with `taken`, only what was answered by a 2xx."""
        return collections.Counter(
            a.id for a in list(self.arrivals) if (path is None or a.path == path) and (not taken or 200 <= a.status < 300)
        )

    def first(self, path=None):
        """When each id first arrived."""
        first = {}
        for a in list(self.arrivals):
            if path is None or a.path == path:
                first.setdefault(a.id, a.time)
        return first


class Connection(asyncio.Protocol):
    """One connection of a sink. Understands what our server sends: a length, or chunks."""

    def __init__(self, sink):
        self.sink, self.buffer, self.hung = sink, b"", False

    def connection_made(self, transport):
        self.transport = transport
        self.sink.open.add(self)

    def connection_lost(self, _):
        self.sink.open.discard(self)

    def data_received(self, data):
        self.buffer += data
        while not self.hung and (request := self.take()):
            self.arrived(*request)

    def take(self):
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return None
        self.buffer = rest[length:]
        return first.split(" ")[1], headers, rest[:length]

    def arrived(self, path, headers, body):
        sink, now = self.sink, time.monotonic()
        sink.count += 1
        id = headers.get("webhook-id") or headers.get("svix-id") or ""
        sink.seen[path, id] += 1
        answer = sink.answer(path, id, body, sink.seen[path, id])
        status, delay = answer if isinstance(answer, tuple) else (answer, 0)
        stamp = headers.get("webhook-timestamp") or headers.get("svix-timestamp")
        if sink.record:
            kept = (body, headers) if sink.keep else (None, None)
            sink.arrivals.append(Arrival(path, id, now, stamp, status if isinstance(status, int) else 0, *kept))
        if secret := sink.secrets.get(path):
            given = headers.get("webhook-signature") or headers.get("svix-signature") or ""
            sink.unsigned += signatures(secret, id, stamp, body) not in given.split(" ")
        if delay:
            self.hung = True
            sink.loop.call_later(delay, self.resume, status)
        else:
            self.respond(status)

    def resume(self, status):
        self.hung = False
        self.respond(status)
        self.data_received(b"")

    def respond(self, status):
        if status == "hang":
            self.hung = True
        elif status is None:
            self.transport.abort()
        else:
            self.transport.write(b"HTTP/1.1 %d %s\r\ncontent-length: 0\r\n\r\n" % (status, REASONS.get(status, b"-")))
            if self.sink.closing:
                self.sink.loop.call_later(self.sink.closing(), self.transport.close)


def number(body):
    """The `n` of a payload made by the load generator."""
    return json.loads(body)["n"]
