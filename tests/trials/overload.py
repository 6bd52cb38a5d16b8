#!/usr/bin/env python3
"""Ten times what a source takes, and ten times what may wait to be stored.

GitHub's webhooks come at ten times the source's rate, while another application's source has its usual few. What is beyond the rate is told
so, with the time to come back, and comes back. Then without a rate, at a server where next to nothing may wait. In both, each webhook that was
answered with 202 is one message and is delivered, and nothing else is.
"""

import collections
import hashlib
import hmac
import json
import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Connection, Trial, percentile, until  # noqa: E402

SECRET = b"It's a Secret to Everybody"
RATE = 20


class Sender:
    """Posts signed webhooks at a steady rate, or as fast as its threads can (rate 0), and does not send one again."""

    def __init__(self, server, path, name, rate, threads, bytes_of_body=200):
        self.server, self.path, self.name, self.rate, self.count = server, path, name, rate, threads
        self.filler = "x" * bytes_of_body
        self.taken, self.statuses, self.without_time, self.lost = {}, collections.Counter(), 0, 0
        self.stopping, self.lock, self.next = threading.Event(), threading.Lock(), 0
        self.threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(threads)]

    def start(self):
        self.begun = time.monotonic()
        for thread in self.threads:
            thread.start()
        return self

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(40)
        self.seconds = time.monotonic() - self.begun
        return self

    def _run(self, index):
        connection = Connection(self.server.port, timeout=30)
        period = self.count / self.rate if self.rate else 0
        due = time.monotonic() + period * index / self.count
        while not self.stopping.is_set():
            if period:
                time.sleep(max(0.0, due - time.monotonic()))
                due = max(due + period, time.monotonic() - period)
            with self.lock:
                self.next += 1
                key = f"{self.name}-{self.next}"
            body = json.dumps({"key": key, "filler": self.filler}).encode()
            signature = "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()
            headers = {
                "content-type": "application/json", "x-github-event": "push",
                "x-github-delivery": key, "x-hub-signature-256": signature,
            }
            begun = time.monotonic()
            try:
                response = connection.request("POST", self.path, body, headers)
            except OSError:
                self.lost += 1
                continue
            with self.lock:
                self.statuses[response.status] += 1
                if response.status == 202:
                    self.taken[key] = (begun, time.monotonic())
                elif int(response.headers.get("retry-after", 0)) < 1:
                    self.without_time += 1

    def p99(self, since=0.0, before=float("inf")):
        return percentile([done - begun for begun, done in self.taken.values() if since <= begun < before], 0.99)


def source(api, name, app, **fields):
    body = {"uid": name, "appId": app, "preset": "github", "secrets": [SECRET.decode()], **fields}
    url = api.call("POST", "/source", body)["listenerUrl"]
    return url[url.index("/in/"):]


def account(trial, server, sink, what, senders):
    """Everything that was taken is one message and arrives; nothing else does."""
    taken = set().union(*(sender.taken for sender in senders))
    arrived = until(lambda: len(sink.first("/")) >= len(taken), 60, 0.2)
    ledger = server.drained(30)
    keys = collections.Counter(json.loads(arrivals.body)["key"] for arrivals in {a.id: a for a in list(sink.arrivals)}.values())
    messages = collections.Counter()
    for sender in senders:
        messages.update(r["dedupeKey"] for r in server.api().pages(f"/source/{sender.name}/request?outcome=accepted"))
    trial.row(f"{what}: taken, and no message", len(taken - set(messages)), "0", not taken - set(messages))
    trial.row(f"{what}: messages of nothing that was taken", len(set(messages) - taken), "0", not set(messages) - taken)
    trial.row(f"{what}: two messages of one", sum(c > 1 for c in messages.values()), "0", max(messages.values(), default=0) <= 1)
    trial.row(f"{what}: not delivered", len(taken - set(keys)), "0", arrived and not taken - set(keys))
    trial.row(f"{what}: ledger: accepted - taken", ledger["accepted"] - len(taken), "0", ledger["accepted"] == len(taken))
    trial.row(f"{what}: ledger balances", ledger["balances"], "True", ledger["balances"])
    trial.row(f"{what}: connections lost", sum(s.lost for s in senders), "0", not any(s.lost for s in senders))
    trial.row(f"{what}: refused without a time to come back", sum(s.without_time for s in senders), "0", not any(s.without_time for s in senders))


with Trial("overload", "ten times the load: told so, nothing lost, nobody else notices") as trial:
    seconds = 60 if trial.full else 15
    sink = trial.sink(keep=True)
    server = trial.server()
    server.start()
    api = server.api()
    flooded_app, calm_app = api.application("flooded"), api.application("calm")
    for app in (flooded_app, calm_app):
        api.endpoint(app, sink.url("/"))
    paths = {"flooded": source(api, "flooded", flooded_app, rate=RATE), "calm": source(api, "calm", calm_app)}
    calm = Sender(server, paths["calm"], "calm", rate=20, threads=4).start()
    time.sleep(seconds / 2)
    memory, flood_from = server.rss(), time.monotonic()
    flood = Sender(server, paths["flooded"], "flooded", rate=RATE * 10, threads=64).start()
    time.sleep(seconds)
    flood.stop()
    flood_to, memory_after = time.monotonic(), server.rss()
    calm.stop()
    offered = sum(flood.statuses.values()) / flood.seconds
    accepted = flood.statuses[202] / flood.seconds
    trial.row("offered, per s", offered, f">= {RATE * 8}", offered >= RATE * 8)
    trial.row("taken, per s", accepted, f"{RATE * 0.75:.0f} to {RATE * 1.15:.0f}", RATE * 0.75 <= accepted <= RATE * 1.15)
    trial.row("how it was answered", dict(flood.statuses), "only 202, 429", set(flood.statuses) == {202, 429})
    trial.row("the calm source's answers", dict(calm.statuses), "only 202", set(calm.statuses) == {202})
    before, during = calm.p99(before=flood_from), calm.p99(flood_from, flood_to)
    trial.row("the calm source's p99 before, ms", before * 1e3)
    trial.row("the calm source's p99 meanwhile, ms", during * 1e3, "2x or + 250 ms", during <= max(2 * before, before + 0.25))
    trial.row("memory more, MB", memory_after - memory, "<= 60", memory_after - memory <= 60)
    kept = len(list(server.api().pages("/source/flooded/request?outcome=refused", limit=50)))
    trial.row("refused requests that are kept", kept, "1 to 100", 1 <= kept <= 100)
    account(trial, server, sink, "beyond the rate", [flood, calm])
    server.terminate()

    # Next to nothing may wait: what comes while it does is told to come back.
    sink = trial.sink(keep=True)
    server = trial.server(env={"BELLWIRE_LIMITS_QUEUE_MESSAGES_MAX": "3", "SVIX_WHITELIST_SUBNETS": "[127.0.0.0/8]"})
    server.start()
    api = server.api()
    app = api.application("crowded")
    api.endpoint(app, sink.url("/"))
    crowd = Sender(server, source(api, "crowd", app), "crowd", rate=0, threads=30).start()
    time.sleep(seconds / 3)
    crowd.stop()
    refused = crowd.statuses[503]
    trial.row("a crowd: how it was answered", dict(crowd.statuses), "only 202, 503", set(crowd.statuses) == {202, 503})
    trial.row("a crowd: refused", refused, "> 0", refused > 0)
    account(trial, server, sink, "a crowd", [crowd])
    server.terminate()
