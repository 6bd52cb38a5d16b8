#!/usr/bin/env python3
"""R28: pipes: a long log is read as fast at its end as at its beginning, a live stream misses nothing whoever is killed, readers
who wait cost little, and what is published is there at once.

Messages come in by the producer's channel, so the same run tries that: what it answered is there after each `kill -9`.
"""

import contextlib
import json
import pathlib
import socket
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Trial, binary, percentile, until  # noqa: E402

RELEASE = "release" in binary()


class Lines:
    """A request whose answer is read line by line."""

    def __init__(self, server, method, path, headers=()):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = [f"{method} /api/v1{path} HTTP/1.1", "host: x", f"authorization: Bearer {server.token()}", *headers, "", ""]
        self.socket.sendall("\r\n".join(head).encode())
        self.file = self.socket.makefile("rb")

    def next(self):
        """The next line; `None` when the other end is gone."""
        with contextlib.suppress(OSError):
            return self.file.readline() or None
        return None

    def close(self):
        self.socket.close()


class Producer(Lines):
    def __init__(self, server, app):
        super().__init__(server, "POST", f"/app/{app}/msg/stream", ["transfer-encoding: chunked"])

    def send(self, payloads):
        lines = b"".join(json.dumps({"eventType": "a.b", "payload": p}).encode() + b"\n" for p in payloads)
        self.socket.sendall(b"%x\r\n%s\r\n" % (len(lines), lines))

    def answers(self, count):
        """The ids of the next answers, fewer if the server is gone."""
        ids = []
        while len(ids) < count and (line := self.next()) is not None:
            if line.startswith(b"{"):
                ids.append(json.loads(line)["id"])
        return ids


class Reader(Lines):
    """A live stream; keeps what came, with the time, and the last cursor."""

    def __init__(self, server, app, query="from=earliest", last=None):
        headers = [f"last-event-id: {last}"] if last else []
        super().__init__(server, "GET", f"/app/{app}/endpoint/pipe/stream?{query}", headers)
        self.cursor, self.seen, self.at = last, [], []

    def read(self):
        """Reads until the other end is gone, or this one was closed."""
        cursor = self.cursor
        while (line := self.next()) is not None:
            if line.startswith(b"id: "):
                cursor = line[4:].strip().decode()
            elif line.startswith(b"data: ") and b'"payload"' in line:
                self.seen.append(json.loads(line[6:])["payload"])
                self.at.append(time.monotonic())
                self.cursor = cursor

    def start(self):
        threading.Thread(target=self.read, daemon=True).start()
        return self


with Trial("pipes", "R28: logs of pipes are read, live and page by page, and nothing is missed") as trial:
    server = trial.server()
    server.start()
    api = server.api()
    app = api.application()
    api.call("POST", f"/app/{app}/endpoint", {"uid": "pipe", "kind": "pipe"})
    pull = f"/app/{app}/endpoint/pipe/pull"

    # A backlog, and all of it page by page.
    total = 1_000_000 if trial.full else 20_000
    producer, begun = Producer(server, app), time.monotonic()
    acked = 0
    for first in range(0, total, 500):
        producer.send({"n": n} for n in range(first, first + 500))
        acked += len(producer.answers(500))
    trial.row("taken in over one connection, messages/s", acked / (time.monotonic() - begun))
    trial.row("answered", acked, str(total), acked == total)
    cursor, took, got, gaps = None, [], 0, 0
    begun = time.monotonic()
    while True:
        page_begun = time.monotonic()
        page = api.call("GET", f"{pull}?limit=1000" + (f"&cursor={cursor}" if cursor else ""))
        took.append(time.monotonic() - page_begun)
        gaps += [e["payload"]["n"] for e in page["data"]] != list(range(got, got + len(page["data"])))
        got, cursor = got + len(page["data"]), page["cursor"]
        if not page["hasMore"]:
            break
    rate = got / sum(took)
    trial.row("pages: messages read in order, without a gap", (got, gaps), f"({total}, 0)", (got, gaps) == (total, 0))
    trial.row("pages: messages/s", rate, ">= 50000 with a release build", rate >= 50_000 if RELEASE and trial.full else None)
    tenth = max(2, len(took) // 10)
    early, late = statistics.median(took[:tenth]), statistics.median(took[-tenth:])
    trial.row("pages: last tenth / first tenth", late / early, "<= 1.5", late <= early * 1.5 + 0.002)

    # Live, with whoever is killed.
    reader = Reader(server, app, f"cursor={cursor}").start()
    seen, sent = [], 0
    for crash in range(10 if trial.full else 5):
        with contextlib.suppress(OSError):
            producer = Producer(server, app)
            for _ in range(20):
                producer.send({"live": n} for n in range(sent, sent + 10))
                sent += len(producer.answers(10))
        if crash % 2:
            reader.close()
        else:
            server.kill()
            server.start()
            api = server.api()
        time.sleep(0.2)
        seen += reader.seen
        reader = Reader(server, app, f"cursor={cursor}", last=reader.cursor).start()
    arrived = until(lambda: len({p["live"] for p in seen + reader.seen}) >= sent, 20, 0.1)
    numbers = [p["live"] for p in seen + reader.seen]
    trial.row("live: answered, and all of it seen", (sent, len(set(numbers))), "equal", arrived)
    trial.row("live: in order", numbers == sorted(numbers), "True", numbers == sorted(numbers))
    doubled = len(numbers) - len(set(numbers))
    trial.row("live: seen again after a kill", doubled)

    # How soon.
    rate, seconds = (1_000, 20) if trial.full else (200, 5)
    before = len(reader.seen)
    producer, sent_at = Producer(server, app), []
    answered = threading.Thread(target=producer.answers, args=(rate * seconds,), daemon=True)
    answered.start()
    begun = time.monotonic()
    for n in range(rate * seconds):
        time.sleep(max(0.0, begun + n / rate - time.monotonic()))
        sent_at.append(time.monotonic())
        producer.send([{"live": sent + n}])
    until(lambda: len(reader.seen) >= before + rate * seconds, 10)
    late = [at - was for was, at in zip(sent_at, reader.at[before:])]
    p99 = percentile(late, 0.99) * 1000 if late else float("inf")
    if late:
        shares = [round(percentile(late, share) * 1000, 1) for share in (0.5, 0.9, 0.99, 1.0)]
        trial.row("from publish to reader: median, p90, p99, longest, ms", shares)
    trial.row(f"p99 from publish to reader at {rate}/s, ms", p99, "<= 10 with a release build", p99 <= 10 if RELEASE else None)

    # Readers who only wait.
    count = 10_000 if trial.full else 1_000
    empty = server.rss()
    idle = [Reader(server, app, "from=now") for _ in range(count)]
    for one in idle:
        one.next()
    time.sleep(1)
    each = (server.rss() - empty) * 1024 / count
    # Ten thousand in 200 MB is the bar; a thousand carry more of what all share.
    most = 20 if trial.full else 25
    trial.row("an idle reader, kB", each, f"<= {most}", each <= most)
    trial.row("memory with them, MB", server.rss())
    begun = time.monotonic()
    api.message(app, {"live": -1}, type="a.b")
    woken = 0
    for one in idle:
        while (line := one.next()) is not None:
            if b'"live":-1' in line.replace(b" ", b""):
                woken += 1
                break
    trial.row("all of them woken by one message, within seconds", round(time.monotonic() - begun, 2))
    trial.row("  so many", woken, str(count), woken == count)
    code, stopped = server.terminate()
    trial.row("they do not hold the end up: exit code, seconds", (code, round(stopped, 1)), "0 within 10", code == 0 and stopped < 10)
    server.start()
    ledger = server.ledger()
    trial.row("ledger balances", ledger["balances"], "True", ledger["balances"])
