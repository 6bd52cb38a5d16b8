#!/usr/bin/env python3
"""A million deliveries wait for endpoints that are dead, and the process is killed.

It is ready again within 5 s, delivers a new message to a healthy endpoint within 1 s more, still knows of all that it
owes, and its memory does not depend on how much waits.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Load, Trial, free_port, until  # noqa: E402

with Trial("restart_backlog", "kill -9 with a million pending: back at once") as trial:
    endpoints, messages = 100, 10_000
    sink = trial.sink()
    server = trial.server(env={"SVIX_RETRY_SCHEDULE": "36000,36000"})
    server.start()
    idle = server.rss()
    api = server.api()
    api.event_types("dead", "alive")
    app = api.application()
    dead = free_port()
    for n in range(endpoints):
        api.endpoint(app, f"http://127.0.0.1:{dead}/{n}", eventTypes=["dead"])
    api.endpoint(app, sink.url("/"), eventTypes=["alive"])

    begun = time.monotonic()
    load = Load(server, app, rate=4000, threads=32, type="dead").start()
    until(lambda: len(load.acked) >= messages, 240, 0.02)
    filled = time.monotonic() - begun
    load.stop()
    owed = len(load.acked) * endpoints
    # Busy with the backlog, a healthy endpoint of the same application is served all the same.
    before = time.monotonic()
    first = api.message(app, {"when": "before"}, type="alive")
    until(lambda: first in sink.first(), 30, 0.002)
    trial.row("messages answered, fan-out 1 to 100", len(load.acked))
    trial.row("  per second", len(load.acked) / filled)
    trial.row("healthy endpoint amid the backlog, s", time.monotonic() - before, "<= 1", first in sink.first() and time.monotonic() - before <= 1)
    loaded = server.rss()
    trial.row("resident memory idle, MB", idle)
    trial.row("resident memory with the backlog, MB", loaded, f"<= {idle + 300:.0f}", loaded <= idle + 300)
    # The healthy one's outcome is recorded a moment after it arrived.
    until(lambda: server.ledger()["pending"] == owed, 5, 0.1)
    ledger = server.ledger()
    trial.row("pending", ledger["pending"], str(owed), ledger["pending"] == owed)
    server.kill()

    ready = server.start()
    came = time.monotonic()
    second = server.api().message(app, {"when": "after"}, type="alive")
    arrived = until(lambda: second in sink.first(), 30, 0.002)
    trial.row("ready after kill -9, s", ready, "<= 5", ready <= 5)
    trial.row("first delivery after it, s", time.monotonic() - came, "<= 1", arrived and time.monotonic() - came <= 1)
    trial.row("resident memory when ready, MB", server.rss(), f"<= {idle + 300:.0f}", server.rss() <= idle + 300)
    until(lambda: server.ledger()["pending"] == owed, 5, 0.1)
    ledger = server.ledger()
    trial.row("pending after it", ledger["pending"], str(owed), ledger["pending"] == owed)
    trial.row("ledger balances", ledger["balances"], "True", ledger["balances"])
    time.sleep(5)
    trial.row("resident memory 5 s later, MB", server.rss(), f"<= {idle + 300:.0f}", server.rss() <= idle + 300)
    trial.row("delivered twice", sum(n - 1 for n in sink.ids().values()), "0 or 1 (the kill)", sum(n - 1 for n in sink.ids().values()) <= 1)
    code, seconds = server.terminate()
    trial.row("SIGTERM with the backlog: exit code, s", (code, round(seconds, 2)), "0, <= 20", code == 0 and seconds <= 20)
