#!/usr/bin/env python3
"""R03: the N-th fsync, fdatasync or write of a thread fails with EIO, for several N.

A failed sync is fatal: the process ends with a failure and never goes on as if nothing had been (the kernel may have
dropped the pages; a second sync would succeed and mean nothing). A failed write may be refused or be fatal. Either way
a restart finds everything that was answered.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Died, Load, Trial, strace, until  # noqa: E402

SYNC, WRITE = "fsync,fdatasync", "pwrite64"

with Trial("failing_disk", "R03: a failed sync ends the process, and nothing answered is lost") as trial:
    if trial.full:
        cases = [(SYNC, str(n)) for n in range(1, 201)] + [(WRITE, str(n)) for n in range(1, 401, 2)]
    else:
        cases = [(SYNC, n) for n in ("1", "2", "3", "6", "15", "60", "10+")] + [(WRITE, n) for n in ("4", "33", "200")]
    sink = trial.sink()
    server = trial.server()
    server.start()
    app = server.api().application()
    server.api().endpoint(app, sink.url("/"))
    acked, refusals = set(), 0
    for call, when in cases:
        server.terminate()
        server.wrapper = strace(server.folder, call, "EIO", when)
        name = f"{call} #{when}"
        load = None
        try:
            server.start()
            load = Load(server, app, rate=300, threads=8).start()
            ended = until(lambda: server.process.poll() is not None, 8 if call == SYNC else 2.5, 0.01)
        except Died:
            ended = True
        reached = "EIO" in (server.folder / "strace.log").read_text()
        code = server.process.poll()
        if not ended:
            server.kill()
        server.wrapper = []
        ready = server.start()
        if load:
            time.sleep(0.2)
            load.stop()
            acked |= load.acked_ids()
            refusals += sum(load.refused.values())
            if load.twice or load.unknown:
                trial.row(f"{name}: one id for two keys, never answered", (load.twice, load.unknown), "(0, 0)", False)
        what = f"{name} while {'serving' if load else 'starting'}"
        figures = f"exit {code}, ready again in {ready:.2f} s"
        if not reached:
            trial.row(what, figures, "not reached")
        elif call == SYNC:
            trial.row(what, figures, "exit > 0", ended and bool(code))
        else:
            trial.row(what, figures, "exit > 0 or goes on", code != 0)
    until(lambda: acked <= set(sink.ids()), 15, 0.1)
    ledger = server.drained(15)
    lost = acked - set(sink.ids())
    trial.row("answered", len(acked))
    trial.row("refused by a status", refusals)
    trial.row("lost", len(lost), "0", not lost)
    trial.row("ledger: accepted - answered", ledger["accepted"] - len(acked), "0", ledger["accepted"] == len(acked))
    trial.row("ledger balances, pending", (ledger["balances"], ledger["pending"]), "(True, 0)", ledger["balances"] and not ledger["pending"])
    trial.row("delivered twice", sum(n - 1 for n in sink.ids().values()))
    server.terminate()
