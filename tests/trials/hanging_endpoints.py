#!/usr/bin/env python3
"""R14: a thousand endpoints (ten thousand with --full) take the request and never answer.

A healthy endpoint, of the same application and of another, is served as before: p99 at most 250 ms more. Memory is bounded.
"""

import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Load, Refused, Trial, percentile, until  # noqa: E402

with Trial("hanging_endpoints", "R14: endpoints that hang do not slow the healthy ones") as trial:
    count, timeout = (10_000, 30) if trial.full else (1_000, 8)
    hanging = trial.sink(lambda path, id, body, n: "hang", record=False)
    healthy = trial.sink()
    server = trial.server(env={"SVIX_WORKER_REQUEST_TIMEOUT": str(timeout), "SVIX_RETRY_SCHEDULE": "5,5,5,5,5"})
    server.start()
    api = server.api()
    api.event_types("flood", "ping")
    shared, own = api.application("shared"), api.application("own")
    apps = [shared] + [api.application(f"flood {n}") for n in range(count // 1000 - 1)]
    for app, path in ((shared, "/shared"), (own, "/own")):
        api.endpoint(app, healthy.url(path), eventTypes=["ping"])
    begun = time.monotonic()
    for n in range(count):
        api.endpoint(apps[n % len(apps)], hanging.url(f"/{n}"), eventTypes=["flood"])
    trial.row("endpoints that hang", count)
    trial.row("  created, per second", count / (time.monotonic() - begun))
    idle = server.rss()

    loads = {path: Load(server, app, rate=50, threads=6, type="ping").start() for app, path in ((shared, "/shared"), (own, "/own"))}
    time.sleep(5)
    attack = time.monotonic()
    stop, sent, rss = threading.Event(), [0, 0], [idle, 0]

    def flood():
        mine = server.api()
        while not stop.is_set():
            for app in apps:
                try:
                    mine.message(app, {"pad": "x" * 500}, type="flood")
                    sent[0] += 1
                except (Refused, OSError):
                    sent[1] += 1
            rss[0] = max(rss[0], server.rss())
            rss[1] = max(rss[1], len(hanging.open))
            stop.wait(0.25)

    flooding = threading.Thread(target=flood)
    flooding.start()
    time.sleep(60 if trial.full else 15)
    stop.set()
    flooding.join()
    over = time.monotonic()
    for load in loads.values():
        load.stop()
    until(lambda: all(len(healthy.first(path)) >= len(load.acked) for path, load in loads.items()), 10)
    trial.row("floods sent, refused", tuple(sent), "", None)
    trial.row("connections hanging at once", rss[1])
    for path, load in loads.items():
        first = healthy.first(path)
        base = percentile(load.delivery_latencies(first, 0, attack), 0.99)
        p99 = percentile(load.delivery_latencies(first, attack + 1, over), 0.99)
        accept = percentile(load.latencies(attack + 1, over), 0.99)
        what = "same application" if path == "/shared" else "another application"
        trial.row(f"{what}: sent to arrived, p99 before, ms", base * 1000)
        trial.row(f"{what}: sent to arrived, p99 during, ms", p99 * 1000, f"<= {base * 1000 + 250:.0f}", p99 <= base + 0.25)
        late = sorted(sent - attack for id, (_, sent, _) in load.acked.items() if first.get(id, sent + 60) - sent > 1)
        if late:
            trial.row("  more than 1 s late, sent between s", f"{len(late)}: {late[0]:.1f} to {late[-1]:.1f}")
        trial.row(f"{what}: answered by the API, p99 during, ms", accept * 1000)
        trial.row(f"{what}: not delivered", len(set(load.acked) - set(first)), "0", not set(load.acked) - set(first))
    trial.row("resident memory idle, MB", idle)
    trial.row("resident memory at most, MB", rss[0], "<= 300", rss[0] <= 300)
    ledger = server.ledger()
    trial.row("ledger balances", ledger["balances"], "True", ledger["balances"])
    server.kill()
