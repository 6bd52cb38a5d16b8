#!/usr/bin/env python3
"""R29: a hundred producers publish with the same idempotency key at once.

One message comes of it and all are told the same id; the same key with another body is refused by 409. The same for
`eventId`, which may be used once. Holds across a kill -9.
"""

import pathlib
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Connection, Trial, until  # noqa: E402

with Trial("idempotency_race", "R29: one key, one message, whoever comes first") as trial:
    rounds, parallel = (1000 if trial.full else 20), 100
    sink = trial.sink()
    server = trial.server()
    server.start()
    api = server.api()
    app = api.application()
    api.endpoint(app, sink.url("/"))
    connections = [Connection(server.port, token=server.token()) for _ in range(parallel)]
    for connection in connections:
        connection.request("GET", "/api/v1/health/ping")

    def race(request):
        """All at once; `request(i)` gives (body, headers). Returns the answers."""
        answers, barrier = [None] * parallel, threading.Barrier(parallel)

        def run(i):
            body, headers = request(i)
            barrier.wait()
            try:
                answers[i] = connections[i].request("POST", f"/api/v1/app/{app}/msg", body, headers)
            except OSError as error:
                answers[i] = error

        threads = [threading.Thread(target=run, args=(i,)) for i in range(parallel)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        return answers

    def good(answers):
        return [a for a in answers if getattr(a, "status", 0) == 202]

    expected, unequal, unanswered = 0, 0, 0
    for n in range(rounds):
        answers = race(lambda i: ({"eventType": "race", "payload": {"n": n}}, {"idempotency-key": f"race-{n}"}))
        bodies = {a.body for a in good(answers)}
        unequal += len(bodies) != 1
        unanswered += parallel - len(good(answers))
        expected += 1
    trial.row("races", f"{rounds} x {parallel}")
    trial.row("races with unequal answers", unequal, "0", unequal == 0)
    trial.row("requests not answered by 202", unanswered, "0", unanswered == 0)

    # The body of the winner only; everyone else is refused.
    winners, wrong = [], 0
    for n in range(max(1, rounds // 4)):
        answers = race(lambda i: ({"eventType": "race", "payload": {"i": i}}, {"idempotency-key": f"bodies-{n}"}))
        winners.append(len(good(answers)))
        wrong += sum(getattr(a, "status", 0) not in (202, 409) for a in answers)
        expected += 1
    trial.row("one key, many bodies: accepted per race", sorted(set(winners)), "[1]", set(winners) == {1})
    trial.row("  answered by neither 202 nor 409", wrong, "0", wrong == 0)

    winners, wrong = [], 0
    for n in range(max(1, rounds // 4)):
        answers = race(lambda i: ({"eventType": "race", "eventId": f"event-{n}", "payload": {"n": n}}, {"idempotency-key": f"e-{n}-{i}"}))
        winners.append(len({a.json()["id"] for a in good(answers)}))
        wrong += sum(getattr(a, "status", 0) not in (202, 409) for a in answers)
        expected += 1
    trial.row("one eventId, many keys: messages per race", sorted(set(winners)), "[1]", set(winners) == {1})
    trial.row("  answered by neither 202 nor 409", wrong, "0", wrong == 0)

    server.kill()
    server.start()
    for connection in connections:
        connection.close()
    again = connections[0].request("POST", f"/api/v1/app/{app}/msg", {"eventType": "race", "payload": {"n": 0}}, {"idempotency-key": "race-0"})
    other = connections[0].request("POST", f"/api/v1/app/{app}/msg", {"eventType": "race", "payload": {"n": "other"}}, {"idempotency-key": "race-0"})
    spaces = connections[0].request("POST", f"/api/v1/app/{app}/msg", b'{"eventType": "race",  "payload":{"n":0} }', {"idempotency-key": "race-0"})
    trial.row("after a kill -9: the same again", again.status, "202", again.status == 202)
    trial.row("after a kill -9: another body", other.status, "409", other.status == 409)
    trial.row("the same body, spaced otherwise", spaces.status, "202 or 409", spaces.status in (202, 409))
    until(lambda: len(sink.first()) >= expected, 10)
    ledger = server.drained(10)
    trial.row("messages in the ledger", ledger["accepted"], str(expected), ledger["accepted"] == expected)
    trial.row("messages that arrived", len(sink.first()), str(expected), len(sink.first()) == expected)
    server.terminate()
