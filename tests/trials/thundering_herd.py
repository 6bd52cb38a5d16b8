#!/usr/bin/env python3
"""R22: two hundred endpoints are down while twenty thousand deliveries are tried and wait; then all return at once.

The backlog drains without a second collapse and without a stall, nothing arrives twice, and new messages to others are
delivered within a second all the while.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Load, Trial, percentile, until  # noqa: E402

with Trial("thundering_herd", "R22: many endpoints return at once") as trial:
    endpoints, messages = (1000, 100) if trial.full else (200, 100)
    herd, healthy = trial.sink(), trial.sink()
    server = trial.server(env={"SVIX_RETRY_SCHEDULE": ",".join(["4"] * 40)})
    server.start()
    api = server.api()
    app, other = api.application("herd"), api.application("other")
    for n in range(endpoints):
        api.endpoint(app, herd.url(f"/{n}"))
    api.endpoint(other, healthy.url("/"))
    herd.down()
    ids = {api.message(app, {"n": n}) for n in range(messages)}
    time.sleep(8)
    load = Load(server, other, rate=50, threads=6).start()
    time.sleep(3)
    owed = endpoints * messages
    pending = server.ledger()["pending"]
    trial.row("endpoints, deliveries that wait", (endpoints, pending), f"~{owed}", pending >= owed)
    herd.up()
    back = time.monotonic()
    until(lambda: herd.count >= owed, 120, 0.1)
    drained = time.monotonic() - back
    time.sleep(1)
    load.stop()
    until(lambda: len(healthy.first()) >= len(load.acked), 5)
    arrivals = list(herd.arrivals)
    distinct = {(a.path, a.id) for a in arrivals}
    trial.row("drained after s", drained, "<= 90", drained <= 90)
    trial.row("arrived", len(distinct), str(owed), len(distinct) == owed and {i for _, i in distinct} == ids)
    trial.row("arrived twice", len(arrivals) - len(distinct), "0", len(arrivals) == len(distinct))
    times = [a.time for a in arrivals] or [back]
    stalls = [later - earlier for earlier, later in zip([back, *times], times)]
    trial.row("longest stall, s", max(stalls), "<= 20", max(stalls) <= 20)
    seconds = {}
    for t in times:
        seconds[int(t - back)] = seconds.get(int(t - back), 0) + 1
    trial.row("most in one second", max(seconds.values()))
    trial.row("by second", " ".join(str(seconds.get(n, 0)) for n in range(min(12, max(seconds) + 1))))
    p99 = percentile(load.delivery_latencies(healthy.first(), back), 0.99)
    trial.row("new messages to others: p99, ms", p99 * 1000, "<= 1000", p99 <= 1)
    ledger = server.drained(10)
    trial.row("ledger balances, pending", (ledger["balances"], ledger["pending"]), "(True, 0)", ledger["balances"] and not ledger["pending"])
    server.terminate()
