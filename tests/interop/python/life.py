#!/usr/bin/env python3
"""The life of an application by Svix's official Python library, unchanged, against our server.

Prints each thing that it did; a mismatch is printed with what was found, and the exit code is 1 at the end.
Needs BELLWIRE_URL and BELLWIRE_TOKEN (`run.py` beside this folder sets them).
"""

import asyncio
import datetime
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import uuid

import standardwebhooks
from svix import api as svix_api
from svix import models
from svix.api import Svix, SvixAsync, SvixOptions
from svix.exceptions import HttpError, HTTPValidationError
from svix.webhooks import Webhook, WebhookVerificationError

URL, TOKEN = os.environ["BELLWIRE_URL"], os.environ["BELLWIRE_TOKEN"]
svix = Svix(TOKEN, SvixOptions(server_url=URL))
failures = []


def check(what, good, found=None):
    print(f"  {'ok      ' if good else 'MISMATCH'} {what}" + ("" if good else f": {found!r}"))
    if not good:
        failures.append(what)


def step(function):
    """One chapter; an exception in it is a mismatch, and the next chapter begins."""
    print(function.__name__.replace("_", " "))
    try:
        return function()
    except Exception as error:
        check("went through", False, f"{type(error).__name__}: {error} {getattr(error, 'detail', '')}")


def refused(call, status, kind=HttpError, code=None):
    try:
        answer = call()
    except (HttpError, HTTPValidationError) as error:
        good = isinstance(error, kind) and error.status_code == status
        return good and (code is None or error.code == code), f"{type(error).__name__} {error.status_code} {error}"
    return False, f"accepted: {answer!r}"


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps what arrives; `/fail` answers 500 until told otherwise."""

    protocol_version = "HTTP/1.1"
    arrived, failing = [], True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        Receiver.arrived.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(500 if self.path == "/fail" and Receiver.failing else 200)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


def wait(path, id, count=1, seconds=8):
    end = time.monotonic() + seconds
    while True:
        found = [(h, b) for p, h, b in list(Receiver.arrived) if p == path and h.get("webhook-id", h.get("svix-id")) == id]
        if len(found) >= count or time.monotonic() > end:
            return found
        time.sleep(0.02)


def eventually(read, good, seconds=8):
    """Reads until it is as wanted; returns the last reading."""
    end = time.monotonic() + seconds
    while not good(value := read()) and time.monotonic() < end:
        time.sleep(0.05)
    return value


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()
HERE = f"http://127.0.0.1:{server.server_port}"
uid = f"life-{uuid.uuid4().hex[:12]}"
now = lambda: datetime.datetime.now(datetime.timezone.utc)  # noqa: E731


@step
def application():
    global app
    made = svix.application.create(models.ApplicationIn(name="Life", uid=uid, metadata={"plan": "gold"}))
    app = made.id
    check("create: id, uid, metadata", made.id.startswith("app_") and made.uid == uid and made.metadata == {"plan": "gold"}, made)
    check("created_at is a moment ago", abs((now() - made.created_at).total_seconds()) < 30, made.created_at)
    check("get by id and by uid", svix.application.get(app).id == svix.application.get(uid).id == app)
    check("get_or_create returns the existing one", svix.application.get_or_create(models.ApplicationIn(name="Other", uid=uid)).id == app)
    again = refused(lambda: svix.application.create(models.ApplicationIn(name="Life", uid=uid)), 409)
    check("the same uid again: 409 HttpError", *again)
    check("upsert", svix.application.upsert(app, models.ApplicationIn(name="Renamed", uid=uid)).name == "Renamed")
    patched = svix.application.patch(app, models.ApplicationPatch(metadata={"plan": "tin"}))
    check("patch changes what it names and nothing else", (patched.name, patched.metadata) == ("Renamed", {"plan": "tin"}), patched)
    check("is in the list", app in [a.id for a in svix.application.list(svix_api.ApplicationListOptions(limit=250)).data])
    other = svix.application.get_or_create(models.ApplicationIn(name="New", uid=uid + "-new"))
    check("get_or_create makes a new one", other.id != app)
    svix.application.delete(other.id)
    check("deleted: 404 not_found", *refused(lambda: svix.application.get(other.id), 404, code="not_found"))


@step
def event_types():
    for name in ("invoice.paid", "invoice.sent", "user.gone"):
        try:
            svix.event_type.create(models.EventTypeIn(name=name, description=f"{name} happened", schemas={"1": {"type": "object"}}))
        except HttpError as error:
            check(f"{name} exists from another life", error.status_code == 409, error)
    check("get", svix.event_type.get("invoice.paid").description == "invoice.paid happened")
    check("create again: 409", *refused(lambda: svix.event_type.create(models.EventTypeIn(name="invoice.paid", description="x")), 409))
    names = [t.name for t in svix.event_type.list().data]
    check("list is by name", names == sorted(names) and "invoice.sent" in names, names)
    check("patch", svix.event_type.patch("invoice.sent", models.EventTypePatch(description="changed")).description == "changed")
    check("upsert", svix.event_type.upsert("invoice.sent", models.EventTypeUpsertIn(description="again")).description == "again")
    svix.event_type.delete("user.gone")
    check("a deleted one is hidden", "user.gone" not in [t.name for t in svix.event_type.list().data])
    options = svix_api.EventTypeListOptions(include_archived=True)
    check("and shown with include_archived", "user.gone" in [t.name for t in svix.event_type.list(options).data])
    check("a bad name: 422 HTTPValidationError", *refused(lambda: svix.event_type.create(models.EventTypeIn(name="no spaces", description="x")), 422, HTTPValidationError))


@step
def endpoints():
    global main, failing, filtered
    secret = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    main = svix.endpoint.create(
        app, models.EndpointIn(url=HERE + "/main", description="all", uid="main", secret=secret, metadata={"a": "b"}, throttle_rate=1000)
    )
    check("create", main.id.startswith("ep_") and main.url == HERE + "/main" and main.metadata == {"a": "b"} and main.throttle_rate == 1000, main)
    check("our secret is kept", svix.endpoint.get_secret(app, main.id).key == secret)
    failing = svix.endpoint.create(app, models.EndpointIn(url=HERE + "/fail", event_types=["invoice.paid"]))
    filtered = svix.endpoint.create(app, models.EndpointIn(url=HERE + "/filtered", event_types=["invoice.sent"], channels=["north"]))
    check("event types and channels are kept", (filtered.event_types, filtered.channels) == (["invoice.sent"], ["north"]), filtered)
    check("a made secret", svix.endpoint.get_secret(app, failing.id).key.startswith("whsec_"))
    check("get by uid", svix.endpoint.get(app, "main").id == main.id)
    check("list holds all three", {e.id for e in svix.endpoint.list(app).data} == {main.id, failing.id, filtered.id})
    check("unknown event type: 422", *refused(lambda: svix.endpoint.create(app, models.EndpointIn(url=HERE, event_types=["no.such"])), 422, HTTPValidationError))
    check("not a URL: 422", *refused(lambda: svix.endpoint.create(app, models.EndpointIn(url="nonsense")), 422, HTTPValidationError))
    check("a private address is not refused here, the operator allowed it", True)
    patched = svix.endpoint.patch(app, main.id, models.EndpointPatch(description="patched"))
    check("patch", (patched.description, patched.url) == ("patched", HERE + "/main"), patched)
    updated = svix.endpoint.upsert(app, main.id, models.EndpointUpsertIn(url=HERE + "/main", description="upserted", uid="main"))
    check("upsert replaces", (updated.description, updated.metadata, updated.throttle_rate) == ("upserted", {}, None), updated)
    fresh = svix.endpoint.upsert(app, "brand-new", models.EndpointUpsertIn(url=HERE + "/brand-new", uid="brand-new", disabled=True))
    check("upsert makes a new one", fresh.uid == "brand-new" and fresh.disabled is True, fresh)
    svix.endpoint.delete(app, fresh.id)
    check("delete", *refused(lambda: svix.endpoint.get(app, fresh.id), 404))


@step
def headers():
    svix.endpoint.set_headers(app, main.id, models.EndpointHeadersIn(headers={"X-One": "1", "Authorization": "Bearer secret"}))
    shown = svix.endpoint.get_headers(app, main.id)
    check("set and get", {k.lower(): v for k, v in shown.headers.items()} == {"x-one": "1"}, shown)
    check("sensitive ones are named, not shown", [n.lower() for n in shown.sensitive] == ["authorization"], shown)
    svix.endpoint.patch_headers(app, main.id, models.EndpointHeadersPatchIn(headers={"X-Two": "2"}))
    shown = svix.endpoint.get_headers(app, main.id).headers
    check("patch merges", {k.lower(): v for k, v in shown.items()} == {"x-one": "1", "x-two": "2"}, shown)
    check("a header of ours is refused", *refused(lambda: svix.endpoint.set_headers(app, main.id, models.EndpointHeadersIn(headers={"Content-Length": "3"})), 422, HTTPValidationError))


@step
def a_message_arrives():
    global message
    payload = {"amount": 12.5, "text": "ünïcode ✓", "nested": {"list": [1, None, True]}}
    message = svix.message.create(app, models.MessageIn(event_type="invoice.paid", event_id="event-1", payload=payload, tags=["t1"]))
    check("create", message.id.startswith("msg_") and message.event_type == "invoice.paid" and message.event_id == "event-1", message)
    (arrived, *more) = wait("/main", message.id)
    check("arrives once", not more, len(more))
    headers, body = arrived
    check("the payload is what we sent", json.loads(body) == payload, body)
    key = svix.endpoint.get_secret(app, main.id).key
    Webhook(key).verify(body, headers)
    check("svix.Webhook verifies it", True)
    given = {name: headers.get(f"webhook-{name}", headers.get(f"svix-{name}")) for name in ("id", "timestamp", "signature")}
    standard = {f"webhook-{name}": value for name, value in given.items()}
    check("standardwebhooks verifies it", standardwebhooks.Webhook(key).verify(body, standard) == payload)
    try:
        Webhook(key).verify(body + b" ", headers)
        check("a changed body is refused", False, "verified")
    except WebhookVerificationError:
        check("a changed body is refused", True)
    check("custom headers are there", (headers.get("x-one"), headers.get("x-two"), headers.get("authorization")) == ("1", "2", "Bearer secret"), headers)
    check("content-type", headers.get("content-type") == "application/json", headers.get("content-type"))
    check("filters: not sent where the event type does not match", not wait("/filtered", message.id, seconds=0.3))
    sent = svix.message.create(app, models.MessageIn(event_type="invoice.sent", payload={"n": 1}, channels=["north", "east"]))
    check("filters: sent where type and channel match", len(wait("/filtered", sent.id)) == 1)
    south = svix.message.create(app, models.MessageIn(event_type="invoice.sent", payload={"n": 2}, channels=["south"]))
    check("filters: another channel is not sent", bool(wait("/main", south.id)) and not wait("/filtered", south.id, seconds=0.3))
    check("the same event id again: 409", *refused(lambda: svix.message.create(app, models.MessageIn(event_type="invoice.paid", event_id="event-1", payload={})), 409))
    one = svix.message.create(app, models.MessageIn(event_type="a.b", payload={"x": 1}), svix_api.MessageCreateOptions(idempotency_key=uid))
    two = svix.message.create(app, models.MessageIn(event_type="a.b", payload={"x": 1}), svix_api.MessageCreateOptions(idempotency_key=uid))
    check("the same idempotency key gives the same message", one.id == two.id, (one.id, two.id))
    key = svix_api.MessageCreateOptions(idempotency_key=uid)
    check("with another body: 409", *refused(lambda: svix.message.create(app, models.MessageIn(event_type="a.b", payload={"x": 2}), key), 409))
    inline = svix.message.create(uid + "-inline", models.MessageIn(event_type="a.b", payload={}, application=models.ApplicationIn(name="inline", uid=uid + "-inline")))
    check("an inline application is made", svix.application.get(uid + "-inline").name == "inline" and inline.id.startswith("msg_"))
    svix.application.delete(uid + "-inline")
    check("no payload at all: 4xx", *next((a for a in [refused(lambda: svix.message.create(app, models.MessageIn.model_construct(event_type="a.b", _fields_set={"event_type"})), s, (HttpError, HTTPValidationError)) for s in (422, 400)] if a[0]), (False, "accepted")))


@step
def reading_messages():
    got = svix.message.get(app, message.id, svix_api.MessageGetOptions(with_content=True))
    check("get with content", got.payload["amount"] == 12.5, got)
    check("get without content", svix.message.get(app, message.id, svix_api.MessageGetOptions(with_content=False)).payload == {})
    check("get by event id", svix.message.get(app, "event-1").id == message.id)
    for n in range(12):
        svix.message.create(app, models.MessageIn(event_type="page.turned", payload={"n": n}))
    every = [m.id for m in svix.message.list(app, svix_api.MessageListOptions(limit=250)).data]
    check("newest first", every == sorted(every, reverse=True), every[:3])
    pages, iterator, backwards = [], None, None
    while True:
        page = svix.message.list(app, svix_api.MessageListOptions(limit=5, iterator=iterator))
        pages.append([m.id for m in page.data])
        if page.done:
            break
        iterator = page.iterator
        backwards = (page.prev_iterator, pages) if len(pages) == 2 else backwards
    check("forwards, page by page, is the whole", [id for page in pages for id in page] == every, (len(every), [len(p) for p in pages]))
    back = svix.message.list(app, svix_api.MessageListOptions(limit=5, iterator=backwards[0]))
    check("prev_iterator leads back one page", [m.id for m in back.data] == pages[0], ([m.id for m in back.data], pages[0]))
    typed = svix.message.list(app, svix_api.MessageListOptions(event_types=["invoice.paid"])).data
    check("by event type", [m.id for m in typed] == [message.id], [m.id for m in typed])
    check("by channel", len(svix.message.list(app, svix_api.MessageListOptions(channel="south")).data) == 1)
    check("by tag", [m.id for m in svix.message.list(app, svix_api.MessageListOptions(tag="t1")).data] == [message.id])
    check("before a time", not svix.message.list(app, svix_api.MessageListOptions(before=message.timestamp)).data)
    check("limit above 250: 422", *refused(lambda: svix.message.list(app, svix_api.MessageListOptions(limit=251)), 422, HTTPValidationError))
    check("a nonsense iterator: 422", *refused(lambda: svix.message.list(app, svix_api.MessageListOptions(iterator="nonsense")), 422, HTTPValidationError))
    check("a message that is not: 404", *refused(lambda: svix.message.get(app, "msg_" + "0" * 27), 404))


@step
def attempts():
    listed = eventually(
        lambda: svix.message_attempt.list_by_msg(app, message.id, svix_api.MessageAttemptListByMsgOptions(endpoint_id=main.id, with_content=True)).data,
        lambda data: len(data) == 1,
    )
    (attempt,) = listed
    check("success, with the response", (attempt.status, attempt.response_status_code, attempt.response) == (models.MessageStatus.SUCCESS, 200, "hello"), attempt)
    check("status_text, url, trigger", (attempt.status_text, attempt.url, attempt.trigger_type) == ("success", HERE + "/main", 0), attempt)
    check("get one", svix.message_attempt.get(app, message.id, attempt.id).id == attempt.id)
    exhausted = eventually(
        lambda: svix.message_attempt.list_by_endpoint(app, failing.id).data, lambda data: len(data) >= 3
    )
    check("three failed attempts by the schedule", [a.status for a in exhausted] == [models.MessageStatus.FAIL] * 3, exhausted)
    check("  each with its 500", {a.response_status_code for a in exhausted} == {500})
    check("  only failures, by status filter", len(svix.message_attempt.list_by_endpoint(app, failing.id, svix_api.MessageAttemptListByEndpointOptions(status=models.MessageStatus.FAIL)).data) == 3)
    check("  none succeeded", not svix.message_attempt.list_by_endpoint(app, failing.id, svix_api.MessageAttemptListByEndpointOptions(status=models.MessageStatus.SUCCESS)).data)
    check("  by class of status", len(svix.message_attempt.list_by_endpoint(app, failing.id, svix_api.MessageAttemptListByEndpointOptions(status_code_class=models.StatusCodeClass.CODE5XX)).data) == 3)
    page = svix.message_attempt.list_by_endpoint(app, failing.id, svix_api.MessageAttemptListByEndpointOptions(limit=2))
    rest = svix.message_attempt.list_by_endpoint(app, failing.id, svix_api.MessageAttemptListByEndpointOptions(limit=2, iterator=page.iterator))
    check("  in two pages", [a.id for a in page.data + rest.data] == [a.id for a in exhausted] and rest.done, (page, rest))
    messages = svix.message_attempt.list_attempted_messages(app, failing.id).data
    check("attempted messages of the endpoint", [(m.id, m.status) for m in messages] == [(message.id, models.MessageStatus.FAIL)], messages)
    destinations = svix.message_attempt.list_attempted_destinations(app, message.id).data
    check("attempted destinations of the message", {d.id for d in destinations} == {main.id, failing.id}, destinations)


@step
def stats_resend_and_recover():
    stats = svix.endpoint.get_stats(app, failing.id)
    check("stats: one failed", (stats.success, stats.fail, stats.pending) == (0, 1, 0), stats)
    Receiver.failing = False
    svix.message_attempt.resend(app, message.id, failing.id)
    check("resend sends once more", len(wait("/fail", message.id, 4)) == 4)
    newest = eventually(lambda: svix.message_attempt.list_by_endpoint(app, failing.id).data[0], lambda a: a.status == 0)
    check("  by hand, and it succeeded", (newest.trigger_type, newest.status) == (models.MessageAttemptTriggerType.MANUAL, models.MessageStatus.SUCCESS), newest)
    Receiver.failing, begun = True, now()
    # Few enough that the endpoint is not taken for dead and left alone for a while.
    lost = [svix.message.create(app, models.MessageIn(event_type="invoice.paid", payload={"lost": n})) for n in range(2)]
    eventually(lambda: svix.endpoint.get_stats(app, failing.id), lambda s: s.fail == 2)
    Receiver.failing = False
    task = svix.endpoint.recover(app, failing.id, models.RecoverIn(since=begun - datetime.timedelta(seconds=1)))
    check("recover is a task", task.id.startswith("qtask_") and str(task.task) == "endpoint.recover", task)
    check("  and sends all that failed", all(len(wait("/fail", m.id, 4)) == 4 for m in lost), [len(wait("/fail", m.id, 4, 0)) for m in lost])
    stats = eventually(lambda: svix.endpoint.get_stats(app, failing.id), lambda s: s.success == 3)
    check("stats: all succeeded", (stats.success, stats.fail) == (3, 0), stats)


@step
def secrets():
    old = svix.endpoint.get_secret(app, main.id).key
    svix.endpoint.rotate_secret(app, main.id, models.EndpointSecretRotateIn())
    new = svix.endpoint.get_secret(app, main.id).key
    check("rotate gives a new one", old != new and new.startswith("whsec_"))
    sent = svix.message.create(app, models.MessageIn(event_type="a.b", payload={"rotated": True}))
    headers, body = wait("/main", sent.id)[0]
    Webhook(new).verify(body, headers)
    Webhook(old).verify(body, headers)
    check("in the grace period both verify", True)


@step
def disabling():
    svix.endpoint.patch(app, main.id, models.EndpointPatch(disabled=True))
    quiet = svix.message.create(app, models.MessageIn(event_type="a.b", payload={}))
    check("a disabled endpoint gets nothing", not wait("/main", quiet.id, seconds=0.5))
    svix.endpoint.patch(app, main.id, models.EndpointPatch(disabled=False))
    loud = svix.message.create(app, models.MessageIn(event_type="a.b", payload={}))
    check("an enabled one does", len(wait("/main", loud.id)) == 1)


@step
def an_applications_token_and_health():
    svix.health.get()
    check("health", True)
    token = subprocess.run([os.environ["BELLWIRE"], "token", "--application", app], capture_output=True, text=True, check=True)
    portal = Svix(token.stdout.strip(), SvixOptions(server_url=URL))
    check("an application's token reads its own application", main.id in [e.id for e in portal.endpoint.list(app).data])
    check("  and lists no applications", *refused(lambda: portal.application.list(), 403))
    other = svix.application.create(models.ApplicationIn(name="other"))
    check("  and sees no other application", *refused(lambda: portal.endpoint.list(other.id), 404))
    svix.application.delete(other.id)
    check("a wrong token: 401", *refused(lambda: Svix("nonsense", SvixOptions(server_url=URL)).application.list(), 401, code="authentication_failed"))


@step
def the_asynchronous_library():
    async def both():
        client = SvixAsync(TOKEN, SvixOptions(server_url=URL))
        made = await asyncio.gather(*[client.message.create(app, models.MessageIn(event_type="a.b", payload={"n": n})) for n in range(20)])
        return [m.id for m in made]

    ids = asyncio.run(both())
    check("twenty messages at once arrive", all(len(wait("/main", id)) == 1 for id in ids))


@step
def the_poller():
    made = svix.endpoint.create(app, models.EndpointIn(url="https://example.com/", uid="polled"))
    patched = subprocess.run(
        ["curl", "-sS", "-X", "PATCH", f"{URL}/api/v1/app/{app}/endpoint/{made.id}", "-H", f"authorization: Bearer {TOKEN}",
         "-H", "content-type: application/json", "-d", '{"kind": "pipe"}'], capture_output=True, text=True, check=True)
    check("an endpoint becomes a pipe", json.loads(patched.stdout).get("kind") == "pipe", patched.stdout)
    ids = [svix.message.create(app, models.MessageIn(event_type="a.b", payload={"n": n})).id for n in range(5)]
    options = svix_api.MessagePollerPollOptions(limit=2)
    first = svix.message.poller.poll(app, "polled", options)
    check("a page", [m.id for m in first.data] == ids[:2] and not first.done, [m.id for m in first.data])
    rest = svix.message.poller.poll(app, "polled", svix_api.MessagePollerPollOptions(iterator=first.iterator))
    check("and the rest", [m.id for m in rest.data] == ids[2:] and rest.done, [m.id for m in rest.data])
    page = svix.message.poller.consumer_poll(app, "polled", "me", svix_api.MessagePollerConsumerPollOptions(limit=3))
    check("a consumer's page", [m.id for m in page.data] == ids[:3])
    options = svix_api.MessagePollerConsumerPollOptions(iterator=page.iterator)
    page = svix.message.poller.consumer_poll(app, "polled", "me", options)
    check("goes on", [m.id for m in page.data] == ids[3:])
    page = svix.message.poller.consumer_poll(app, "polled", "me")
    check("from where it is without an iterator", [m.id for m in page.data] == ids[3:])
    back = models.PollingEndpointConsumerSeekIn(after=datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc))
    sought = svix.message.poller.consumer_seek(app, "polled", "me", back)
    options = svix_api.MessagePollerConsumerPollOptions(iterator=sought.iterator)
    page = svix.message.poller.consumer_poll(app, "polled", "me", options)
    check("and back", [m.id for m in page.data] == ids)
    svix.endpoint.delete(app, "polled")


@step
def the_end():
    ids = [m.id for m in svix.message.list(app, svix_api.MessageListOptions(limit=250)).data]
    doubled = {i: n for i in ids if (n := len([1 for p, h, _ in Receiver.arrived if p == "/main" and h.get("webhook-id", h.get("svix-id")) == i])) > 1}
    check("nothing arrived twice at the healthy endpoint", not doubled, doubled)
    svix.message.expunge_content(app, message.id)
    gone = svix.message.get(app, message.id, svix_api.MessageGetOptions(with_content=True))
    check("expunged", gone.payload == {"expired": True}, gone.payload)
    svix.application.delete(app)
    check("the application is gone", *refused(lambda: svix.application.get(app), 404))
    check("and its endpoints", *refused(lambda: svix.endpoint.list(app), 404))


print(f"python: {len(failures)} mismatches" + "".join(f"\n  {f}" for f in failures))
sys.exit(1 if failures else 0)
