#!/usr/bin/env python3
"""A FIFO endpoint fails often, and the server is stopped and killed: the order holds all the same.

No message is attempted while an earlier one has not ended. After a kill the last ones may come again (their outcome was
not yet durable), which is counted; an endpoint without FIFO beside it is not held up.
"""

import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Load, Trial, until  # noqa: E402


def answer(path, id, body, n):
    # One in seven fails once or twice; each takes a moment, so that an overtaking would be seen.
    failures = hash(id) % 7 if path == "/fifo" else 0
    return (500 if failures in (1, 2) and n <= failures else 200), 0.002


with Trial("fifo_order", "FIFO order under failures and restarts") as trial:
    rounds = 60 if trial.full else 8
    sink = trial.sink(answer, keep=True)
    server = trial.server(env={"SVIX_RETRY_SCHEDULE": ",".join(["0.1"] * 20)})
    server.start()
    api = server.api()
    app = api.application()
    shown = api.call("POST", f"/app/{app}/endpoint", {"url": sink.url("/fifo"), "fifo": True})
    trial.row("the endpoint shows fifo", shown.get("fifo"), "True", shown.get("fifo") is True)
    api.endpoint(app, sink.url("/plain"))
    # One producer, one request after the other: the order of its messages is the order of their numbers.
    load = Load(server, app, rate=60, threads=1).start()
    kills = []
    for n in range(rounds):
        time.sleep(trial.random.uniform(0.5, 2.0))
        kills.append(time.monotonic())
        server.kill() if n % 2 else server.terminate()
        server.start()
    load.stop()
    until(lambda: len(sink.ids("/fifo")) >= len(load.acked), 60, 0.1)
    number = {id: n for id, (n, _, _) in load.acked.items()}
    ended, reached, overtaken, again, strangers = set(), -1, 0, 0, 0
    for a in sink.arrivals:
        if a.path != "/fifo":
            continue
        n = json.loads(a.body)["n"]
        strangers += a.id not in number
        if n < reached:
            again += 1
        reached = max(reached, n)
        overtaken += any(earlier not in ended for earlier in range(max(0, n - 200), n))
        if a.status == 200:
            ended.add(n)
    trial.row("messages", len(load.acked))
    trial.row("stops and kills", rounds)
    trial.row("failed attempts", sum(a.status == 500 for a in sink.arrivals))
    trial.row("arrived", len(ended), str(len(load.acked)), len(ended) == len(load.acked) and not strangers)
    trial.row("attempted before an earlier one had ended", overtaken, "0", overtaken == 0)
    trial.row("came again after a later one", again, f"<= {rounds}", again <= rounds)
    trial.row("delivered twice", sum(n - 1 for n in sink.ids("/fifo").values()))
    ledger = server.drained(20)
    trial.row("ledger balances, pending", (ledger["balances"], ledger["pending"]), "(True, 0)", ledger["balances"] and not ledger["pending"])
    trial.row("plain endpoint: arrived", len(sink.ids("/plain")), str(len(load.acked)), len(sink.ids("/plain")) == len(load.acked))
    server.terminate()
