#!/usr/bin/env python3
"""throttleRate 5, of an endpoint and of an application: never more than 5 attempts in any second, and all arrive."""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Trial, until  # noqa: E402
from sink import number  # noqa: E402

RATE, MESSAGES = 5, 30

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
    until(lambda: all(sum(a.path == path for a in sink.arrivals) >= n for path, n in wanted.items()), 4 * MESSAGES / RATE)
    trial.row("messages, sent within s", f"{MESSAGES} in {sent:.2f}")
    for path, count in wanted.items():
        times = sorted(a.time for a in sink.arrivals if a.path == path)
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
    server.terminate()
