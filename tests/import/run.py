#!/usr/bin/env python3
"""Takes over what a Svix server has in a real PostgreSQL, and looks whether everything is as it was: ids, secrets, what is owed.

    run.py

Starts a PostgreSQL of its own (as the user postgres, if this is root), makes Svix's tables (svix.sql) and fills them, imports as a
user who can only read, asks the API, and lets messages be delivered. Ends the PostgreSQL and leaves nothing behind.
"""

import base64
import datetime
import hashlib
import hmac
import json
import os
import pathlib
import secrets
import subprocess
import sys
import tempfile
import time

import nacl.bindings
import nacl.signing

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lib"))
from harness import Server, Sink, until  # noqa: E402
from postgres import PostgreSQL  # noqa: E402
from sink import signatures  # noqa: E402

ORGANISATION = "org_23rb8YdGqMT0qIzpgGwdXfHirMu"
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MAIN_SECRET = "the main secret of the other server"
NOW = datetime.datetime.now(datetime.timezone.utc)


def ksuid(prefix, at=NOW):
    """An id as Svix makes them: seconds, 4 ms steps, 15 random bytes."""
    moment = at.timestamp() - 1_400_000_000
    seconds = int(moment)
    raw = seconds.to_bytes(4, "big") + bytes([int((moment - seconds) * 250)]) + secrets.token_bytes(15)
    number, text = int.from_bytes(raw, "big"), ""
    for _ in range(27):
        number, digit = divmod(number, 62)
        text = DIGITS[digit] + text
    return prefix + text


def encrypted(kind, plain, main_secret=MAIN_SECRET):
    """A secret as Svix writes it under a main secret."""
    key = hmac.digest(main_secret.encode(), b"main", "sha256")
    nonce = secrets.token_bytes(24)
    sealed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(plain, None, nonce, key)
    return bytes([kind | 0x80]) + nonce + sealed


def literal(value):
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'::bytea"
    if isinstance(value, datetime.datetime):
        return f"'{value.isoformat()}'::timestamptz"
    if isinstance(value, (dict, list)):
        value = json.dumps(value)
    return "'" + value.replace("'", "''") + "'"


def insert(table, **fields):
    fields.setdefault("created_at", NOW - datetime.timedelta(days=30))
    if table not in ("message", "messagecontent", "messageattempt"):
        fields.setdefault("updated_at", fields["created_at"])
    return f"INSERT INTO {table} ({', '.join(fields)}) VALUES ({', '.join(map(literal, fields.values()))});"


class World:
    """What the other server has."""

    def __init__(self, sink):
        self.rows = []
        self.keys = {}
        bare = secrets.token_bytes(24)
        current, former, gone = (secrets.token_bytes(24) for _ in range(3))
        signer = nacl.signing.SigningKey.generate()
        asymmetric = bytes(signer) + bytes(signer.verify_key)
        whsec = lambda key: "whsec_" + base64.b64encode(key).decode()  # noqa: E731
        self.former = whsec(former)

        self.add("eventtype", id=ksuid("evtype_"), org_id=ORGANISATION, name="invoice.paid", description="It's paid", deleted=False,
                 deprecated=True, schemas={"1": {"type": "object"}}, feature_flag="beta")
        self.add("eventtype", id=ksuid("evtype_"), org_id=ORGANISATION, name="invoice.old", description="", deleted=True)
        self.acme, self.plain, self.other, self.deleted = (ksuid("app_") for _ in range(4))
        self.add("application", id=self.acme, org_id=ORGANISATION, uid="acme", name="Acme 'n' Co", rate_limit=50, deleted=False)
        self.add("applicationmetadata", id=self.acme, data={"plan": "gold"})
        self.add("application", id=self.plain, org_id=ORGANISATION, name="Without uid", deleted=False)
        self.add("application", id=self.other, org_id="org_00000000000000000000000other", uid="acme", name="Another's", deleted=False)
        self.add("application", id=self.deleted, org_id=ORGANISATION, name="Deleted", deleted=True)

        self.main = self.endpoint(self.acme, sink.url("/main"), encrypted(1, current), uid="main", headers={"X-Tenant": "7", "connection": "close"},
            old_keys=[
                {"signingKey": base64.b64encode(encrypted(1, former)).decode(), "expiration": (NOW + datetime.timedelta(hours=20)).isoformat()},
                {"signingKey": whsec(gone), "expiration": (NOW - datetime.timedelta(hours=1)).isoformat()},
            ], rate_limit=100)
        self.add("endpointmetadata", id=self.main, data={"team": "billing"})
        self.keys[self.main] = whsec(current)
        self.filtered = self.endpoint(self.acme, sink.url("/filtered"), bare, event_types_ids=["invoice.paid"], channels=["eu"])
        self.keys[self.filtered] = whsec(bare)
        self.asymmetric = self.endpoint(self.plain, sink.url("/asymmetric"), bytes([2]) + asymmetric)
        self.keys[self.asymmetric] = "whpk_" + base64.b64encode(bytes(signer.verify_key)).decode()
        self.disabled = self.endpoint(self.acme, sink.url("/disabled"), encrypted(1, current), disabled=True)
        self.keys[self.disabled] = whsec(current)
        self.sealed = self.endpoint(self.plain, sink.url("/sealed"), encrypted(1, current, "nobody knows"))
        self.content = self.endpoint(self.plain, sink.url("/content"), bare, filter="payload.amount > 3")
        self.endpoint(self.acme, sink.url("/gone"), bare, deleted=True)
        self.endpoint(self.deleted, sink.url("/gone"), bare)

        hour = datetime.timedelta(hours=1)
        soon = NOW + datetime.timedelta(seconds=2)
        self.retried = self.message(self.acme, NOW - 30 * hour, {"n": "retried"}, uid="event-1")
        self.attempt(self.retried, self.main, 2, NOW - 29 * hour, NOW - 28 * hour)
        self.attempt(self.retried, self.main, 2, NOW - 28 * hour, soon)
        self.attempt(self.retried, self.disabled, 0, NOW - 28 * hour, None)
        self.delivered = self.message(self.acme, NOW - 3 * hour, {"n": "delivered"})
        self.attempt(self.delivered, self.main, 0, NOW - 3 * hour, None)
        self.exhausted = self.message(self.acme, NOW - 2.5 * hour, {"n": "exhausted"})
        self.attempt(self.exhausted, self.main, 2, NOW - 2.4 * hour, None)
        # Never tried: to `main` and to `filtered`, not to `disabled`.
        self.untried = self.message(self.acme, NOW - 2 * hour, {"n": "untried", "big": 10**30}, event_type="invoice.paid", channels=["eu"])
        self.expired = self.message(self.acme, NOW - 1 * hour, {"n": "expired"}, expiration=NOW - 0.5 * hour)
        self.forgotten = self.message(self.acme, NOW - 400 * hour, {"n": "too old"})

    def add(self, table, **fields):
        self.rows.append(insert(table, **fields))

    def endpoint(self, app, url, key, deleted=False, disabled=False, **fields):
        id = ksuid("ep_")
        self.add("endpoint", id=id, app_id=app, url=url, description="", key=key, deleted=deleted, disabled=disabled, **fields)
        return id

    def message(self, app, at, payload, event_type="invoice.sent", expiration=None, **fields):
        id = ksuid("msg_", at)
        expiration = expiration or NOW + datetime.timedelta(days=60)
        self.add("message", id=id, org_id=ORGANISATION, app_id=app, event_type=event_type, expiration=expiration, created_at=at, **fields)
        # The bytes as they were accepted: spaces, order and large numbers.
        self.add("messagecontent", id=id, payload=json.dumps(payload).encode(), expiration=expiration, created_at=at)
        return id

    def attempt(self, message, endpoint, status, at, next_attempt):
        self.add("messageattempt", id=ksuid("atmpt_", at), msg_id=message, endp_id=endpoint, url="", status=status,
                 response_status_code=200 if status == 0 else 500, trigger_type=0, next_attempt=next_attempt, created_at=at)


failures = []


def check(what, found, expected=True):
    right = found == expected
    print(f"{'ok   ' if right else 'WRONG'} {what}" + ("" if right else f"\n      found    {found!r}\n      expected {expected!r}"))
    if not right:
        failures.append(what)


def imported(server, *arguments):
    done = server.command("import", "svix", "--data", str(server.data), "--json", *arguments)
    return done, json.loads(done.stdout) if done.stdout else {}


def counts(report):
    kinds = ("eventTypes", "applications", "endpoints", "messages")
    return [[report[kind]["brought"], report[kind]["there"], len(report[kind]["refused"])] for kind in kinds]


def run(database, folder):
    sink = Sink(keep=True)
    world = World(sink)
    database.sql((HERE / "svix.sql").read_text() + "\n".join(world.rows))
    database.sql("CREATE ROLE reader LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;")
    tables = ("eventtype", "application", "applicationmetadata", "endpoint", "endpointmetadata", "message", "messagecontent", "messageattempt")
    state = lambda: [database.sql(f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {t} t") for t in tables]  # noqa: E731
    before = state()
    # The retry is due two seconds from the start; the schedule after it is longer than the test.
    server = Server(folder, env={
        "SVIX_MAIN_SECRET": "a new main secret of ours", "BELLWIRE_AUTH_OLD_MAIN_SECRETS": MAIN_SECRET,
        "SVIX_DB_DSN": database.url("reader"), "SVIX_RETRY_SCHEDULE": "600",
    })

    expected = [[2, 0, 0], [3, 0, 0], [4, 0, 2], [2, 0, 1]]
    done, report = imported(server, "--pending", "--dry-run")
    check("a dry run counts", counts(report), expected)
    encrypted_url = database.url("reader") + "?sslmode=require"
    done, _ = imported(server, "--dry-run", encrypted_url)
    check("TLS with a certificate that nobody vouches for is refused", (done.returncode, done.stdout), (1, ""))
    trusting = Server(folder, env={**server.env, "BELLWIRE_EGRESS_EXTRA_ROOTS": database.authority}, data=server.data)
    done, report = imported(trusting, "--pending", "--dry-run", encrypted_url)
    check("with one that the settings vouch for it is not", counts(report) if report else done.stderr, expected)
    check("a dry run makes no data folder", server.data.exists(), False)
    done, report = imported(server, "--pending")
    check("what is not brought makes the exit code 1", done.returncode, 1)
    check("everything else is brought", counts(report), expected)
    refused = {row["id"]: row["why"] for kind in ("endpoints", "messages") for row in report[kind]["refused"]}
    check("what is refused is named", sorted(refused), sorted([world.sealed, world.content, world.expired]))
    check("with the reason", "main_secret" in refused[world.sealed] and "filter" in refused[world.content])
    check("and so is what is left out", [row["id"] for row in report["leftOut"]], [world.main])
    check("three deliveries wait", report["deliveries"], 3)
    done, report = imported(server, "--pending")
    check("a second run brings nothing twice", counts(report), [[0, 2, 0], [0, 3, 0], [0, 4, 2], [0, 2, 1]])
    check("no secret is printed", MAIN_SECRET in done.stdout + done.stderr, False)
    check("the ledger agrees", {k: server.ledger()[k] for k in ("accepted", "matched", "pending", "balances")},
          {"accepted": 2, "matched": 3, "pending": 3, "balances": True})

    server.start()
    try:
        done, _ = imported(server)
        check("beside a running server it is refused, with a hint", (done.returncode, "hint: stop" in done.stderr), (1, True))
        api = server.api()
        apps = {app["id"]: app for app in api.pages("/app")}
        check("applications have their ids", sorted(apps), sorted([world.acme, world.plain]))
        acme = api.call("GET", "/app/acme")
        check("uids, names, rates and metadata", [acme[k] for k in ("id", "name", "throttleRate", "metadata")], [world.acme, "Acme 'n' Co", 50, {"plan": "gold"}])
        created = datetime.datetime.fromisoformat(acme["createdAt"].replace("Z", "+00:00"))
        check("and times", created, NOW - datetime.timedelta(days=30))
        types = {t["name"]: t for t in api.pages("/event-type?include_archived=true&with_content=true")}
        check("event types", [(t["archived"], t["deprecated"], t["schemas"]) for _, t in sorted(types.items())],
              [(True, False, None), (False, True, {"1": {"type": "object"}})])
        for app, endpoint in ((world.acme, world.main), (world.acme, world.filtered), (world.plain, world.asymmetric), (world.acme, world.disabled)):
            check(f"the secret of {endpoint}", api.secret(app, endpoint), world.keys[endpoint])
        main = api.call("GET", f"/app/acme/endpoint/main")
        check("an endpoint", [main[k] for k in ("id", "throttleRate", "disabled", "metadata")], [world.main, 100, False, {"team": "billing"}])
        check("its headers", api.call("GET", "/app/acme/endpoint/main/headers")["headers"], {"X-Tenant": "7"})
        filtered = api.call("GET", f"/app/acme/endpoint/{world.filtered}")
        check("filters", [filtered["filterTypes"], filtered["channels"]], [["invoice.paid"], ["eu"]])
        check("disabled ones stay so", api.call("GET", f"/app/acme/endpoint/{world.disabled}")["disabled"])

        until(lambda: len(sink.arrivals) >= 3, 20)
        time.sleep(0.5)
        arrived = sorted((a.path, a.id) for a in sink.arrivals)
        check("what was pending arrives, under its id, and nothing else", arrived,
              sorted([("/main", world.retried), ("/main", world.untried), ("/filtered", world.untried)]))
        bodies = {a.id: a.body for a in sink.arrivals}
        check("byte for byte", bodies[world.untried], json.dumps({"n": "untried", "big": 10**30}).encode())
        numbers = [a for a in api.attempts("acme", world.retried)]
        check("an attempt is recorded", [(a["status"], a["endpointId"]) for a in numbers], [(0, world.main)])
        check("a message is found by its event id", api.call("GET", "/app/acme/msg/event-1")["id"], world.retried)

        sink.arrivals.clear()
        new = api.message("acme", {"n": "new"}, "invoice.sent")
        until(lambda: sink.arrivals, 20)
        arrival = sink.arrivals[0]
        given = arrival.headers["webhook-signature"].split()
        wanted = [signatures(key, new, arrival.stamp, arrival.body) for key in (world.keys[world.main], world.former)]
        check("signed with the secret and the former one that is still good", given, wanted)
        check("with its header", arrival.headers["x-tenant"], "7")
    finally:
        server.terminate()
    check("that database is as it was", state() == before)
    sink.close()


database = PostgreSQL()
try:
    with tempfile.TemporaryDirectory(prefix="bellwire-import-") as folder:
        run(database, folder)
finally:
    database.stop()
print(f"{len(failures)} wrong")
sys.exit(1 if failures else 0)
