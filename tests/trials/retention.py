#!/usr/bin/env python3
"""R26: retention under load: a server that keeps everything for a few seconds, under a steady stream of messages.

What it frees it uses again, so the data folder levels off; the ledger still comes out; nothing goes before its time;
and who sends messages does not notice that others are being removed.
"""

import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Load, Trial, percentile, until  # noqa: E402

KEPT = 10
RATE, PAD = 400, "x" * 2_000


def megabytes(folder):
    return sum(p.stat().st_size for p in folder.iterdir() if p.name.startswith("bellwire.db")) / 1e6


with Trial("retention", "R26: what is past its retention goes under load, and the data folder levels off") as trial:
    seconds = 300 if trial.full else 60
    sink = trial.sink()
    server = trial.server(env={"BELLWIRE_STORE_RETENTION": f"{KEPT}s"})
    server.start()
    api = server.api()
    app = api.application()
    api.endpoint(app, sink.url("/"))
    load = Load(server, app, rate=RATE, threads=8, payload=lambda n: {"n": n, "pad": PAD}).start()
    sizes, tables, early = [], [], 0
    for _ in range(seconds):
        time.sleep(1.0)
        sizes.append(megabytes(server.data))
        tables.append((server.data / "bellwire.db").stat().st_size / 1e6)
        # What was answered a moment ago, and what was half as long ago as it is kept, is there.
        now = time.monotonic()
        for age in (0.5, KEPT / 2):
            some = [id for id, (_, _, done) in list(load.acked.items())[-int(RATE * KEPT):] if age <= now - done < age + 1.0]
            if some:
                found = api.connection.request("GET", f"/api/v1/app/{app}/msg/{some[len(some) // 2]}")
                early += found.status != 200
    load.stop()
    drained = server.drained(20)
    answered = len(load.acked)
    arrived = until(lambda: len(sink.first("/")) >= answered, 20, 0.1)
    begun = load.begun
    # Nothing is old enough to go during the first seconds.
    before = percentile(load.latencies(begun + 1, begun + KEPT - 1), 0.99) * 1000
    under = percentile(load.latencies(begun + seconds / 2, begun + seconds), 0.99) * 1000
    third = len(sizes) // 3
    middle, last = max(sizes[third:2 * third]), max(sizes[2 * third:])
    written = answered * (len(PAD) + 300) / 1e6

    trial.row("answered", answered)
    trial.row("payloads taken, MB", written)
    trial.row("data folder after each sixth, MB", [round(sizes[i * len(sizes) // 6 - 1], 1) for i in range(1, 7)], "", None)
    trial.row("largest in the last third / in the second", last / middle, "<= 1.2", last <= middle * 1.2)
    trial.row("database without its log / all payloads taken", max(tables) / written, "<= 0.9", max(tables) <= written * 0.9)
    trial.row("gone before their time", early, "0", early == 0)
    trial.row("p99 of the answer before anything goes, ms", before)
    trial.row("p99 of the answer while it goes, ms", under, f"<= {max(2 * before, 50):.0f}", under <= max(2 * before, 50))
    trial.row("median of the answer while it goes, ms", statistics.median(load.latencies(begun + seconds / 2)) * 1000)
    trial.row("refused or in trouble", (dict(load.refused), dict(load.trouble)), "none", not load.refused and not load.trouble)
    trial.row("delivered", len(sink.first("/")), str(answered), arrived)
    sums = (drained["accepted"], drained["delivered"], drained["pending"], drained["balances"])
    trial.row("ledger: accepted, delivered, pending, balances", sums, f"({answered}, {answered}, 0, True)", sums == (answered, answered, 0, True))
    # What came last is not indexed yet, so it goes within a minute of quiet, or with the next messages.
    left = len(api.call("GET", f"/app/{app}/msg?limit=250")["data"])
    trial.row("still listed a moment after, of the last 250", left)
    server.kill()
    server.start()
    after = server.ledger()
    trial.row("ledger after a kill -9", "same" if after == drained else after, "same", after == drained)
    server.terminate()
