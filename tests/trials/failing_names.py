#!/usr/bin/env python3
"""R21: a hundred endpoints whose names do not resolve, whatever this machine's resolver says to that (or does not).

Each attempt ends within the resolver's budget and says that it was DNS; a healthy endpoint in the same application does
not notice.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Load, Trial, percentile, until  # noqa: E402

BUDGET = 5.0

with Trial("failing_names", "R21: names that do not resolve bother nobody else") as trial:
    count = 1000 if trial.full else 100
    sink = trial.sink()
    server = trial.server(env={"SVIX_RETRY_SCHEDULE": "1,60"})
    server.start()
    api = server.api()
    api.event_types("lost", "found")
    app = api.application()
    api.endpoint(app, sink.url("/"), eventTypes=["found"])
    names = [f"trial-{n}.invalid" for n in range(count - 3)] + ["a." * 100 + "invalid", "x" * 63 + ".invalid", "xn--bcher-kva.invalid"]
    for name in names:
        api.endpoint(app, f"http://{name}/", eventTypes=["lost"])
    load = Load(server, app, rate=50, threads=6, type="found").start()
    time.sleep(3)
    begun = time.monotonic()
    lost = [api.message(app, {"n": n}, type="lost") for n in range(3)]
    finished = until(lambda: all(len({a["endpointId"] for a in api.attempts(app, id)}) == count for id in lost), 40, 0.3)
    done = time.monotonic()
    # And again and again, while the healthy one is measured.
    while time.monotonic() < begun + 5:
        api.message(app, {}, type="lost")
        time.sleep(0.2)
    over = time.monotonic()
    load.stop()
    until(lambda: len(sink.first()) >= len(load.acked), 5)
    attempts = [a for id in lost for a in api.attempts(app, id)]
    trial.row("endpoints, deliveries tried", (count, len(attempts)), f">= {3 * count}", finished)
    trial.row("  took s", done - begun)
    codes = {(a["responseStatusCode"], a["status"]) for a in attempts}
    trial.row("attempts (code, status)", sorted(codes), "[(0, 2)]", codes == {(0, 2)})
    texts = {}
    for a in attempts:
        texts[a["response"]] = texts.get(a["response"], 0) + 1
    for text, n in texts.items():
        trial.row(f"  {n} x", text[:70], "names DNS", "DNS" in text)
    longest = max((a["responseDurationMs"] for a in attempts), default=0) / 1000
    trial.row("longest attempt, s", longest, f"<= {BUDGET + 1}", longest <= BUDGET + 1)
    base = percentile(load.delivery_latencies(sink.first(), 0, begun), 0.99)
    p99 = percentile(load.delivery_latencies(sink.first(), begun, over), 0.99)
    trial.row("healthy endpoint: p99 before, ms", base * 1000)
    trial.row("healthy endpoint: p99 during, ms", p99 * 1000, f"<= {base * 1000 + 250:.0f}", p99 <= base + 0.25)
    server.terminate()
