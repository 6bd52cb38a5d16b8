#!/usr/bin/env python3
"""R32: copies made under load, a kill, and a copy put in the server's place.

Every copy must be sound, its ledger must come out, and every message that was answered before the copy was begun must be in it. The last
one is restored into an empty folder after kill -9; the server that starts there lists those messages, and delivers each
that had not been delivered.
"""

import json
import pathlib
import shutil
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Load, Trial, percentile, until  # noqa: E402


def answer(path, id, body, n):
    # Every third message waits for a retry at any moment.
    return 500 if path == "/flaky" and n == 1 and hash(id) % 3 == 0 else (200, 0.005)


with Trial("backup", "R32: copies under load are whole and can take the server's place") as trial:
    rounds = 20 if trial.full else 5
    sink = trial.sink(answer)
    server = trial.server()
    server.start()
    api = server.api()
    app = api.application()
    endpoints = {path: api.endpoint(app, sink.url(path)) for path in ("/healthy", "/flaky")}
    sink.secrets = {path: api.secret(app, endpoint) for path, endpoint in endpoints.items()}

    load = Load(server, app, rate=400, threads=12).start()
    time.sleep(2)
    calm = time.monotonic()
    took, unsound, lost, spans, last = [], [], 0, [], None
    for n in range(rounds):
        time.sleep(trial.random.uniform(0.1, 1.0))
        before = set(load.acked)
        copy = trial.folder / f"copy{n}"
        begun = time.monotonic()
        done = server.command("backup", str(copy), "--data", str(server.data), "--json")
        spans.append((begun, time.monotonic()))
        took.append(spans[-1][1] - begun)
        if done.returncode:
            unsound.append(f"{done.returncode}: {done.stdout}{done.stderr}")
            continue
        made = json.loads(done.stdout)["check"]
        balance = made["ledger"]["delivered"] + made["ledger"]["pending"] + sum(made["ledger"]["ended"].values())
        if not made["sound"] or balance != made["ledger"]["matched"] or made["messages"] < len(before):
            unsound.append(json.dumps(made))
        if last:
            shutil.rmtree(last[0])
        last = copy, before, made
    beside = server.command("check", "--data", str(server.data), "--json")
    time.sleep(0.5)
    server.kill()
    load.stop(0.1)

    trial.row("messages answered", len(load.acked))
    trial.row("copies", rounds)
    trial.row("copies that are not sound", len(unsound), "0", not unsound)
    for text in unsound[:1]:
        trial.note(text)
    trial.row("a copy takes, longest s, its check included", max(took))
    quiet = load.latencies(load.begun, calm)
    busy = [latency for begun, over in spans for latency in load.latencies(begun, over)]
    trial.row("answers: p99 before, ms", percentile(quiet, 0.99) * 1000)
    trial.row("answers: p99 while copying, ms", percentile(busy, 0.99) * 1000)
    trial.row("answers: longest while copying, s", max(busy, default=0.0), "<= 5", max(busy, default=0.0) <= 5)
    trial.row("refused", dict(load.refused) or 0, "0", not load.refused)
    trial.row("a check beside the server, exit code", beside.returncode, "0", beside.returncode == 0)

    copy, before, made = last
    second = trial.server()
    restored = second.command("restore", str(copy), "--data", str(second.data))
    trial.row("restore, exit code", restored.returncode, "0", restored.returncode == 0)
    again = second.command("restore", str(copy), "--data", str(second.data))
    trial.row("restore over it, exit code", again.returncode, "not 0", again.returncode != 0)
    ledger = second.ledger()
    trial.row("ledger before the start", ledger["pending"], f"as copied: {made['ledger']['pending']}", ledger["pending"] == made["ledger"]["pending"])
    trial.row("ready, s", second.start(), "<= 5", True)
    listed = {m["id"] for m in second.api().pages(f"/app/{app}/msg?with_content=false")}
    trial.row("answered before the copy", len(before))
    trial.row("of these not in its list", len(before - listed), "0", not before - listed)
    until(lambda: all(before <= set(sink.first(path)) for path in endpoints), 20, 0.2)
    for path in endpoints:
        missing = before - set(sink.first(path))
        trial.row(f"never arrived at {path}", len(missing), "0", not missing)
    ledger = second.drained(20)
    trial.row("pending at the end", ledger["pending"], "0", ledger["pending"] == 0)
    trial.row("ledger balances", ledger["balances"], "True", ledger["balances"])
    check = second.command("check", "--data", str(second.data), "--json")
    trial.row("its check, exit code", check.returncode, "0", check.returncode == 0)
    if check.returncode:
        trial.note(check.stdout + check.stderr)
    trial.row("wrong signatures", sink.unsigned, "0", sink.unsigned == 0)
    second.terminate()
