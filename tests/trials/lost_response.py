#!/usr/bin/env python3
"""R31: the receiver takes the request, and its answer is lost; or it closes an idle connection without a word.

A lost answer is recorded as what it is and tried again by the schedule, once. A connection that was closed while idle
is no failure: each message arrives once and succeeds.
"""

import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Trial, until  # noqa: E402

with Trial("lost_response", "R31: lost answers are recorded, silent closes double nothing") as trial:
    sink = trial.sink(lambda path, id, body, n: None if path == "/lost" and n == 1 and json.loads(body)["lose"] else 200)
    # Short enough that a message whose connection is closed under it several times in a row still arrives within the trial.
    server = trial.server(env={"SVIX_RETRY_SCHEDULE": "1,1,1,60"})
    server.start()
    api = server.api()
    lost, closing = api.application("lost"), api.application("closing")
    api.endpoint(lost, sink.url("/lost"))
    api.endpoint(closing, sink.url("/closing"))
    # Every fifth is lost, so that the endpoint is not taken for dead.
    every = {api.message(lost, {"n": n, "lose": n % 5 == 0}): n % 5 == 0 for n in range(100)}
    sent = [id for id, lose in every.items() if lose]
    until(lambda: len(sink.ids("/lost")) >= len(every), 10)
    time.sleep(0.5)
    arrived = sink.ids("/lost", taken=False)
    counts = sorted({arrived[id] for id in sent})
    others = sorted({arrived[id] for id, lose in every.items() if not lose})
    trial.row("answer not lost: arrivals per message", others, "[1]", others == [1])
    trial.row("answer lost: arrivals per message", counts, "[2]", counts == [2])
    attempts = [api.attempts(lost, id) for id in sent]
    told = {tuple((a["responseStatusCode"], a["status"]) for a in each) for each in attempts}
    trial.row("  attempts (code, status)", sorted(told), "[((0, 2), (200, 0))]", told == {((0, 2), (200, 0))})
    texts = {each[0]["response"] for each in attempts}
    trial.row("  said of the first", sorted(texts), "that no response came", len(texts) == 1 and "without a response" in min(texts))

    # Closed a moment after each answer, so that the next request meets a connection that is closing, closed or open.
    sink.closing = lambda: trial.random.choice((0.0, 0.0005, 0.001, 0.002, 0.005, 0.02))
    sent = []
    for n in range(2000 if trial.full else 400):
        sent.append(api.message(closing, {"n": n}))
        time.sleep(trial.random.choice((0, 0.001, 0.003, 0.01)))
    until(lambda: len(sink.ids("/closing")) >= len(sent), 5)
    ledger = server.drained(10)
    arrivals = sink.ids("/closing")
    trial.row("silent closes: messages", len(sent))
    trial.row("  arrived", len(arrivals), str(len(sent)), set(arrivals) == set(sent))
    doubled = sum(n - 1 for n in arrivals.values())
    trial.row("  arrived twice", doubled, "0", doubled == 0)
    tries = [len(api.attempts(closing, id)) for id in sent]
    again = sum(n > 1 for n in tries)
    trial.row("  with more than one attempt", again, f"<= {len(sent) // 20}", again <= len(sent) // 20)
    trial.row("ledger balances, pending", (ledger["balances"], ledger["pending"]), "(True, 0)", ledger["balances"] and not ledger["pending"])
    server.terminate()
