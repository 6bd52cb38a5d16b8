#!/usr/bin/env python3
"""R30: an endpoint is disabled, deleted, moved or given a new secret while its deliveries are in flight.

From the moment the API has answered, no attempt starts by the old settings. What waits for a disabled endpoint is sent
when it is enabled again; what waits for a deleted one ends as `endpoint_deleted`.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Load, Trial, until  # noqa: E402
from sink import signatures  # noqa: E402

# An attempt that started before the answer may arrive so much after it.
ON_ITS_WAY = 0.1

with Trial("disable_in_flight", "R30: no attempt starts by the old settings once the API has answered") as trial:
    rounds = 50 if trial.full else 6
    sink = trial.sink(lambda path, id, body, n: (200, 0.03), keep=True)
    server = trial.server()
    server.start()
    api = server.api()
    app = api.application()
    load = Load(server, app, rate=200, threads=8).start()
    late = {"disable": [], "delete": [], "url": [], "rotate": []}
    looked_at = dict.fromkeys(late, 0)
    for n in range(rounds):
        path, moved = f"/{n}", f"/{n}/moved"
        endpoint = api.endpoint(app, sink.url(path))
        where = f"/app/{app}/endpoint/{endpoint}"
        time.sleep(0.3)

        old = api.secret(app, endpoint)
        new = api.call("POST", f"{where}/secret/rotate", {})["key"]
        answered = time.monotonic()
        time.sleep(0.3)
        for a in [a for a in sink.arrivals if a.path == path and a.time > answered + ON_ITS_WAY]:
            given = (a.headers.get("webhook-signature") or a.headers.get("svix-signature")).split(" ")
            wanted = {signatures(key, a.id, a.stamp, a.body) for key in (new, old)}
            late["rotate"] += [a] if not wanted <= set(given) else []
            looked_at["rotate"] += 1

        api.call("PATCH", where, {"url": sink.url(moved)})
        answered = time.monotonic()
        time.sleep(0.3)
        late["url"] += [a for a in sink.arrivals if a.path == path and a.time > answered + ON_ITS_WAY]
        looked_at["url"] += sum(a.path == moved for a in sink.arrivals)

        api.call("PATCH", where, {"disabled": True})
        answered = time.monotonic()
        time.sleep(0.4)
        late["disable"] += [a for a in sink.arrivals if a.path == moved and answered + ON_ITS_WAY < a.time]
        looked_at["disable"] += sum(a.path == moved for a in sink.arrivals)
        api.call("PATCH", where, {"disabled": False})
        time.sleep(0.3)
        if n % 2:
            api.call("DELETE", where)
            answered = time.monotonic()
            time.sleep(0.4)
            late["delete"] += [a for a in sink.arrivals if a.path == moved and answered + ON_ITS_WAY < a.time]
            looked_at["delete"] += 1
    load.stop()
    for what, found in late.items():
        trial.row(f"{what}: attempts by the old settings after the answer", len(found), "0", not found)
        trial.row("  of", looked_at[what], "> 0", looked_at[what] > 0)
    ledger = server.drained(20)
    trial.row("ledger", {k: ledger[k] for k in ("accepted", "matched", "delivered", "pending", "ended")})
    trial.row("ledger balances, pending", (ledger["balances"], ledger["pending"]), "(True, 0)", ledger["balances"] and not ledger["pending"])
    endings = {name for name, n in ledger["ended"].items() if n}
    trial.row("ended otherwise than by deletion", sorted(endings - {"endpoint_deleted"}), "[]", endings <= {"endpoint_deleted"})
    distinct = {(a.path.split("/")[1], a.id) for a in sink.arrivals}
    trial.row("arrived twice", len(sink.arrivals) - len(distinct), "0", len(sink.arrivals) == len(distinct))
    # What was on its way when its endpoint was deleted has ended by the deletion, whatever the receiver then said.
    over, deleted = len(distinct) - ledger["delivered"], ledger["ended"].get("endpoint_deleted", 0)
    trial.row("arrived - delivered", over, f"0 to {deleted} (deleted)", 0 <= over <= deleted)
    server.terminate()
