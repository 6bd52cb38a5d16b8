#!/usr/bin/env python3
"""kill -9 at random moments while others' webhooks come in, again and again.

Each webhook is signed as GitHub does and sent again, with the same delivery id, until it is answered, across the kills;
one in ten is sent twice all the same, and one in twenty comes forged as well. At the end there is one message for each
webhook that was answered, byte for byte, no other, and each was delivered.
"""

import collections
import hashlib
import hmac
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Load, Trial, until  # noqa: E402

SECRET = b"It's a Secret to Everybody"


class Webhooks(Load):
    """GitHub, as it would be without a day between its tries."""

    def __init__(self, server, path, rate, threads):
        super().__init__(server, "-", rate=rate, threads=threads)
        self.path, self.answered, self.forged, self.duplicates = path, {}, collections.Counter(), 0

    def body(self, n):
        return json.dumps({"n": n, "big": 12345678901234567890123 + n, "text": "x" * (n % 500)}).encode()

    def post(self, connection, n, secret):
        body = self.body(n)
        signature = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
        headers = {
            "content-type": "application/json", "x-github-event": "push",
            "x-github-delivery": f"d-{n}", "x-hub-signature-256": signature,
        }
        return connection.request("POST", self.path, body, headers)

    def _send(self, connection, n):
        times = 2 if n % 10 == 0 else 1
        while not self.giving_up.is_set():
            try:
                if n % 20 == 0:
                    self.forged[self.post(connection, n, b"another secret, not theirs").status] += 1
                response = self.post(connection, n, SECRET)
            except OSError as error:
                self.trouble[type(error).__name__] += 1
                time.sleep(0.01)
                continue
            if response.status == 202:
                self.duplicates += "x-duplicate" in response.headers
                self.answered[n] = time.monotonic()
                times -= 1
                if times == 0:
                    return
                continue
            self.refused[response.status] += 1
            if response.status < 500 and response.status != 429:
                return
            time.sleep(0.05)
        self.unknown += 1


with Trial("receive_kill", "kill -9 while receiving loses nothing and doubles nothing") as trial:
    rounds = 200 if trial.full else 20
    sink = trial.sink(keep=True)
    server = trial.server()
    server.start()
    api = server.api()
    app = api.application()
    endpoint = api.endpoint(app, sink.url("/"))
    sink.secrets = {"/": api.secret(app, endpoint)}
    source = {"uid": "git", "appId": app, "preset": "github", "secrets": [SECRET.decode()]}
    url = api.call("POST", "/source", source)["listenerUrl"]
    load = Webhooks(server, url[url.index("/in/"):], rate=300, threads=8).start()
    ready = []
    for _ in range(rounds):
        time.sleep(trial.random.uniform(0.2, 1.5))
        server.kill()
        ready.append(server.start())
    load.stop()
    until(lambda: len(sink.first("/")) >= len(load.answered), 30, 0.2)
    ledger = server.drained(20)

    api = server.api()
    messages = collections.Counter()
    different = 0
    for request in api.pages("/source/git/request?outcome=accepted"):
        messages[request["dedupeKey"]] += 1
    by_id = {}
    for arrival in list(sink.arrivals):
        by_id.setdefault(arrival.id, []).append(arrival)
    taken = collections.Counter(json.loads(arrivals[0].body)["n"] for arrivals in by_id.values())
    different = sum(arrivals[0].body != load.body(json.loads(arrivals[0].body)["n"]) for arrivals in by_id.values())
    wanted = {f"d-{n}" for n in load.answered}
    trial.row("webhooks answered", len(wanted))
    trial.row("kills", rounds)
    trial.row("posts that lost their answer", sum(load.trouble.values()))
    trial.row("answered as duplicates", load.duplicates, "> 0", load.duplicates > 0)
    trial.row("never answered", load.unknown, "0", load.unknown == 0)
    trial.row("refused", dict(load.refused) or 0, "only 503", set(load.refused) <= {503})
    trial.row("forged, and how it was answered", dict(load.forged), "only 401, 503", set(load.forged) <= {401, 503})
    trial.row("answered, and no message", len(wanted - set(messages)), "0", not wanted - set(messages))
    trial.row("messages of nothing answered", len(set(messages) - wanted), "0", not set(messages) - wanted)
    doubled = sum(1 for count in messages.values() if count > 1)
    trial.row("two messages of one webhook", doubled, "0", doubled == 0)
    trial.row("not delivered", len(set(load.answered) - set(taken)), "0", not set(load.answered) - set(taken))
    trial.row("two messages delivered of one webhook", sum(c > 1 for c in taken.values()), "0", max(taken.values()) == 1)
    trial.row("other bytes", different, "0", different == 0)
    trial.row("wrong signatures", sink.unsigned, "0", sink.unsigned == 0)
    trial.row("ready again, longest s", max(ready), "<= 5", max(ready) <= 5)
    trial.row("ledger: accepted - answered", ledger["accepted"] - len(wanted), "0", ledger["accepted"] == len(wanted))
    trial.row("ledger balances", ledger["balances"], "True", ledger["balances"])
    server.terminate()
