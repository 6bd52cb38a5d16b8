#!/usr/bin/env python3
"""R12 and R34: SIGTERM at random moments under load, again and again; the last time with endpoints that never answer.

The process ends with 0 within its deadline, having finished what was on its way: a producer that repeats a request with
its key sees no failure, nothing is lost, and nothing is sent twice.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Load, Trial, until  # noqa: E402

DEADLINE = 20.0

with Trial("shutdown", "R12, R34: SIGTERM under load ends in time and loses nothing") as trial:
    rounds = 500 if trial.full else 30
    sink = trial.sink(lambda path, id, body, n: "hang" if path == "/hang" else (200, 0.02))
    server = trial.server(env={"SVIX_WORKER_REQUEST_TIMEOUT": "28"})
    server.start()
    api = server.api()
    app = api.application()
    api.endpoint(app, sink.url("/"))
    load = Load(server, app, rate=300, threads=12).start()
    codes, took, ready = [], [], []
    for _ in range(rounds):
        time.sleep(trial.random.uniform(0.05, 0.9))
        code, seconds = server.terminate(DEADLINE + 5)
        codes.append(code)
        took.append(seconds)
        ready.append(server.start())
    load.stop()
    until(lambda: len(sink.first("/")) >= len(load.acked), 15, 0.1)
    ledger = server.drained(15)
    acked, taken = load.acked_ids(), sink.ids("/")
    trial.row("SIGTERMs", rounds)
    trial.row("exit codes", sorted(set(codes), key=str), "[0]", set(codes) == {0})
    trial.row("took, median s", sorted(took)[rounds // 2])
    trial.row("took, longest s", max(took), f"<= {DEADLINE}", max(took) <= DEADLINE + 1)
    trial.row("ready again, longest s", max(ready), "<= 5", max(ready) <= 5)
    trial.row("answered", len(acked))
    trial.row("failed though repeated", load.unknown + sum(load.refused[s] for s in load.refused if s != 503), "0", not load.unknown and set(load.refused) <= {503})
    trial.row("told to come back (503)", load.refused[503])
    trial.row("lost", len(acked - set(taken)), "0", not acked - set(taken))
    doubled = sum(n - 1 for n in taken.values())
    trial.row("delivered twice", doubled, "0", doubled == 0)
    trial.row("ledger: accepted - answered", ledger["accepted"] - len(acked), "0", ledger["accepted"] == len(acked))
    trial.row("ledger balances, pending", (ledger["balances"], ledger["pending"]), "(True, 0)", ledger["balances"] and not ledger["pending"])

    # Endpoints that never answer must not keep the process from ending.
    other = server.api().application("hanging")
    for _ in range(20):
        server.api().endpoint(other, sink.url("/hang"))
    stuck = server.api().message(other, {})
    until(lambda: sink.seen["/hang", stuck] >= 20, 5)
    code, seconds = server.terminate(DEADLINE + 5)
    trial.row("with endpoints that hang: exit code", code, "0", code == 0)
    trial.row("  took s", seconds, f"<= {DEADLINE + 2}", seconds <= DEADLINE + 2)
    server.start()
    ledger = server.ledger()
    trial.row("  still owed after it", ledger["pending"], "20", ledger["pending"] == 20 and ledger["balances"])
    server.kill()
