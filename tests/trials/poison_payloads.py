#!/usr/bin/env python3
"""R20: payloads made to break parsers. Each is refused by a clear 4xx or accepted; what is accepted is delivered byte for
byte, and an honest message after it arrives as ever.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Connection, Trial, until  # noqa: E402

with Trial("poison_payloads", "R20: poison is refused or delivered exactly") as trial:
    sink = trial.sink(keep=True)
    server = trial.server()
    server.start()
    api = server.api()
    app = api.application()
    endpoint = api.endpoint(app, sink.url("/"))
    sink.secrets["/"] = api.secret(app, endpoint)
    idle = server.rss()

    def send(body, **headers):
        try:
            return Connection(server.port, token=server.token(), timeout=20).request(
                "POST", f"/api/v1/app/{app}/msg", body, {"content-type": "application/json", **headers}
            )
        except OSError as error:
            return error

    def wrapped(payload):
        return b'{"eventType":"poison","payload":' + payload + b"}"

    # Payloads that are good JSON objects: accepted, and delivered as the very bytes between the braces.
    exact = {
        "spaces and line breaks": b'{ "a" :\n\t[ 1 ,\r\n 2 ] }',
        "big and odd numbers": b'{"a":1e400,"b":123456789012345678901234567890,"c":1.0,"d":-0,"e":0.1e-7,"f":1E+2}',
        "the same key twice": b'{"a":1,"a":2}',
        "order of keys": b'{"z":1,"a":2,"m":3}',
        "unicode": '{"ключ":"значение ✓ 🎉 \u2028 \u00e9 e\u0301"}'.encode(),
        "escapes": b'{"a":"\\u0041\\/\\n\\u00e9\\ud83c\\udf89"}',
        "NUL, escaped": b'{"a":"x\\u0000y"}',
        "one line of 900 kB": b'{"a":"' + b"x" * 900_000 + b'"}',
        "hundred thousand small members": b"{" + b",".join(b'"k%d":%d' % (n, n) for n in range(60_000)) + b"}",
        "markup": b'{"a":"</script><script>alert(1)</script>","b":"\\r\\nx-injected: 1"}',
        "empty": b"{}",
        "deep, but not too deep": b'{"a":' + b"[" * 50 + b"]" * 50 + b"}",
    }
    sent = {}
    for name, payload in exact.items():
        answer = send(wrapped(payload))
        good = getattr(answer, "status", 0) == 202
        trial.row(name, getattr(answer, "status", repr(answer)), "202", good)
        if good:
            sent[answer.json()["id"]] = (name, payload)
    until(lambda: len(sink.first()) >= len(sent), 10)
    changed = [name for id, (name, payload) in sent.items() if [a.body for a in sink.arrivals if a.id == id] != [payload]]
    trial.row("delivered otherwise than accepted", changed or 0, "0", not changed)
    trial.row("wrong signatures", sink.unsigned, "0", sink.unsigned == 0)
    for id, (name, payload) in sent.items():
        answer = Connection(server.port, token=server.token()).request("GET", f"/api/v1/app/{app}/msg/{id}")
        try:
            # Numbers as text: what a reader of the API gets must say the same as the payload did.
            same = json.loads(answer.body, parse_float=str, parse_int=str)["payload"] == json.loads(payload, parse_float=str, parse_int=str)
        except ValueError as error:
            same = f"not JSON: {error}"
        if same is not True:
            trial.row(f"read back: {name}", same, "True", False)

    # Either is right: refused by a 4xx, or accepted and delivered exactly. Never a 5xx, a hang or a closed connection.
    either = {
        "lone surrogate, escaped": b'{"a":"\\ud800"}',
        "lone low surrogate": b'{"a":"\\udc00x"}',
        "depth 1,000": b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}",
        "a key with a NUL": b'{"\\u0000":1}',
        "the key __proto__": b'{"__proto__":{"x":1}}',
        "an array": b"[1,2]", "a string": b'"x"', "a number": b"12", "null": b"null",
        "NEL and form feed as spaces": b'{\x0c"a":1}',
    }
    # These must be refused.
    bad = {
        "invalid UTF-8": b'{"a":"\xff\xfe"}',
        "overlong UTF-8": b'{"a":"\xc0\xaf"}',
        "a surrogate in UTF-8": b'{"a":"\xed\xa0\x80"}',
        "depth 1,000,000": b'{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
        "depth 400,000, of objects": b'{"a":' * 400_000 + b"1" + b"}" * 400_000,
        "cut off": b'{"a":',
        "raw NUL in a string": b'{"a":"\x00"}',
        "raw line break in a string": b'{"a":"\n"}',
        "a comment": b'{"a":1/*x*/}',
        "a comma too many": b'{"a":1,}',
        "NaN": b'{"a":NaN}', "Infinity": b'{"a":-Infinity}', "hexadecimal": b'{"a":0x10}', "leading zero": b'{"a":01}',
        "single quotes": b"{'a':1}",
        "3 MB": b'{"a":"' + b"x" * 3_000_000 + b'"}',
    }
    for name, payload in (either | bad).items():
        answer = send(wrapped(payload))
        status = getattr(answer, "status", 0)
        # What is too large may be refused while we still write it: then the answer can get lost.
        large = len(payload) > 2 << 20 and not status
        fine = 400 <= status < 500 or (name in either and status == 202) or large
        bar = "4xx or closed" if len(payload) > 2 << 20 else "4xx" if name in bad else "4xx or 202"
        trial.row(name, status or repr(answer), bar, fine)
        if status == 202:
            id = answer.json()["id"]
            until(lambda: id in sink.first(), 5)
            bodies = [a.body for a in sink.arrivals if a.id == id]
            trial.row("  delivered exactly", bodies == [payload], "True", bodies == [payload])
    whole = {
        "no body": b"", "spaces": b"   ", "a byte order mark": b"\xef\xbb\xbf" + wrapped(b"{}"), "UTF-16": wrapped(b"{}").decode().encode("utf-16"),
        "two documents": wrapped(b"{}") * 2, "an array around it": b"[" + wrapped(b"{}") + b"]",
        "no event type": b'{"payload":{}}', "event type null": b'{"eventType":null,"payload":{}}', "event type with a line break": b'{"eventType":"a\\r\\nx: y","payload":{}}',
        "event type of 300 characters": b'{"eventType":"' + b"a" * 300 + b'","payload":{}}', "no payload": b'{"eventType":"a"}',
        "event id with a full stop and a line break": b'{"eventType":"a","eventId":"a.b\\nc","payload":{}}',
        "channels of numbers": b'{"eventType":"a","channels":[1],"payload":{}}', "a thousand channels": b'{"eventType":"a","channels":' + json.dumps([f"c{n}" for n in range(1000)]).encode() + b',"payload":{}}',
    }
    for name, body in whole.items():
        status = getattr(answer := send(body), "status", 0)
        trial.row(f"request: {name}", status or repr(answer), "4xx", 400 <= status < 500)
    for name, encoding in (("gzip", "gzip"), ("unknown", "nonsense")):
        import gzip

        body = gzip.compress(wrapped(b'{"a":"' + b"0" * (50 << 20) + b'"}'), 9)
        status = getattr(answer := send(body, **{"content-encoding": encoding}), "status", 0)
        trial.row(f"50 MB in {len(body) // 1024} kB, content-encoding {name}", status or repr(answer), "4xx", 400 <= status < 500)
    for key in ("x" * 300, "a\tb", "é"):
        answer = send(wrapped(b"{}"), **{"idempotency-key": key})
        trial.row(f"idempotency key {key[:8]!r}, {len(key)} long", getattr(answer, "status", repr(answer)), "202 or 4xx", getattr(answer, "status", 0) in range(202, 500))

    last = api.message(app, {"honest": True})
    trial.row("an honest message arrives", until(lambda: last in sink.first(), 5), "True", last in sink.first())
    rss = server.rss()
    trial.row("resident memory before, after, MB", f"{idle:.0f}, {rss:.0f}", f"<= {idle + 200:.0f}", rss <= idle + 200)
    ledger = server.drained(5)
    trial.row("ledger balances, pending", (ledger["balances"], ledger["pending"]), "(True, 0)", ledger["balances"] and not ledger["pending"])
    server.kill()
    ready = server.start()
    trial.row("ready after kill -9, s", ready, "<= 5", ready <= 5)
    server.terminate()
