#!/usr/bin/env python3
"""R06: the disk fills up under load, and is freed again.

While it is full a producer is told so (503 or 507 with Retry-After) and nothing that was answered is lost; what is
stored goes on being delivered where it can be; once there is room, messages are accepted within 5 s without a restart.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Connection, Load, Trial, until  # noqa: E402

with Trial("full_disk", "R06: a full disk refuses, loses nothing, and recovers by itself") as trial:
    sink = trial.sink(lambda path, id, body, n: 500 if path == "/waiting" and not opened else 200)
    opened = False
    disk = trial.tmpfs(48)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(24 << 20))
    server = trial.server(data=disk / "data", env={"SVIX_RETRY_SCHEDULE": "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1"})
    server.start()
    api = server.api()
    app = api.application()
    api.endpoint(app, sink.url("/now"))
    waiting = api.application("waiting")
    api.endpoint(waiting, sink.url("/waiting"))
    parked = {api.message(waiting, {"n": n}) for n in range(20)}

    pad = "x" * 8000
    load = Load(server, app, rate=600, threads=12, payload=lambda n: {"n": n, "pad": pad}).start()
    full = until(lambda: load.refused, 60, 0.05) or server.process.poll() is not None
    filled_at = time.monotonic() - load.begun
    time.sleep(2.0)
    opened = True
    # The waiting ones were stored: they arrive though nothing new can be stored (their outcome may have to wait).
    went_on = until(lambda: parked <= set(sink.first("/waiting")), 5)
    alive = server.process.poll() is None
    ping = Connection(server.port).request("GET", "/api/v1/health/ping").status if alive else 0
    refused = dict(load.refused)
    reads = server.api().call("GET", f"/app/{app}/msg?limit=1&with_content=false") if alive else {"data": []}
    before = len(load.acked)
    ballast.unlink()
    freed = time.monotonic()
    again = until(lambda: any(done > freed for _, _, done in list(load.acked.values())[before:]), 15, 0.01)
    recovered = time.monotonic() - freed
    time.sleep(0.5)
    load.stop()
    until(lambda: len(sink.first("/now")) >= len(load.acked), 20, 0.1)
    ledger = server.drained(40)

    trial.row("answered before it was full", before)
    trial.row("full after s", filled_at, "", None)
    trial.row("refused, by status", refused, "503 or 507", bool(full and refused) and set(refused) <= {503, 507})
    trial.row("refusals without Retry-After", sum(load.refused.values()) - load.retry_after, "0", load.retry_after == sum(load.refused.values()))
    trial.row("process alive", alive, "True", alive)
    trial.row("ping while full", ping, "", None)
    trial.row("lists answer while full", len(reads["data"]), "1", len(reads["data"]) == 1)
    trial.row("stored ones were delivered while full", went_on, "True", went_on)
    trial.row("accepts again after s", recovered, "<= 5", again and recovered <= 5)
    lost = set(load.acked_ids()) - set(sink.ids("/now"))
    trial.row("answered", len(load.acked))
    trial.row("lost", len(lost), "0", not lost)
    trial.row("parked messages lost", len(parked - set(sink.ids("/waiting"))), "0", parked <= set(sink.ids("/waiting")))
    trial.row("two messages of one key", load.twice, "0", load.twice == 0)
    trial.row("delivered twice", sum(c - 1 for c in sink.ids("/now").values()), "", None)
    accepted = ledger["accepted"] - len(load.acked) - len(parked)
    trial.row("ledger: accepted - answered", accepted, "0", accepted == 0)
    trial.row("ledger balances, nothing pending", (ledger["balances"], ledger["pending"]), "(True, 0)", ledger["balances"] and not ledger["pending"])
    server.kill()
    ready = server.start()
    after = server.ledger()
    trial.row("ready after a kill -9, s", ready, "<= 5", ready <= 5)
    trial.row("ledger after it", "same" if after == ledger else after, "same", after == ledger)
    server.terminate()
