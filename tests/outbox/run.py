#!/usr/bin/env python3
"""A table in a real PostgreSQL becomes messages: each row exactly once, over kill -9, with transactions that commit out of order."""

import collections
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Server, until  # noqa: E402
from postgres import PostgreSQL  # noqa: E402

ROWS, KILLS = 600, 5
TABLE = """CREATE TABLE {name} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_type text NOT NULL, payload jsonb NOT NULL,
    processed_at timestamptz)"""
INSERT = "INSERT INTO {name} (event_type, payload) VALUES ('row.added', '{{\"n\": {n}}}');"


def write(database, name, numbers):
    """Each number in a transaction of its own; some stay open for a while, so that they commit after rows with higher ids."""
    slow = []
    for n in numbers:
        insert = INSERT.format(name=name, n=n)
        if n % 40 == 7:
            text = f"BEGIN; {insert} SELECT pg_sleep({random.uniform(0.5, 3)}); COMMIT;"
            slow.append(threading.Thread(target=database.sql, args=(text,)))
            slow[-1].start()
        else:
            database.sql(insert)
    for thread in slow:
        thread.join()


def main():
    database = PostgreSQL()
    faults = 0
    try:
        with tempfile.TemporaryDirectory(prefix="bellwire-outbox-") as folder:
            server = Server(folder)
            server.start()
            api = server.api()
            names = ("remember", "mark", "delete")
            for name in names:
                database.sql(TABLE.format(name=name))
                api.application(name, uid=name)
                outbox = {"dsn": f"{database.url('admin')}?sslmode=disable", "table": name, "then": name, "pollSeconds": 0.1, "settleSeconds": 4}
                api.call("POST", "/source", {"uid": name, "appId": name, "outbox": outbox})
            writers = [threading.Thread(target=write, args=(database, name, range(ROWS // len(names)))) for name in names]
            for writer in writers:
                writer.start()
            for _ in range(KILLS):
                time.sleep(random.uniform(0.3, 1.5))
                server.kill()
                server.start()
            for writer in writers:
                writer.join()
            api = server.api()
            for name in names:
                wanted = ROWS // len(names)
                seen = lambda: [message["payload"]["n"] for message in api.pages(f"/app/{name}/msg")]  # noqa: E731
                until(lambda: len(seen()) >= wanted, 30, 0.5)
                time.sleep(1)
                found = collections.Counter(seen())
                missing = sorted(set(range(wanted)) - set(found))
                twice = sorted(n for n, times in found.items() if times > 1)
                left = int(database.sql(f"SELECT count(*) FROM {name} WHERE processed_at IS NULL"))
                right = not missing and not twice and left == {"remember": wanted, "mark": 0, "delete": 0}[name]
                faults += not right
                state = api.call("GET", f"/source/{name}/state")
                print(f"{'ok' if right else 'WRONG':6} {name:9} rows {wanted}, messages {sum(found.values())}, missing {missing}, twice {twice}, left to do {left}")
                if not right:
                    print(state)
            secret = subprocess.run(["grep", "-c", "postgres://", str(server.log)], capture_output=True, text=True).stdout.strip()
            faults += secret != "0"
            print(f"{'ok' if secret == '0' else 'WRONG':6} the log holds {secret} connection strings")
            if faults:
                print(server.tail(30))
            server.terminate()
    finally:
        database.stop()
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
