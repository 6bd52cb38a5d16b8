#!/usr/bin/env python3
"""kill -9 at random moments while plugins of every kind run: nothing answered is lost, rows are there once, no process outlives its server.

Each message goes to six endpoints: a program that leaves something behind and takes its time, rows in a SQLite and in a real PostgreSQL, by
TCP and by its socket (keyed by the message), a handler that fetches, and a note with a digest. What the deadline or the kill cut off is run again.
"""

import pathlib
import sqlite3
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Load, Trial, until  # noqa: E402
from postgres import PostgreSQL  # noqa: E402

ROW = "INSERT INTO seen VALUES ({{dedupe}}, {{payload.n}}, 1) ON CONFLICT (id) DO UPDATE SET runs = seen.runs + 1"
FETCH = """
export async function handle(event, ctx) {
  const answer = await fetch(ctx.variables.url, { method: 'POST', headers: { 'webhook-id': event.id }, body: event.payload })
  if (!answer.ok) ctx.retry()
  return answer.status
}
"""


def alive(mark):
    """Processes of ours that have the mark in their arguments, and run."""
    found = []
    for place in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (place / "cmdline").read_bytes() and (place / "stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX":
                found.append(place.name)
        except OSError:
            pass
    return found


with Trial("plugins", "plugins of every kind survive kill -9 of their server, and nothing of theirs does") as trial:
    rounds = 100 if trial.full else 20
    sink = trial.sink(lambda path, id, body, n: (200, 0.05))
    postgres = PostgreSQL()
    trial.stack.callback(postgres.stop)
    postgres.sql("CREATE TABLE seen (id text PRIMARY KEY, n bigint, runs int); CREATE TABLE seen_by_socket (LIKE seen INCLUDING ALL)")
    lite = trial.folder / "seen.db"
    with sqlite3.connect(lite) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE seen (id TEXT PRIMARY KEY, n INTEGER, runs INTEGER)")
    done, mark = trial.folder / "done", f"bellwire-trial-{trial.options.seed}"
    done.touch()
    databases = f"lite=sqlite:{lite},pg=postgres://admin@127.0.0.1:{postgres.port}/postgres?sslmode=disable,socket={postgres.socket_url('admin')}"
    server = trial.server(env={
        "BELLWIRE_PLUGINS_COMMANDS": "/bin,/usr/bin",
        "BELLWIRE_PLUGINS_DATABASES": databases,
        "BELLWIRE_DELIVERY_RETRY_SCHEDULE": "1s,1s,1s,2s,2s,5s,5s,5s,5s,5s",
    })
    server.start()
    api = server.api()
    app = api.application()

    def plugin(runs, **settings):
        path = f"/app/{app}/endpoint"
        return api.call("POST", path, {"kind": "plugin", "plugin": {"runs": runs, **settings}})["id"]

    script = f'(sleep 600; : {mark}) & sleep 0.05; echo "$BELLWIRE_MESSAGE_ID" >> {done}'
    endpoints = {
        "command": plugin("command", program="/bin/sh", args=["-c", script]),
        "sqlite": plugin("sql", connection="lite", statements=[ROW]),
        "postgres": plugin("sql", connection="pg", statements=[ROW]),
        "socket": plugin("sql", connection="socket", statements=[ROW.replace("seen", "seen_by_socket")]),
        "javascript": plugin("javascript", script=FETCH, variables={"url": sink.url("/fetch")}),
        "notify": plugin("notify", via="slack", webhook_url=sink.url("/note"), text="{{payload.n}}", digest={"window_ms": 500, "at_most": 2}),
    }

    load = Load(server, app, rate=40, threads=8).start()
    left = []
    for _ in range(rounds):
        time.sleep(trial.random.uniform(0.3, 1.5))
        server.kill()
        # The warden gives them two seconds between SIGTERM and SIGKILL.
        if not until(lambda: not alive(mark), 10, 0.05):
            left += alive(mark)
        server.start()
    load.stop()
    ledger = server.drained(120)
    acked = load.acked_ids()
    trial.row("messages answered", len(acked))
    trial.row("kills", rounds)
    trial.row("never answered", load.unknown, "0", load.unknown == 0)
    trial.row("processes that outlived a killed server", len(left), "0", not left)
    trial.row("processes that outlived their program", len(alive(mark)), "0", not alive(mark))

    def seen(name, ids, runs=None):
        ids = set(ids)
        trial.row(f"{name}: lost", len(acked - ids), "0", not acked - ids)
        trial.row(f"{name}: of messages never answered", len(ids - acked), "0", not ids - acked)
        if runs is not None:
            trial.row(f"{name}: runs beyond the first", runs)

    lines = done.read_text().split()
    seen("program", lines, len(lines) - len(set(lines)))
    with sqlite3.connect(lite) as database:
        rows = database.execute("SELECT id, runs FROM seen").fetchall()
        twice = database.execute("SELECT count(*) FROM (SELECT n FROM seen GROUP BY n HAVING count(*) > 1)").fetchone()[0]
    seen("SQLite", (id for id, _ in rows), sum(runs for _, runs in rows) - len(rows))
    trial.row("SQLite: two rows for one message", twice, "0", twice == 0)
    for name, table in [("PostgreSQL", "seen"), ("PostgreSQL at its socket", "seen_by_socket")]:
        rows = [line.split("|") for line in postgres.sql(f"SELECT id, runs FROM {table}").splitlines()]
        seen(name, (id for id, _ in rows), sum(int(runs) for _, runs in rows) - len(rows))
    seen("handler", sink.ids("/fetch"))
    trial.row("pending at the end", ledger["pending"], "0", ledger["pending"] == 0)
    trial.row("delivered", ledger["delivered"], str(len(acked) * len(endpoints)), ledger["delivered"] == len(acked) * len(endpoints))
    trial.row("ledger balances", ledger["balances"], "True", ledger["balances"])
    server.terminate()
    trial.row("processes after a stop", len(alive(mark)), "0", until(lambda: not alive(mark), 5))
