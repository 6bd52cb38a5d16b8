#!/usr/bin/env python3
"""Requests that no honest client writes: smuggling, doubled headers, bare line feeds, floods of headers.

Each is answered by a 4xx or by closing the connection, never by a 2xx, and what follows on the same connection is not
taken for a request. The process goes on as before.
"""

import pathlib
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Connection, Trial  # noqa: E402


def exchange(port, request, chunks=None):
    """Everything that comes back until the other end closes, or nothing comes for a second and a half."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), 5) as s:
        s.settimeout(1.5)
        try:
            for part in chunks or [request]:
                s.sendall(part)
            while data := s.recv(65536):
                received += data
            ending = "closed"
        except TimeoutError:
            ending = "left open"
        except OSError:
            ending = "reset"
    statuses = [int(part[:3]) for part in received.replace(b"HTTP/1.0", b"HTTP/1.1").split(b"HTTP/1.1 ")[1:]]
    return statuses, ending


with Trial("raw_http", "requests that smuggle, double and flood are refused") as trial:
    server = trial.server()
    server.start()
    app = server.api().application()
    line = f"POST /api/v1/app/{app}/msg HTTP/1.1\r\n"
    host = f"host: 127.0.0.1:{server.port}\r\n"
    auth = f"authorization: Bearer {server.token()}\r\ncontent-type: application/json\r\n"
    body = '{"eventType":"raw","payload":{}}'
    length, chunked = f"content-length: {len(body)}\r\n", "transfer-encoding: chunked\r\n"
    chunk = f"{len(body):x}\r\n{body}\r\n0\r\n\r\n"
    second = f"GET /api/v1/app HTTP/1.1\r\n{host}{auth}\r\n"

    good, _ = exchange(server.port, (line + host + auth + length + "\r\n" + body).encode())
    trial.row("an honest request", good, "[202]", good == [202])
    good, _ = exchange(server.port, (line + host + auth + chunked + "\r\n" + chunk).encode())
    trial.row("an honest one in chunks", good, "[202]", good == [202])

    cases = {
        "length and chunks": line + host + auth + length + chunked + "\r\n" + chunk,
        "chunks and length": line + host + auth + chunked + length + "\r\n" + chunk,
        "length 0 and chunks, a request inside": line + host + auth + "content-length: 0\r\n" + chunked + "\r\n" + second,
        "two equal lengths": line + host + auth + length + length + "\r\n" + body,
        "two lengths": line + host + auth + length + "content-length: 5\r\n\r\n" + body,
        "a list of lengths": line + host + auth + f"content-length: {len(body)}, {len(body)}\r\n\r\n" + body,
        "length with a sign": line + host + auth + f"content-length: +{len(body)}\r\n\r\n" + body,
        "negative length": line + host + auth + "content-length: -1\r\n\r\n" + body,
        "length in hexadecimal": line + host + auth + f"content-length: 0x{len(body):x}\r\n\r\n" + body,
        "length beyond 64 bits": line + host + auth + "content-length: 99999999999999999999999\r\n\r\n" + body,
        "chunked twice": line + host + auth + chunked + chunked + "\r\n" + chunk,
        "chunked, chunked": line + host + auth + "transfer-encoding: chunked, chunked\r\n\r\n" + chunk,
        "chunked, not last": line + host + auth + "transfer-encoding: chunked, identity\r\n\r\n" + chunk,
        "chunked misspelt": line + host + auth + "transfer-encoding: xchunked\r\n\r\n" + chunk,
        "chunked after a tab, and a length": line + host + auth + "transfer-encoding:\tchunked\r\n" + length + "\r\n" + chunk,
        "gzip transfer coding": line + host + auth + "transfer-encoding: gzip, chunked\r\n\r\n" + chunk,
        "chunked in HTTP/1.0": line.replace("1.1", "1.0") + host + auth + chunked + "\r\n" + chunk,
        "no host": line + auth + length + "\r\n" + body,
        "two hosts": line + host + "host: other\r\n" + auth + length + "\r\n" + body,
        "two equal hosts": line + host + host + auth + length + "\r\n" + body,
        "bare line feeds": (line + host + auth + length + "\r\n").replace("\r\n", "\n") + body,
        "one bare line feed": line + host + auth.replace("\r\n", "\n", 1) + length + "\r\n" + body,
        "a carriage return in a value": line + host + auth + "x-a: b\rc\r\n" + length + "\r\n" + body,
        "NUL in a value": line + host + auth + "x-a: b\0c\r\n" + length + "\r\n" + body,
        "a space before the colon": line + host + auth + f"content-length : {len(body)}\r\n\r\n" + body,
        "a space before the colon of chunked": line + host + auth + length + "transfer-encoding : chunked\r\n\r\n" + body,
        "a folded header": line + host + auth + "x-a: b\r\n c\r\n" + length + "\r\n" + body,
        "a header without a name": line + host + auth + ": b\r\n" + length + "\r\n" + body,
        "bad chunk size": line + host + auth + chunked + f"\r\nzz\r\n{body}\r\n0\r\n\r\n",
        "negative chunk size": line + host + auth + chunked + f"\r\n-1\r\n{body}\r\n0\r\n\r\n",
        "chunk size beyond 64 bits": line + host + auth + chunked + f"\r\nfffffffffffffffff\r\n{body}\r\n0\r\n\r\n",
        "chunk longer than said": line + host + auth + chunked + f"\r\n{len(body) - 3:x}\r\n{body}\r\n0\r\n\r\n",
        "chunk with a bare line feed": line + host + auth + chunked + f"\r\n{len(body):x}\n{body}\r\n0\r\n\r\n",
        "a flood of headers": line + host + auth + "".join(f"x-{n}: y\r\n" for n in range(5000)) + length + "\r\n" + body,
        "a megabyte of one header": line + host + auth + "x-a: " + "y" * 1_000_000 + "\r\n" + length + "\r\n" + body,
        "a long path": f"GET /{'a' * 200_000} HTTP/1.1\r\n{host}\r\n",
        "a space in the path": f"GET /api/v1/app x HTTP/1.1\r\n{host}{auth}\r\n",
        "no version": f"GET /api/v1/app\r\n{host}{auth}\r\n",
        "HTTP/9.9": f"GET /api/v1/app HTTP/9.9\r\n{host}{auth}\r\n",
        "not HTTP at all": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "\0" * 500,
        "CONNECT": f"CONNECT 127.0.0.1:22 HTTP/1.1\r\n{host}{auth}\r\n",
        "TRACE": f"TRACE /api/v1/app HTTP/1.1\r\n{host}{auth}\r\n",
    }
    for name, request in cases.items():
        statuses, ending = exchange(server.port, request.encode("latin-1"))
        fine = all(400 <= status < 500 or status in (501, 505) for status in statuses) and len(statuses) <= 1
        trial.row(name, f"{statuses or 'no answer'}, {ending}", "4xx or closed", fine and (bool(statuses) or ending != "left open"))

    # Chunks of one byte: many, and honest.
    tiny = "".join(f"1\r\n{c}\r\n" for c in body) + "0\r\n\r\n"
    statuses, _ = exchange(server.port, (line + host + auth + chunked + "\r\n" + tiny).encode())
    trial.row("a body in chunks of one byte", statuses, "[202]", statuses == [202])
    extensions = f"{len(body):x};{'a' * 60_000}\r\n{body}\r\n0\r\n\r\n"
    statuses, ending = exchange(server.port, (line + host + auth + chunked + "\r\n" + extensions).encode())
    trial.row("a huge chunk extension", f"{statuses or 'no answer'}, {ending}", "refused or 202", bool(statuses) or ending != "left open")
    accepted = statuses == [202]
    pipelined, _ = exchange(server.port, (second * 20).encode())
    trial.row("twenty requests at once", len(pipelined), "20 x 200", pipelined == [200] * 20)
    statuses, ending = exchange(server.port, (line + host + auth + f"content-length: {20 << 20}\r\n\r\n").encode() + b" " * (1 << 20))
    trial.row("a length of 20 MB", f"{statuses or 'no answer'}, {ending}", "413 or closed", statuses in ([413], []) and ending != "left open")

    time.sleep(0.2)
    ledger = server.ledger()
    trial.row("messages accepted", ledger["accepted"], f"{3 + accepted} (the honest ones)", ledger["accepted"] == 3 + accepted)
    ping = Connection(server.port).request("GET", "/api/v1/health/ping").status
    trial.row("alive", ping, "2xx", ping // 100 == 2)
    server.terminate()
