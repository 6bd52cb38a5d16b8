#!/usr/bin/env python3
"""Runs an example, or all of them: starts what it talks to (a mail server, a chat, a phone's service, all of them here and made of a few lines),
starts `bellwire serve` with the example's hooks.toml, plays the sender, and shows what arrives. Exits 0 if everything did.

    run.py [NAME...]
"""

import hashlib
import hmac
import http.client
import http.server
import json
import os
import pathlib
import queue
import socketserver
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
PATIENCE = 30


def program():
    if given := os.environ.get("BELLWIRE"):
        return os.path.abspath(given)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent / "target"))
    found = [path for path in (target / "release/bellwire", target / "debug/bellwire") if path.exists()]
    if not found:
        sys.exit("no program: build one (cargo build --release), or name it in BELLWIRE")
    return str(max(found, key=lambda path: path.stat().st_mtime))


class Chat(http.server.BaseHTTPRequestHandler):
    """Stands in for every service that is reached by HTTP."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.arrived.put((self.path, body.decode()))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_PUT = do_POST

    def log_message(self, *_):
        pass


class Mail(socketserver.StreamRequestHandler):
    """Stands in for a mail server."""

    def handle(self):
        say = lambda line: self.wfile.write(line.encode() + b"\r\n")  # noqa: E731
        say("220 here")
        while line := self.rfile.readline().decode(errors="replace").strip():
            verb = line.upper()
            if verb.startswith("DATA"):
                say("354 go on")
                text = []
                while (part := self.rfile.readline().decode(errors="replace").rstrip("\r\n")) != ".":
                    text.append(part)
                self.server.arrived.put(("mail", "\n".join(text)))
                say("250 taken")
            elif verb.startswith("QUIT"):
                say("221 bye")
                return
            else:
                say("250 fine")


def stand_in(kind):
    server = (http.server.ThreadingHTTPServer if kind is Chat else socketserver.ThreadingTCPServer)(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    server.arrived = queue.Queue()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Bellwire:
    """A server with an example's hooks.toml, on a folder that goes with it."""

    def __init__(self, example, folder, **environment):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("BELLWIRE", "SVIX"))}
        self.environment = {
            **clean, "BELLWIRE_DATA": f"{folder}/data", "BELLWIRE_EGRESS_ALLOW": "127.0.0.0/8", "BELLWIRE_LOG_FORMAT": "json", **environment,
        }  # fmt: skip
        hooks = str(HERE / example / "hooks.toml")
        checked = subprocess.run([program(), "check", hooks], env=self.environment, capture_output=True, text=True, check=False)
        if checked.returncode:
            sys.exit(f"bellwire check {hooks}:\n{checked.stdout}{checked.stderr}")
        command = [program(), "serve", "--listen", "127.0.0.1:0", "--hooks", hooks]
        self.process = subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, text=True)
        log = []
        for line in self.process.stderr:
            log.append(line)
            if line.startswith("{") and json.loads(line).get("message") == "ready":
                self.port = int(json.loads(line)["address"].rsplit(":", 1)[1])
                break
        else:
            sys.exit("the server did not start:\n" + "".join(log))
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()
        self.token = subprocess.run([program(), "token"], env=self.environment, capture_output=True, text=True, check=True).stdout.strip()

    def post(self, path, body, headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        print(f"  POST {path} was answered with {answer.status} {text}".rstrip()[:120])
        return answer.status

    def send(self, application, event_type, payload):
        """As the sender's own program does it, by the API."""
        body = json.dumps({"eventType": event_type, "payload": payload})
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        expect(self.post(f"/api/v1/app/{application}/msg", body, headers), 202)

    def run(self, source):
        """What a schedule makes of its time, without waiting for it."""
        command = [program(), "source", "run", source, "--url", f"http://127.0.0.1:{self.port}", "--api-token", self.token]
        made = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if made.returncode:
            raise AssertionError(f"bellwire source run {source}: {made.stderr}")
        print(f"  {source} was run: {made.stdout.strip()}")

    def stop(self):
        self.process.terminate()
        expect(self.process.wait(PATIENCE), 0)


def expect(found, wanted):
    if found != wanted:
        raise AssertionError(f"{found!r} instead of {wanted!r}")


def arrival(server, *wanted):
    place, text = server.arrived.get(timeout=PATIENCE)
    print(f"  arrived at {place}: {text.strip().splitlines()[-1]}")
    for part in wanted:
        if part not in text:
            raise AssertionError(f"{part!r} is not in what arrived: {text}")


def until(what, ask):
    end = time.monotonic() + PATIENCE
    while not (found := ask()):
        if time.monotonic() > end:
            raise AssertionError(f"never happened: {what}")
        time.sleep(0.02)
    return found


def signed(secret, body):
    return hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest()


def cafe(folder):
    mail = stand_in(Mail)
    server = Bellwire("cafe", folder, BELLWIRE_PLUGINS_SMTP=f"smtp://127.0.0.1:{mail.server_address[1]}")
    server.send("cafe", "customer.joined", {"name": "Jo Lindqvist", "drink": "a flat white"})
    arrival(mail, "Subject: Jo Lindqvist joined", "boss@example.com", "a flat white")
    server.run("hooks.month")
    arrival(mail, "Subject: The month's report is due", "boss@example.com", "T18:00:00+0")
    server.stop()


def bank(folder):
    phone = stand_in(Chat)
    server = Bellwire("bank", folder, NTFY_SERVER=f"http://127.0.0.1:{phone.server_address[1]}")
    server.send("account-7001", "transaction.booked", {"amount": 12, "currency": "EUR", "to": "the bakery"})
    server.send("account-7001", "transaction.booked", {"amount": 4000, "currency": "EUR", "to": "the landlord"})
    arrival(phone, "4000 EUR went to the landlord")
    expect(phone.arrived.qsize(), 0)
    server.stop()


def github_build(folder):
    chat, secret = stand_in(Chat), "a secret that GitHub knows"
    chat_url = f"http://127.0.0.1:{chat.server_address[1]}/services/T0/B0"
    server = Bellwire("github-build", folder, GITHUB_WEBHOOK_SECRET=secret, CHAT_URL=chat_url, BUILD_OUT=folder)
    push = {
        "ref": "refs/heads/main", "after": "0d1a26e", "head_commit": {"message": "Update README.md"}, "sender": {"login": "Codertocat"},
        "repository": {"name": "Hello-World", "full_name": "Codertocat/Hello-World"},
    }  # fmt: skip
    body = json.dumps(push)
    headers = {"content-type": "application/json", "x-github-event": "push", "x-github-delivery": "1", "x-hub-signature-256": "sha256=" + "0" * 64}
    expect(server.post("/hooks/github", body, headers), 401)
    headers["x-hub-signature-256"] = "sha256=" + signed(secret, body)
    expect(server.post("/hooks/github", body, headers) // 100, 2)
    arrival(chat, "Codertocat pushed to Codertocat/Hello-World: Update README.md")
    built = until("the build ran", lambda: pathlib.Path(folder, "built").exists() and pathlib.Path(folder, "built").read_text())
    print(f"  built: {built.strip()}")
    expect(built, "building Hello-World at 0d1a26e\n")
    server.stop()


def stripe_payments(folder):
    secret, file = "whsec_an_endpoint_secret_of_stripe", f"{folder}/shop.db"
    with sqlite3.connect(file) as shop:
        shop.execute("CREATE TABLE payment (id TEXT PRIMARY KEY, amount INTEGER, currency TEXT)")
    server = Bellwire("stripe-payments", folder, STRIPE_WEBHOOK_SECRET=secret, BELLWIRE_PLUGINS_DATABASES=f"shop=sqlite:{file}")
    intent = {"id": "pi_1", "amount": 1250, "currency": "eur"}
    body = json.dumps({"id": "evt_1", "type": "payment_intent.succeeded", "data": {"object": intent}})
    for _ in range(2):
        now = int(time.time())
        headers = {"content-type": "application/json", "stripe-signature": f"t={now},v1={signed(secret, f'{now}.{body}')}"}
        expect(server.post("/hooks/stripe", body, headers) // 100, 2)

    def rows():
        return sqlite3.connect(file).execute("SELECT id, amount, currency FROM payment").fetchall()

    found = until("the row is there", rows)
    print(f"  rows: {found}")
    expect(found, [("pi_1", 1250, "eur")])
    server.stop()


EXAMPLES = {"cafe": cafe, "bank": bank, "github-build": github_build, "stripe-payments": stripe_payments}

for name in sys.argv[1:] or EXAMPLES:
    if name not in EXAMPLES:
        sys.exit(f"there is no example {name}; there are {', '.join(EXAMPLES)}")
    print(f"{name}:")
    with tempfile.TemporaryDirectory(prefix="bellwire-example-") as folder:
        EXAMPLES[name](folder)
    print("  done")
