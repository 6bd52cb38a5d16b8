"""What the trials share: the real process under test, its API, a load on it, and how a trial says what it found.

A trial is a program: it builds what it needs, does harm, measures, and prints a table of figures and a verdict line
against its bar. It uses only 127.0.0.1, ends only processes that it started, and leaves nothing behind.
"""

import argparse
import base64
import collections
import contextlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from http1 import Connection
from sink import Sink

__all__ = ["Connection", "Sink", "Server", "Api", "Load", "Trial", "Died", "percentile", "until", "free_port", "root"]

ROOT = pathlib.Path(__file__).resolve().parents[2]
READY_MAX = 5.0

# Threads hand over often: the figures are latencies, and Python's default of 5 ms would be a part of them.
sys.setswitchinterval(0.0005)

# Trials hold thousands of sockets, and so does the server, which inherits this.
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)


def binary():
    """The program under test: `BELLWIRE`, or what was built last."""
    if given := os.environ.get("BELLWIRE"):
        return os.path.abspath(given)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    found = [p for p in (target / "release/bellwire", target / "debug/bellwire") if p.exists()]
    if not found:
        sys.exit("no program to test: set BELLWIRE, or build one (cargo build --release)")
    return str(max(found, key=lambda p: p.stat().st_mtime))


def root(command):
    """A command that needs root: as it is, or by sudo."""
    return command if os.geteuid() == 0 else ["sudo", "-n", *command]


def free_port(host="127.0.0.1"):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def percentile(values, share):
    """Nearest rank; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def until(condition, seconds, step=0.02):
    """Waits for `condition()` to be true, at most so long; says whether it was."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(step)
    return bool(condition())


class Died(Exception):
    """The process ended when it should not have."""


class Server:
    """A `bellwire serve` on a data folder, on the same port over all its restarts."""

    def __init__(self, folder, env=None, data=None, wrapper=()):
        self.folder = pathlib.Path(folder)
        self.data = pathlib.Path(data or self.folder / "data")
        self.port = free_port()
        self.log = self.folder / "server.log"
        self.wrapper = list(wrapper)
        self.process, self.pid, self._token = None, None, None
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "SVIX_JWT_SECRET": "a secret of the trials, long enough for anyone",
            "SVIX_MAIN_SECRET": base64.b64encode(bytes(range(32))).decode(),
            "SVIX_WHITELIST_SUBNETS": "[127.0.0.0/8]",
            "SVIX_RETRY_SCHEDULE": "1,1,2",
            "SVIX_WORKER_REQUEST_TIMEOUT": "10",
        }
        for name, value in (env or {}).items():
            if value is None:
                self.env.pop(name, None)
            else:
                self.env[name] = value

    def command(self, *arguments):
        """Runs another command of the program beside the server."""
        return subprocess.run(
            [binary(), *arguments], env=self.env, capture_output=True, text=True, timeout=60, cwd=self.folder
        )

    def start(self, ready=30.0):
        """Starts and waits until it is ready; returns how long that took, in seconds."""
        self.launch()
        return self.wait_ready(ready)

    def launch(self):
        """Starts without waiting."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.wrapper, binary(), "serve", "--data", str(self.data), "--listen", f"127.0.0.1:{self.port}"],
                env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
            )
        self.started = time.monotonic()
        self.pid = self.process.pid
        if self.wrapper:
            until(lambda: self._inner() or self.process.poll() is not None, 10, 0.002)
            self.pid = self._inner() or self.process.pid

    def _inner(self):
        """The program's own process when something such as strace runs it."""
        with contextlib.suppress(OSError):
            for child in pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
                if os.path.basename(os.readlink(f"/proc/{child}/exe")) != self.wrapper[0]:
                    return int(child)
        return None

    def wait_ready(self, seconds=30.0):
        end = self.started + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise Died(f"ended with {self.process.returncode} before it was ready\n{self.tail()}")
            with contextlib.suppress(OSError):
                if Connection(self.port, timeout=1).request("GET", "/api/v1/health/ping").status // 100 == 2:
                    return time.monotonic() - self.started
            time.sleep(0.005)
        raise Died(f"not ready after {seconds} s\n{self.tail()}")

    def kill(self):
        """kill -9, as a power cut would have it for a process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(10)

    def terminate(self, deadline=25.0):
        """SIGTERM; returns (exit code, seconds), the code `None` if it had to be killed."""
        begun = time.monotonic()
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
        try:
            code = self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            self.kill()
            code = None
        return code, time.monotonic() - begun

    def tail(self, lines=15):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join("    | " + line for line in text.splitlines()[-lines:])

    def token(self):
        if self._token is None:
            done = self.command("token", "--data", str(self.data))
            if done.returncode:
                raise Died(f"`bellwire token` ended with {done.returncode}: {done.stderr}")
            self._token = done.stdout.strip().splitlines()[-1]
        return self._token

    def api(self, **options):
        return Api(Connection(self.port, token=self.token(), **options))

    def ledger(self):
        """What `bellwire ledger --json` says, with `ended` summed up as `ended_sum`."""
        done = self.command("ledger", "--json", "--data", str(self.data))
        if done.returncode:
            raise Died(f"`bellwire ledger` ended with {done.returncode}: {done.stderr}")
        ledger = json.loads(done.stdout)
        ledger["ended_sum"] = sum(ledger["ended"].values())
        ledger["balances"] = ledger["matched"] == ledger["delivered"] + ledger["pending"] + ledger["ended_sum"]
        return ledger

    def drained(self, seconds):
        """Waits until nothing is pending; returns the last ledger."""
        ledger = self.ledger()
        end = time.monotonic() + seconds
        while ledger["pending"] and time.monotonic() < end:
            time.sleep(0.1)
            ledger = self.ledger()
        return ledger

    def rss(self):
        """Resident memory in MB."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def files_open(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))


class Refused(Exception):
    """The API answered with another status than was wanted."""

    def __init__(self, what, response):
        super().__init__(f"{what}: {response}")
        self.response = response


class Api:
    """The calls that trials make. Each raises `Refused` unless the answer is a 2xx."""

    def __init__(self, connection):
        self.connection = connection

    def call(self, method, path, body=None, headers=None):
        response = self.connection.request(method, "/api/v1" + path, body, headers)
        if response.status // 100 != 2:
            raise Refused(f"{method} {path}", response)
        return response.json()

    def application(self, name="trial", **fields):
        return self.call("POST", "/app", {"name": name, **fields})["id"]

    def endpoint(self, app, url, **fields):
        return self.call("POST", f"/app/{app}/endpoint", {"url": url, **fields})["id"]

    def secret(self, app, endpoint):
        return self.call("GET", f"/app/{app}/endpoint/{endpoint}/secret")["key"]

    def event_types(self, *names):
        for name in names:
            with contextlib.suppress(Refused):
                self.call("POST", "/event-type", {"name": name, "description": name})

    def message(self, app, payload=None, type="trial.sent", headers=None, **fields):
        body = {"eventType": type, "payload": payload or {}, **fields}
        return self.call("POST", f"/app/{app}/msg", body, headers)["id"]

    def pages(self, path, limit=250):
        """All items of a list, page by page."""
        iterator = None
        while True:
            page = self.call("GET", f"{path}{'&' if '?' in path else '?'}limit={limit}" + (f"&iterator={iterator}" if iterator else ""))
            yield from page["data"]
            if page["done"]:
                return
            iterator = page["iterator"]

    def attempts(self, app, message):
        """Oldest first."""
        return sorted(self.pages(f"/app/{app}/attempt/msg/{message}"), key=lambda a: (a["timestamp"], a["id"]))


class Load:
    """Producers at a steady rate. Each message has an idempotency key and is sent again with it until it is answered, so
    that at the end exactly one message must exist for each key; every id that was answered is appended to a file at once.

    `acked` maps the id to (number, when it was first sent, when it was answered), monotonic seconds.
    """

    def __init__(self, server, app, rate=500, threads=12, payload=None, type="trial.sent", key=None, keyed=True):
        self.server, self.app, self.type, self.keyed = server, app, type, keyed
        self.payload = payload or (lambda n: {"n": n})
        self.key = key or f"load-{random.randrange(1 << 48):x}"
        self.acked, self.refused, self.trouble, self.unknown = {}, collections.Counter(), collections.Counter(), 0
        self.twice, self.retry_after = 0, 0
        self.file = os.open(server.folder / f"acked-{self.key}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.period, self.count = threads / rate, threads
        self.stopping, self.giving_up = threading.Event(), threading.Event()
        self.numbers, self.lock = iter(range(1 << 60)), threading.Lock()
        self.threads = [threading.Thread(target=self._produce, args=(i,), daemon=True) for i in range(threads)]

    def start(self):
        self.begun = time.monotonic()
        for thread in self.threads:
            thread.start()
        return self

    def stop(self, patience=30.0):
        """No new messages; waits for what was begun to be answered."""
        self.stopping.set()
        end = time.monotonic() + patience
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))
        self.giving_up.set()
        for thread in self.threads:
            thread.join(35)
        os.close(self.file)
        self.seconds = time.monotonic() - self.begun
        return self

    def _produce(self, index):
        connection = Connection(self.server.port, token=self.server.token(), timeout=30)
        due = time.monotonic() + self.period * index / self.count
        while not self.stopping.is_set():
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            # After a pause we do not try to catch up: the rate is a ceiling.
            due = max(due + self.period, time.monotonic() - self.period)
            with self.lock:
                n = next(self.numbers)
            self._send(connection, n)
        connection.close()

    def _send(self, connection, n):
        body = json.dumps({"eventType": self.type, "payload": self.payload(n)}).encode()
        headers = {"idempotency-key": f"{self.key}-{n}"} if self.keyed else {}
        first = time.monotonic()
        while not self.giving_up.is_set():
            try:
                response = connection.request("POST", f"/api/v1/app/{self.app}/msg", body, headers)
            except OSError as error:
                self.trouble[type(error).__name__] += 1
                if not self.keyed:
                    self.unknown += 1
                    return
                time.sleep(0.01)
                continue
            if response.status // 100 == 2:
                now, id = time.monotonic(), response.json()["id"]
                os.write(self.file, id.encode() + b"\n")
                if id in self.acked:
                    self.twice += 1
                self.acked[id] = (n, first, now)
                return
            self.refused[response.status] += 1
            self.retry_after += "retry-after" in response.headers
            if response.status < 500 and response.status != 429:
                return
            time.sleep(0.05)
        self.unknown += 1

    def acked_ids(self):
        """As the file has them."""
        return set((self.server.folder / f"acked-{self.key}").read_text().split())

    def latencies(self, since=0.0, before=float("inf")):
        """Seconds from sending to the answer, of what was sent in a span of time."""
        return [done - first for _, first, done in list(self.acked.values()) if since <= first < before]

    def delivery_latencies(self, arrivals, since=0.0, before=float("inf")):
        """Seconds from sending to the first arrival; what has not arrived counts as a minute."""
        return [
            arrivals.get(id, first + 60.0) - first
            for id, (_, first, _) in list(self.acked.items())
            if since <= first < before
        ]


class Trial:
    """What a trial found. Use as a context: temporary folder, servers and sinks are gone at its end.

    The program's exit code is 0 when every row with a bar kept it, 1 otherwise.
    """

    def __init__(self, name, about):
        self.name, self.about, self.rows, self.failed = name, about, [], []
        parser = argparse.ArgumentParser(prog=name, description=about)
        parser.add_argument("--full", action="store_true", help="many more rounds")
        parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the random choices")
        self.options = parser.parse_args()
        self.full = self.options.full
        self.random = random.Random(self.options.seed)
        self.stack = contextlib.ExitStack()
        self.servers = []

    def __enter__(self):
        # Ended from outside, it still cleans up.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("SIGTERM"))
        self.begun = time.monotonic()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="bellwire-trial-"))
        self.stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        return self

    def server(self, **options):
        folder = self.folder / f"server{len(self.servers)}"
        folder.mkdir()
        server = Server(folder, **options)
        self.servers.append(server)
        self.stack.callback(lambda: server.process and server.process.poll() is None and server.kill())
        return server

    def sink(self, *arguments, **options):
        sink = Sink(*arguments, **options)
        self.stack.callback(sink.close)
        return sink

    def tmpfs(self, megabytes):
        """A file system of its own with a hard limit."""
        folder = self.folder / "tmpfs"
        folder.mkdir()
        subprocess.run(root(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=777", "bellwire-trial", str(folder)]), check=True)
        self.stack.callback(lambda: subprocess.run(root(["umount", "-l", str(folder)]), check=False))
        return folder

    def row(self, what, value, bar="", ok=None):
        """A figure; with `ok`, one that is held against its bar."""
        if isinstance(value, float):
            value = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
        self.rows.append((what, str(value), bar, ok))
        if ok is False:
            self.failed.append(what)
        return ok

    def note(self, text):
        """Something that explains a failure; printed below the table."""
        self.rows.append((None, text, "", None))

    def __exit__(self, kind, error, trace):
        if error is not None:
            self.row("ended early", f"{kind.__name__}: {str(error)[:600]}", "no", False)
            if not isinstance(error, (Died, Refused, SystemExit)):
                import traceback

                traceback.print_exception(error)
        for server in self.servers:
            text = server.log.read_text(errors="replace") if server.log.exists() else ""
            if panics := [line for line in text.splitlines() if "panicked at" in line]:
                self.row("panics", len(panics), "0", False)
                self.note(f"the first: {panics[0]}")
        if not any(ok is not None for *_, ok in self.rows):
            self.row("held against a bar", "nothing", "something", False)
        for server in self.servers:
            if self.failed and server.log.exists():
                self.note(f"the end of the server's log:\n{server.tail()}")
        self.stack.close()
        self.print()
        sys.exit(1 if self.failed else 0)

    def print(self):
        table = [r for r in self.rows if r[0] is not None]
        widths = [max((len(r[i]) for r in table), default=0) for i in range(3)]
        print(f"{self.name}: {self.about} (seed {self.options.seed})")
        for what, value, bar, ok in table:
            mark = {None: "", True: "ok", False: "FAILED"}[ok]
            print(f"  {what:<{widths[0]}}  {value:>{min(widths[1], 40)}}  {bar:<{widths[2]}}  {mark}".rstrip())
        for what, text, _, _ in self.rows:
            if what is None:
                print("  " + text)
        seconds = time.monotonic() - self.begun
        verdict = "passed" if not self.failed else "FAILED: " + ", ".join(self.failed)
        print(f"verdict {self.name}: {verdict} ({seconds:.1f} s)", flush=True)


def strace(folder, call, error, when):
    """A wrapper that lets the `when`-th call (such as `fsync,fdatasync`; `5+` means from the fifth on) fail."""
    return [
        "strace", "-f", "-qq", "--seccomp-bpf", "-o", str(folder / "strace.log"),
        "-e", f"trace={call}", "-e", "signal=none", "-e", f"inject={call}:error={error}:when={when}",
    ]
