#!/usr/bin/env python3
"""Endpoints whose transformations loop, eat memory, recurse and hang, beside healthy ones that have a transformation too.

A healthy endpoint, of the same application and of another, is served as before: p99 at most 250 ms more. Memory is bounded, and what a
hostile script does is said in its attempts.
"""

import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Load, Refused, Trial, percentile, until  # noqa: E402

HOSTILE = {
    "loops": "function handler(w) { for (;;) {} }",
    "catches": "function handler(w) { try { for (;;) {} } catch (e) {} finally { for (;;) {} } }",
    "eats": "function handler(w) { let a = []; for (;;) { a.push(new Uint8Array(1e5)) } }",
    "keeps": "let kept = []; function handler(w) { for (let i = 0; i < 1e5; i++) kept.push({ i }); return w }",
    "recurses": "function handler(w) { return handler(w) }",
    "swells": "function handler(w) { w.payload = 'x'.repeat(5e6); return w }",
    "matches": "function handler(w) { /^(a+)+$/.test('a'.repeat(50) + 'b'); return w }",
    "poisons": "Object.prototype.payload = 1; JSON.parse = null; function handler(w) { throw w }",
}
HEALTHY = "function handler(w) { w.payload.seen = w.eventType; return w }"

with Trial("hostile_scripts", "a transformation that loops costs its own endpoint and nobody else") as trial:
    healthy, attacked = trial.sink(), trial.sink(record=False)
    server = trial.server(env={"BELLWIRE_DELIVERY_RETRY_SCHEDULE": "1s,2s,5s,5s,5s"})
    server.start()
    api = server.api()
    api.event_types("flood", "ping")
    shared, own = api.application("shared"), api.application("own")

    def scripted(app, url, code, kind):
        id = api.endpoint(app, url, eventTypes=[kind])
        path = f"/api/v1/app/{app}/endpoint/{id}/transformation"
        answer = api.connection.request("PATCH", path, {"code": code, "enabled": True})
        assert answer.status == 204, (answer.status, answer.body)
        return id

    for app, path in ((shared, "/shared"), (own, "/own")):
        scripted(app, healthy.url(path), HEALTHY, "ping")
    hostile = {name: scripted(shared, attacked.url("/" + name), code, "flood") for name, code in HOSTILE.items()}
    idle = server.rss()

    loads = {path: Load(server, app, rate=50, threads=6, type="ping").start() for app, path in ((shared, "/shared"), (own, "/own"))}
    time.sleep(5)
    attack = time.monotonic()
    stop, sent, rss = threading.Event(), [0, 0], [idle]

    def flood():
        mine = server.api()
        while not stop.is_set():
            try:
                mine.message(shared, {"pad": "x" * 500}, type="flood")
                sent[0] += 1
            except (Refused, OSError):
                sent[1] += 1
            rss[0] = max(rss[0], server.rss())
            stop.wait(0.05)

    flooding = threading.Thread(target=flood)
    flooding.start()
    time.sleep(60 if trial.full else 15)
    stop.set()
    flooding.join()
    over = time.monotonic()
    for load in loads.values():
        load.stop()
    until(lambda: all(len(healthy.first(path)) >= len(load.acked) for path, load in loads.items()), 10)
    trial.row("endpoints with hostile scripts", len(hostile))
    trial.row("messages to them sent, refused", tuple(sent), "", None)
    for path, load in loads.items():
        first = healthy.first(path)
        base = percentile(load.delivery_latencies(first, 0, attack), 0.99)
        p99 = percentile(load.delivery_latencies(first, attack + 1, over), 0.99)
        what = "same application" if path == "/shared" else "another application"
        trial.row(f"{what}: sent to arrived, p99 before, ms", base * 1000)
        trial.row(f"{what}: sent to arrived, p99 during, ms", p99 * 1000, f"<= {base * 1000 + 250:.0f}", p99 <= base + 0.25)
        trial.row(f"{what}: not delivered", len(set(load.acked) - set(first)), "0", not set(load.acked) - set(first))
    said = {}
    for name, id in hostile.items():
        attempts = api.call("GET", f"/app/{shared}/attempt/endpoint/{id}?limit=5")["data"]
        said[name] = attempts[0]["response"] if attempts else "nothing"
    for name, text in said.items():
        # Two of them do no harm but to themselves, and may end well.
        fine = name in ("keeps", "matches") or "transformation" in text
        trial.row(f"  {name} says", text[:60], "why it failed", fine)
    trial.row("resident memory idle, MB", idle)
    trial.row("resident memory at most, MB", rss[0], "<= 300", rss[0] <= 300)
    ledger = server.ledger()
    trial.row("ledger balances", ledger["balances"], "True", ledger["balances"])
    server.kill()
