#!/usr/bin/env python3
"""The address guard seen from outside: no spelling of a private address leads to a request, whether the endpoint was
just made or was made while the operator still allowed it.

All of it happens in a network namespace of its own in which every such address exists: a canary listens on them all, so
a hole would be seen as a connection, and nothing leaves the machine. It must see none.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Refused, Trial, free_port, root, until  # noqa: E402

OWN = "198.18.7.7"
PRIVATE = f"""
    {OWN} 10.0.0.1 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1 100.127.255.254 169.254.169.254 169.254.0.1 192.0.0.1 192.0.2.1
    198.18.0.1 198.51.100.1 203.0.113.1 192.88.99.1 fc00::1 fd00:ec2::254 fec0::1 2001:db8::1 3fff::1 5f00::1 100::1
    64:ff9b::7f00:1 64:ff9b:1::7f00:1 2002:7f00:1::1 2001:0:4136:e378:8000:63bf:80ff:fffe ::5efe:7f00:1 ::ffff:0:7f00:1 ::7f00:1
""".split()

if "BELLWIRE_TRIAL_NAMESPACE" not in os.environ:
    os.environ["BELLWIRE_TRIAL_NAMESPACE"] = "1"
    inside = root(["unshare", "-n", "--", sys.executable, *sys.argv])
    if inside[0] == "sudo":
        inside.insert(1, "-E")
    os.execvp(inside[0], inside)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
for address in PRIVATE:
    # Some of these the kernel may refuse to own; then there is only no canary there.
    subprocess.run(["ip", "addr", "add", address + ("/128" if ":" in address else "/32"), "dev", "lo"], capture_output=True, check=False)

with Trial("address_guard", "no way to a private address, however it is spelt") as trial:
    port = free_port()
    touched = []

    def canary(family, address):
        s = socket.socket(family, socket.SOCK_STREAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.bind((address, port))
        s.listen(64)
        trial.stack.callback(s.close)

        def accept():
            while True:
                try:
                    connection, peer = s.accept()
                except OSError:
                    return
                touched.append(peer)
                connection.close()

        threading.Thread(target=accept, daemon=True).start()

    # Every address of this machine, so also whatever its name resolves to.
    canary(socket.AF_INET, "0.0.0.0")
    if socket.has_ipv6:
        try:
            canary(socket.AF_INET6, "::")
        except OSError:
            trial.row("IPv6", "not here")
    hosts = """
        127.0.0.1 127.1 127.0.1 127.255.255.254 0x7f.1 0x7f000001 2130706433 017700000001 0177.0.0.1 00000177.0.0.1 0x7f.0x0.0x0.0x1
        ①②⑦.⓪.⓪.① 127。0。0。1 127．0．0．1 127.0.0.1. %31%32%37.0.0.1 0 0.0.0.0 00 0x0
        [::1] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:127.0.0.1] [::127.0.0.1] [::ffff:0:127.0.0.1]
        [64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b:1::7f00:1] [2002:7f00:1::1] [2001:0:4136:e378:8000:63bf:80ff:fffe] [::5efe:127.0.0.1] [::]
        localhost LOCALHOST localhost. foo.localhost localhost.localdomain ip6-localhost
        10.0.0.1 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1 100.127.255.254 169.254.169.254 169.254.0.1 192.0.0.1 192.0.2.1
        198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 0.1.2.3 192.88.99.1
        [fc00::1] [fd00:ec2::254] [fe80::1] [fec0::1] [ff02::2] [2001:db8::1] [3fff::1] [5f00::1] [100::1]
        metadata.google.internal service.internal printer.local
    """.split()
    hosts += [OWN, socket.gethostname()]
    urls = [f"http://{host}:{port}/" for host in hosts]
    urls += [
        f"http://user:password@127.0.0.1:{port}/", f"http://example.com@127.0.0.1:{port}/", f"http://127.0.0.1:{port}\\@example.com/",
        f"http://127.0.0.1:{port}#@example.com/", f"http:\\\\127.0.0.1:{port}/", f"http:127.0.0.1:{port}/", f"http:///127.0.0.1:{port}/",
        f" http://127.0.0.1:{port}/", f"http://127.0.0.1\t:{port}/", f"ht\ntp://127.0.0.1:{port}/", f"https://127.0.0.1:{port}/", f"HTTP://127.0.0.1:{port}/",
        "file:///etc/passwd", "gopher://127.0.0.1/", "ftp://127.0.0.1/", "http://[fe80::1%25lo]/", "http://8.8.8.8:0/", "data:text/plain,x", "http://127.0.0.1.:25/", "unix:/var/run/docker.sock",
    ]

    # Made while allowed, so that only the guard at each attempt can refuse.
    server = trial.server(env={"SVIX_WHITELIST_SUBNETS": "[127.0.0.0/8]", "SVIX_RETRY_SCHEDULE": "1,1"})
    server.start()
    early = server.api().application("early")
    server.api().endpoint(early, f"http://127.0.0.1:{port}/early")
    server.terminate()
    server.env.pop("SVIX_WHITELIST_SUBNETS")
    server.start()
    api = server.api()
    late = api.message(early, {})

    refused, accepted, odd = 0, [], []
    for url in urls:
        app = api.application("guard")
        try:
            api.endpoint(app, url)
        except Refused as error:
            refused += 1
            if not 400 <= error.response.status < 500:
                odd.append((url, error.response.status))
            continue
        accepted.append((url, app, api.message(app, {"to": url})))
    trial.row("spellings", len(urls))
    trial.row("refused when the endpoint was made", refused)
    trial.row("refused by another status than 4xx", odd or 0, "0", not odd)

    def first(app, message):
        found = api.attempts(app, message)
        return found[0] if found else None

    missed = []
    for url, app, message in accepted:
        until(lambda: first(app, message), 8, 0.05)
        attempt = first(app, message)
        text = json.dumps(attempt)
        if not attempt or attempt["responseStatusCode"] != 0 or attempt["status"] == 0:
            missed.append(url)
        trial.row(f"  made: {url[:60]!r}", "no attempt" if not attempt else attempt["response"][:60], "no response", bool(attempt) and url not in missed)
        leaks = [address for address in ("127.0.0.1", OWN) if address in attempt["response"]] if attempt else []
        if leaks:
            trial.row("    tells an address", leaks, "[]", False)
    until(lambda: len(api.attempts(early, late)) >= 3, 8, 0.1)
    told = api.attempts(early, late)
    trial.row("made while it was allowed: attempts", [(a["responseStatusCode"], a["response"][:50]) for a in told][:1], "says why", bool(told) and all("private" in a["response"] for a in told))
    # An endpoint cannot be moved there either.
    app = api.application("move")
    endpoint = api.endpoint(app, "http://8.8.8.8/")  # Never called: nothing is sent to it.
    moved = []
    for method, body in (("PATCH", {"url": f"http://127.0.0.1:{port}/"}), ("PUT", {"url": f"http://[::1]:{port}/"})):
        try:
            api.call(method, f"/app/{app}/endpoint/{endpoint}", body)
            moved.append(method)
        except Refused as error:
            odd += [] if 400 <= error.response.status < 500 else [method]
    trial.row("moved to a private address by", moved or "nothing", "nothing", not moved)
    time.sleep(0.5)
    trial.row("connections seen by the canary", len(touched), "0", not touched)
    server.terminate()
