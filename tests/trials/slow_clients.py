#!/usr/bin/env python3
"""R13: thousands of clients that are slow on purpose: silent ones, half a header, a byte now and then, a body that
never comes. Good clients do not notice, and all the bad ones are shown the door.
"""

import pathlib
import selectors
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Load, Trial, percentile, until  # noqa: E402

CLOSED_WITHIN = 20.0

with Trial("slow_clients", "R13: slow clients are closed and good ones do not notice") as trial:
    count = 5000 if trial.full else 2000
    sink = trial.sink()
    server = trial.server()
    server.start()
    app = server.api().application()
    server.api().endpoint(app, sink.url("/"))
    load = Load(server, app, rate=100, threads=8).start()
    time.sleep(5)
    attack = time.monotonic()

    head = f"POST /api/v1/app/{app}/msg HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.token()}\r\ncontent-type: application/json\r\n"
    kinds = {
        # name: (bytes at once, bytes that follow one by one)
        "silent": (b"", b""),
        "half a header": (head.encode()[:-8], b""),
        "header, byte by byte": (b"POST /api/v1/app HTTP/1.1\r\nx-a: ", b"y" * 1000),
        "body, byte by byte": ((head + "content-length: 1000\r\n\r\n").encode(), b'{"eventType":' + b" " * 1000),
        "body that never comes": ((head + "content-length: 1000\r\n\r\n").encode(), b""),
    }
    selector, bad, refused = selectors.DefaultSelector(), {}, 0
    names = list(kinds)
    for i in range(count):
        name = names[i % len(names)]
        try:
            s = socket.create_connection(("127.0.0.1", server.port), 5)
            if kinds[name][0]:
                s.sendall(kinds[name][0])
        except OSError:
            refused += 1
            continue
        s.setblocking(False)
        bad[s] = (name, time.monotonic())
        selector.register(s, selectors.EVENT_READ)
    opened = time.monotonic()
    closed = {name: [] for name in kinds}
    answers = {}
    rss, drip = server.rss(), opened + 2
    while bad and time.monotonic() < opened + CLOSED_WITHIN + 14:
        for key, _ in selector.select(0.2):
            s = key.fileobj
            name, since = bad[s]
            try:
                data = s.recv(4096)
            except OSError:
                data = b""
            if data:
                status = data.split(b" ")[1][:3].decode() if data.startswith(b"HTTP/") else "?"
                answers[name, status] = answers.get((name, status), 0) + 1
                continue
            selector.unregister(s)
            s.close()
            del bad[s]
            closed[name].append(time.monotonic() - since)
        if time.monotonic() > drip:
            drip += 2
            for s, (name, _) in list(bad.items()):
                if kinds[name][1]:
                    try:
                        s.send(kinds[name][1][:1])
                    except OSError:
                        pass
        rss = max(rss, server.rss())
    over = time.monotonic()
    load.stop()
    before, during = load.latencies(0, attack), load.latencies(opened, over)
    base, p99 = percentile(before, 0.99), percentile(during, 0.99)
    trial.row("bad connections", count - refused)
    trial.row("refused at once", refused)
    for name in kinds:
        left = sum(n == name for n, _ in bad.values())
        statuses = {status: n for (kind, status), n in answers.items() if kind == name}
        trial.row(f"{name}: closed after, longest s", max(closed[name], default=0.0), f"<= {CLOSED_WITHIN}", not left and max(closed[name], default=0) <= CLOSED_WITHIN)
        if left or statuses:
            trial.row("  left open; told", f"{left}; {statuses}")
    bar = max(2 * base, base + 0.05)
    trial.row("good clients: p99 before, ms", base * 1000)
    trial.row("good clients: p99 during, ms", p99 * 1000, f"<= {bar * 1000:.0f}", p99 <= bar)
    trial.row("good clients: requests during", len(during), "> 500", len(during) > 500)
    trial.row("good clients: trouble", dict(load.trouble) or 0, "0", not load.trouble and not load.refused)
    trial.row("resident memory, MB", rss, "<= 300", rss <= 300)
    until(lambda: len(sink.first()) >= len(load.acked), 5)
    trial.row("delivered", len(sink.first()), str(len(load.acked)), len(sink.first()) == len(load.acked))
    for s in bad:
        s.close()
    server.terminate()
