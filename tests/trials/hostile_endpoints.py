#!/usr/bin/env python3
"""R15 to R19: endpoints that hang, cut, lie, flood, redirect and explode, all in one application with a healthy one.

Each of them yields one attempt that says precisely what happened; none is followed anywhere; no more than the cap is
read; the healthy endpoint does not notice; memory stays flat.
"""

import asyncio
import gzip
import pathlib
import re
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Load, Trial, free_port, percentile, until  # noqa: E402

TIMEOUT = 3

ANIMALS = {}
"""Path to (what it does, what is expected). Expected: a pattern over `code text`, where the text is the response's or what
the customer is told."""


def animal(expected):
    def keep(function):
        ANIMALS[function.__name__] = (function, expected)
        return function

    return keep


OK = b"HTTP/1.1 200 OK\r\n"
TIMED_OUT, LOST, MALFORMED, SUCCESS = r"^0 timed out", r"^0 .*without a response", r"^0 .*not valid HTTP", r"^200 "


async def write(w, data):
    w.write(data)
    await w.drain()


def reset(w):
    """RST instead of FIN."""
    w.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    w.transport.abort()


async def for_ever():
    await asyncio.sleep(3600)


# Time.


@animal(TIMED_OUT)
async def never_answers(r, w):
    await for_ever()


@animal(TIMED_OUT)
async def hangs_in_the_status_line(r, w):
    await write(w, b"HTTP/1.1 20")
    await for_ever()


@animal(TIMED_OUT)
async def hangs_in_the_header(r, w):
    await write(w, OK + b"content-length: 5\r\nx-a")
    await for_ever()


@animal(TIMED_OUT)
async def hangs_in_the_body(r, w):
    await write(w, OK + b"content-length: 500\r\n\r\nhello")
    await for_ever()


@animal(TIMED_OUT)
async def body_never_ends(r, w):
    await write(w, OK + b"transfer-encoding: chunked\r\n\r\n")
    while True:
        await write(w, b"1\r\nx\r\n")
        await asyncio.sleep(0.2)


@animal(TIMED_OUT)
async def header_byte_by_byte(r, w):
    for byte in OK + b"x-a: " + b"y" * 1000:
        await write(w, bytes([byte]))
        await asyncio.sleep(0.25)


@animal(TIMED_OUT)
async def continues_for_ever(r, w):
    while True:
        await write(w, b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.1)


# Cuts.


@animal(LOST)
async def closes_at_once(r, w):
    w.close()


@animal(LOST)
async def resets_at_once(r, w):
    reset(w)


@animal(LOST + "|" + MALFORMED)
async def resets_in_the_status_line(r, w):
    await write(w, b"HTTP/1.1 2")
    await asyncio.sleep(0.05)
    reset(w)


@animal(LOST + "|" + MALFORMED)
async def closes_in_the_header(r, w):
    await write(w, OK + b"content-length: 5\r\n")
    w.close()


@animal(SUCCESS + "hel")
async def closes_in_the_body(r, w):
    await write(w, OK + b"content-length: 500\r\n\r\nhel")
    w.close()


@animal(SUCCESS)
async def resets_in_the_body(r, w):
    await write(w, OK + b"content-length: 500\r\n\r\nhel")
    await asyncio.sleep(0.1)
    reset(w)


@animal(r"^500 oh")
async def error_then_reset(r, w):
    await write(w, b"HTTP/1.1 500 No\r\ncontent-length: 50\r\n\r\noh")
    await asyncio.sleep(0.1)
    reset(w)


# Not HTTP, or not quite.


@animal(MALFORMED)
async def http_0_9(r, w):
    await write(w, b"<html>hello</html>\n")
    w.close()


@animal(MALFORMED)
async def talks_ssh(r, w):
    await write(w, b"SSH-2.0-OpenSSH_9.2\r\n")
    await for_ever()


@animal(MALFORMED)
async def talks_tls(r, w):
    await write(w, b"\x15\x03\x03\x00\x02\x02\x46")
    w.close()


@animal(MALFORMED)
async def http_9_9(r, w):
    await write(w, b"HTTP/9.9 200 OK\r\ncontent-length: 0\r\n\r\n")


@animal(r"^0 |^200 ")
async def http_2_out_of_nowhere(r, w):
    await write(w, b"\0\0\0\x04\0\0\0\0\0")
    w.close()


@animal(MALFORMED)
async def status_of_two_digits(r, w):
    await write(w, b"HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n")


@animal(r"^0 |^999 ")
async def status_999(r, w):
    await write(w, b"HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n")


@animal(MALFORMED)
async def nul_in_a_header(r, w):
    await write(w, OK + b"x-a: b\0c\r\ncontent-length: 0\r\n\r\n")


@animal(MALFORMED)
async def space_in_a_header_name(r, w):
    await write(w, OK + b"x a: b\r\ncontent-length: 0\r\n\r\n")


@animal(MALFORMED)
async def two_lengths(r, w):
    await write(w, OK + b"content-length: 3\r\ncontent-length: 5\r\n\r\nhello")


@animal(MALFORMED)
async def nonsense_length(r, w):
    await write(w, OK + b"content-length: many\r\n\r\nhello")


@animal(SUCCESS + "|" + MALFORMED)
async def length_and_chunks(r, w):
    await write(w, OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    w.close()


@animal(SUCCESS + "|" + MALFORMED)
async def bad_chunk_size(r, w):
    await write(w, OK + b"transfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n")
    w.close()


@animal(SUCCESS + "|" + MALFORMED)
async def huge_chunk_size(r, w):
    await write(w, OK + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello")
    w.close()


@animal(r"^204")
async def no_content_with_content(r, w):
    await write(w, b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello")


@animal(r"^200 |^0 ")
async def storm_of_hints(r, w):
    await write(w, b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 5000 + OK + b"content-length: 0\r\n\r\n")


@animal(r"^101|" + MALFORMED + "|" + LOST)
async def switches_protocols(r, w):
    await write(w, b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81\x05hello")
    w.close()


@animal(SUCCESS)
async def second_answer_unasked(r, w):
    await write(w, (OK + b"content-length: 2\r\n\r\nok") + (b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno") * 3)


@animal(SUCCESS + "bare")
async def answer_without_length(r, w):
    await write(w, OK + b"\r\nbare")
    w.close()


@animal(r"^200 \w|^200 .*\S")
async def body_of_odd_bytes(r, w):
    await write(w, OK + b"content-length: 9\r\n\r\na\0b\xff\xfe\xc0\x80\r\n")


@animal(r"^500 ")
async def reason_not_utf_8(r, w):
    await write(w, b"HTTP/1.1 500 \xff\xfe\xe9\r\ncontent-length: 0\r\n\r\n")


@animal(r"^500 <script>")
async def answers_markup(r, w):
    await write(w, b"HTTP/1.1 500 No\r\ncontent-length: 25\r\n\r\n<script>alert(1)</script>")


# Size.


@animal(r"^0 |^200 ")
async def reason_of_100_000(r, w):
    await write(w, b"HTTP/1.1 200 " + b"O" * 100_000 + b"\r\ncontent-length: 0\r\n\r\n")


@animal(MALFORMED)
async def header_of_a_megabyte(r, w):
    await write(w, OK + b"x-a: " + b"y" * 1_000_000 + b"\r\ncontent-length: 0\r\n\r\n")


@animal(MALFORMED)
async def ten_thousand_headers(r, w):
    await write(w, OK + b"".join(b"set-cookie: c%d=1\r\n" % n for n in range(10_000)) + b"content-length: 0\r\n\r\n")


@animal(SUCCESS)
async def endless_body(r, w):
    await write(w, OK + b"content-length: 10000000000\r\n\r\n")
    while True:
        await write(w, b"x" * 65536)


@animal(r"^500 ")
async def endless_chunks(r, w):
    await write(w, b"HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        await write(w, b"10000\r\n" + b"x" * 65536 + b"\r\n")


@animal(SUCCESS)
async def gzip_bomb(r, w):
    await write(w, OK + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(GZIP) + GZIP)


@animal(r"^500 ")
async def zstd_bomb(r, w):
    # A frame that says 1 GB, of blocks that repeat one byte 128 kB long each.
    block = struct.pack("<I", (131072 << 3) | 2)[:3] + b"\0"
    frame = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", 8192 * 131072 & 0xFFFFFFFF) + block * 8191 + struct.pack("<I", (131072 << 3) | 3)[:3] + b"\0"
    await write(w, b"HTTP/1.1 500 No\r\ncontent-encoding: zstd\r\ncontent-length: %d\r\n\r\n" % len(frame) + frame)


GZIP = gzip.compress(bytes(100 << 20), 9)


# Redirects: never followed. The first place to look is this very server, path /followed.
def redirect(name, status, location):
    async def answer(r, w):
        await write(w, b"HTTP/1.1 %d Moved\r\nlocation: %s\r\ncontent-length: 0\r\n\r\n" % (status, location.replace("PORT", str(zoo.port)).encode()))

    ANIMALS[name] = (answer, rf"^{status}( |$)")


for status in (301, 302, 303, 307, 308):
    redirect(f"redirect_{status}", status, "http://127.0.0.1:PORT/followed")
redirect("redirect_to_metadata", 302, "http://169.254.169.254/latest/meta-data/")
redirect("redirect_to_file", 302, "file:///etc/passwd")
redirect("redirect_to_itself", 307, "/redirect_to_itself")
redirect("redirect_nowhere", 302, "")


# Retry-After.
def later(name, value, status=503):
    async def answer(r, w):
        await write(w, b"HTTP/1.1 %d Later\r\nretry-after: %s\r\ncontent-length: 0\r\n\r\n" % (status, value))

    ANIMALS[name] = (answer, rf"^{status}( |$)")


later("retry_after_seconds", b"5", 429)
later("retry_after_date", b"Fri, 31 Dec 2999 23:59:59 GMT")
later("retry_after_past", b"Thu, 01 Jan 1970 00:00:00 GMT")
later("retry_after_negative", b"-5")
later("retry_after_for_ever", b"1000000000")
later("retry_after_garbage", b"\xffsoon")
later("retry_after_huge", b"9" * 400)


@animal(r"^410( |$)")
async def gone(r, w):
    await write(w, b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n")


class Zoo:
    """The hostile server, in a thread of its own."""

    def __init__(self):
        self.count, self.loop = {}, asyncio.new_event_loop()
        self.port = asyncio_port = free_port()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(asyncio.start_server(self.serve, "127.0.0.1", asyncio_port, backlog=1024), self.loop).result(5)

    async def serve(self, r, w):
        try:
            head = await r.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.I)
            await r.readexactly(int(length[1]) if length else 0)
            path = head.split(b" ")[1].decode().strip("/")
            self.count[path] = self.count.get(path, 0) + 1
            await ANIMALS[path][0](r, w)
            # What is kept alive stays open for a while: the server may come again, and must not be confused.
            await asyncio.sleep(5)
        except (OSError, asyncio.IncompleteReadError, KeyError):
            pass
        finally:
            w.close()


with Trial("hostile_endpoints", "R15-R19: hostile endpoints are judged precisely and harm nobody") as trial:
    zoo = Zoo()
    healthy = trial.sink()
    server = trial.server(env={"SVIX_WORKER_REQUEST_TIMEOUT": str(TIMEOUT), "SVIX_RETRY_SCHEDULE": "600"})
    server.start()
    api = server.api()
    api.event_types("wild", "tame")
    app = api.application()
    api.endpoint(app, healthy.url("/"), eventTypes=["tame"])
    urls = {name: f"http://127.0.0.1:{zoo.port}/{name}" for name in ANIMALS}
    expected = {name: pattern for name, (_, pattern) in ANIMALS.items()}
    # Nobody listens; a listener whose queue is full, so that nobody ever takes the connection; a port that speaks no HTTP.
    urls["nobody_listens"], expected["nobody_listens"] = f"http://127.0.0.1:{free_port()}/", "^0 .*refused"
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    crowd = [socket.socket() for _ in range(4)]
    for s in crowd:
        s.setblocking(False)
        s.connect_ex(full.getsockname())
    urls["never_accepts"], expected["never_accepts"] = f"http://127.0.0.1:{full.getsockname()[1]}/", "^0 timed out|^0 .*in time"
    urls["no_tls_there"], expected["no_tls_there"] = f"https://127.0.0.1:{zoo.port}/closes_at_once", "^0 .*TLS|^0 timed out"
    endpoints = {api.endpoint(app, url, eventTypes=["wild"]): name for name, url in urls.items()}
    idle = server.rss()

    load = Load(server, app, rate=50, threads=6, type="tame").start()
    time.sleep(4)
    begun = time.monotonic()
    message = api.message(app, {"hello": "zoo"}, type="wild")
    peak = idle
    while time.monotonic() < begun + TIMEOUT + 4:
        peak = max(peak, server.rss())
        time.sleep(0.05)
    attempts = {}
    for a in api.attempts(app, message):
        attempts.setdefault(endpoints[a["endpointId"]], []).append(a)
    over = time.monotonic()
    load.stop()
    until(lambda: len(healthy.first()) >= len(load.acked), 5)

    trial.row("kinds of endpoint", len(urls))
    imprecise = []
    for name, pattern in sorted(expected.items()):
        found = attempts.get(name, [])
        told = [f"{a['responseStatusCode']} {a['response']}" for a in found]
        good = len(told) == 1 and re.search(pattern, told[0])
        # A 2xx is a success and nothing else is.
        good = good and (found[0]["status"] == 0) == (200 <= found[0]["responseStatusCode"] < 300)
        if not good:
            imprecise.append(name)
        shown = repr(told[0][:56]) if len(told) == 1 else f"{len(told)} attempts: {told[:2]!r:.60}"
        trial.row(name, shown, pattern if not good else "", bool(good))
    trial.row("judged precisely", len(urls) - len(imprecise), str(len(urls)), not imprecise)
    durations = [a["responseDurationMs"] for each in attempts.values() for a in each]
    trial.row("longest attempt, ms", max(durations, default=0), f"<= {TIMEOUT * 1000 + 500}", max(durations, default=0) <= TIMEOUT * 1000 + 500)
    longest = max((len(a["response"]) for each in attempts.values() for a in each), default=0)
    trial.row("longest response kept", longest, "<= 131072", longest <= 131072)
    trial.row("redirects followed", zoo.count.get("followed", 0), "0", "followed" not in zoo.count)
    twice = {name: n for name, n in zoo.count.items() if n > 1 and name != "closes_at_once"}
    trial.row("called more than once", twice or 0, "0", not twice)
    gone_id = next(id for id, name in endpoints.items() if name == "gone")
    disabled = api.call("GET", f"/app/{app}/endpoint/{gone_id}")["disabled"]
    trial.row("410 disables its endpoint", disabled, "True", disabled is True)
    others = [name for id, name in endpoints.items() if name != "gone" and api.call("GET", f"/app/{app}/endpoint/{id}")["disabled"]]
    trial.row("others disabled", others or 0, "0", not others)
    base = percentile(load.delivery_latencies(healthy.first(), 0, begun), 0.99)
    p99 = percentile(load.delivery_latencies(healthy.first(), begun, over), 0.99)
    trial.row("healthy endpoint: p99 before, ms", base * 1000)
    trial.row("healthy endpoint: p99 during, ms", p99 * 1000, f"<= {base * 1000 + 250:.0f}", p99 <= base + 0.25)
    trial.row("healthy endpoint: missing, doubled", (len(set(load.acked) - set(healthy.first())), sum(n - 1 for n in healthy.ids().values())), "(0, 0)", set(load.acked) == set(healthy.first()) and len(healthy.arrivals) == len(load.acked))
    trial.row("resident memory idle, at most, MB", f"{idle:.0f}, {peak:.0f}", f"<= {idle + 80:.0f}", peak <= idle + 80)
    ledger = server.ledger()
    trial.row("ledger balances", ledger["balances"], "True", ledger["balances"])

    # And many times over: nobody dies of it.
    for _ in range(40 if trial.full else 5):
        api.message(app, {"again": True}, type="wild")
    last = api.message(app, {}, type="tame")
    trial.row("a healthy delivery after many more of them", until(lambda: last in healthy.first(), 3), "True", last in healthy.first())
    code, seconds = server.terminate()
    trial.row("SIGTERM: exit code, s", (code, round(seconds, 2)), "0, <= 20", code == 0 and seconds <= 20)
