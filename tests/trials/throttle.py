#!/usr/bin/env python3
"""throttleRate 5, of an endpoint and of an application: never more than 5 attempts in any second, and all arrive. throttleRate 50 of
endpoints with a backlog, to whom everything is wanted at once: 50 a second are what comes, by push, pages, leases and stream, for 12 s
(60 s with --full).
"""

import contextlib
import pathlib
import socket
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Connection, Load, Trial, until  # noqa: E402
from sink import number  # noqa: E402

RATE, MESSAGES = 5, 30
STEADY = 50


class Greedy:
    """Wants all that there is, and writes down when something came."""

    def __init__(self, server, path, read):
        self.server, self.path, self.read, self.times, self.ended = server, path, read, [], False
        self.connection = Connection(server.port, token=server.token(), timeout=30)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        with contextlib.suppress(OSError):
            self.read(self)

    def came(self, count):
        self.times += [time.monotonic()] * count

    def call(self, method, path, body=None):
        response = self.connection.request(method, "/api/v1" + self.path + path, body)
        if response.status != 200:
            raise ConnectionError(response)
        return response.json()

    def pages(self):
        cursor = ""
        while not self.ended:
            page = self.call("GET", f"/pull?limit=1000&wait=5{cursor}")
            self.came(len(page["data"]))
            cursor = f"&cursor={page['cursor']}"

    def leases(self):
        while not self.ended:
            got = self.call("POST", "/pull/receive", {"limit": 1000, "wait": 5})["data"]
            self.came(len(got))
            if got:
                self.call("POST", "/pull/ack", {"receipts": [one["receipt"] for one in got], "result": {"status": 200}})

    def stream(self):
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=30) as connection:
            head = [f"GET /api/v1{self.path}/stream?from=earliest HTTP/1.1", "host: x", f"authorization: Bearer {self.server.token()}", "", ""]
            connection.sendall("\r\n".join(head).encode())
            for line in connection.makefile("rb"):
                self.came(line.startswith(b"data: ") and b'"payload"' in line)
                if self.ended:
                    return


def processor_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


with Trial("throttle", "throttleRate holds in every second, and smooths instead of refusing") as trial:
    # At one endpoint a message in three fails once: retries count like any attempt.
    sink = trial.sink(lambda path, id, body, n: 500 if path == "/failing" and n == 1 and number(body) % 3 == 1 else 200)
    server = trial.server()
    server.start()
    api = server.api()

    app = api.application("endpoints")
    api.endpoint(app, sink.url("/free"))
    api.endpoint(app, sink.url("/five"), throttleRate=RATE)
    api.endpoint(app, sink.url("/failing"), throttleRate=RATE)
    slow = api.application("throttled", throttleRate=RATE)
    api.endpoint(slow, sink.url("/application"))
    begun = time.monotonic()
    for n in range(MESSAGES):
        for to in (app, slow):
            api.message(to, {"n": n})
    sent = time.monotonic() - begun
    wanted = {"/free": MESSAGES, "/five": MESSAGES, "/failing": MESSAGES + MESSAGES // 3, "/application": MESSAGES}
    until(lambda: all(sum(a.path == path for a in list(sink.arrivals)) >= n for path, n in wanted.items()), 4 * MESSAGES / RATE)
    trial.row("messages, sent within s", f"{MESSAGES} in {sent:.2f}")
    for path, count in wanted.items():
        times = sorted(a.time for a in list(sink.arrivals) if a.path == path)
        # 20 ms less than a second: what the network and the sink's clock may shift.
        worst = max((sum(t <= u < t + 0.98 for u in times) for t in times), default=0)
        took = times[-1] - begun if times else 0.0
        if path == "/free":
            trial.row("free endpoint beside it: done after s", took, f"<= {sent + 1:.1f}", len(times) == count and took <= sent + 1)
        else:
            least = count / RATE
            trial.row(f"{path[1:]}: arrived", len(times), str(count), len(times) == count)
            trial.row("  most in one second", worst, f"<= {RATE}", 0 < worst <= RATE)
            trial.row("  took s", took, f"{least - 1.3:.1f} to {least * 1.5 + 2:.1f}", least - 1.3 <= took <= least * 1.5 + 2)

    # Then a backlog for those who want everything at once; the one that is pushed to gets it from its first message on.
    seconds, backlog = (60, 10_000) if trial.full else (12, 2_000)
    waiting = api.application("backlog")
    ways = {"pages": Greedy.pages, "leases": Greedy.leases, "stream": Greedy.stream}
    for uid in ways:
        api.call("POST", f"/app/{waiting}/endpoint", {"uid": uid, "kind": "pipe", "throttleRate": STEADY})
    api.endpoint(waiting, sink.url("/steady"), throttleRate=STEADY)
    load = Load(server, waiting, rate=4_000, threads=8, keyed=False).start()
    until(lambda: len(load.acked) >= backlog, 60)
    load.stop()
    trial.row("backlog of each greedy reader", len(load.acked), f">= {backlog}", len(load.acked) >= backlog)
    processor, reading = processor_seconds(server.pid), time.monotonic()
    greedy = {uid: Greedy(server, f"/app/{waiting}/endpoint/{uid}", read) for uid, read in ways.items()}
    # A second's worth may come at once when they begin.
    time.sleep(max(0.0, reading + seconds + 1 - time.monotonic()))
    took, processor = time.monotonic() - reading, processor_seconds(server.pid) - processor
    every = {uid: list(reader.times) for uid, reader in greedy.items()}
    every["push"] = sorted(a.time for a in list(sink.arrivals) if a.path == "/steady")
    for reader in greedy.values():
        reader.ended = True
    for uid, times in every.items():
        first = times[0] if times else 0.0
        each = sum(first <= t < first + seconds for t in times) / seconds
        trial.row(f"{uid}: a second, over {seconds} s", each, f"{STEADY} +- 5", abs(each - STEADY) <= 5)
        parts = [sum(first + s <= t < first + s + 1 for t in times) for s in range(1, seconds)]
        trial.row("  least and most in a second after the first", (min(parts), max(parts)))
    trial.row("the server's processor time, % of one", 100 * processor / took)
    server.terminate()
