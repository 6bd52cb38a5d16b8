#!/usr/bin/env python3
"""Holds the running server against the OpenAPI document that it serves, with schemathesis: thousands of requests made from the document,
right ones and wrong ones, for every operation.

    run.py SCHEMATHESIS [--full]

What it looks for: no 5xx but the 501 that says what is not there, every answer as the document has it (status, type, headers, body), wrong
requests refused, nothing served without a token or after it was deleted. Two checks stay off, because a document cannot say it: "valid data are
accepted" (an iterator comes from an earlier page, an event type exists), and "what was created is there" (an endpoint has no OAuth until it is set).

The seed is fixed, so that a failure can be run again; --full takes a fresh one and prints it.
"""

import os
import pathlib
import random
import subprocess
import sys
import tempfile
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Server, free_port  # noqa: E402

schemathesis, full = sys.argv[1], "--full" in sys.argv[2:]
seed = random.SystemRandom().randrange(1 << 32) if full else 1
print(f"seed {seed}")


# So much waits at a pipe that nobody who takes some of it waits himself, however long he says that he would.
BACKLOG = 10_000


def pipe_with_a_backlog(server, api, name):
    """An application with a pipe at which much waits; answers both ids."""
    application = api.application(name)
    pipe = api.call("POST", f"/app/{application}/endpoint", {"kind": "pipe", "pipe": {"maxInFlight": BACKLOG}})["id"]
    lines = b'{"eventType": "contract.tested", "payload": {"a": 1}}\n' * BACKLOG
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/api/v1/app/{application}/msg/stream", lines, method="POST",
        headers={"authorization": f"Bearer {server.token()}", "content-type": "application/x-ndjson"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=60) as answer:
        made = sum(1 for line in answer if b'"id"' in line)
    assert made == BACKLOG, f"{made} messages of {BACKLOG} were made"
    return application, pipe


def configuration(server, api):
    """Real ids for the paths, and some of their own for what deletes, so that the others go on finding theirs."""
    application = api.application("contract")
    endpoint = api.endpoint(application, f"http://127.0.0.1:{free_port()}/nobody-listens")
    api.event_types("contract.tested")
    message = api.message(application, {"a": 1}, "contract.tested")
    known = {"app_id": application, "endpoint_id": endpoint, "msg_id": message, "event_type_name": "contract.tested"}
    lost = api.application("to be deleted")
    rows = ["[parameters]"] + [f'"path.{name}" = "{id}"' for name, id in known.items()]
    deletes = {
        "/api/v1/app/{app_id}": {"app_id": lost},
        "/api/v1/app/{app_id}/endpoint/{endpoint_id}": {"endpoint_id": "ep_000000000000000000000000000"},
        "/api/v1/event-type/{event_type_name}": {"event_type_name": "to.be.deleted"},
    }
    for path, ids in deletes.items():
        rows += ["", "[[operations]]", f'include-name = "DELETE {path}"', "[operations.parameters]"]
        rows += [f'"path.{name}" = "{id}"' for name, id in {**known, **ids}.items()]
    # Nobody answers, so whoever waits would wait for all of the time that it names.
    rows += ["", "[[operations]]", 'include-operation-id = "v1.message.create"', "[operations.parameters]"]
    rows += [f'"path.{name}" = "{id}"' for name, id in known.items()] + ['"query.wait" = 0.01']
    rows += ["", "[[operations]]", 'include-operation-id = "v1.pipe.pull"', "[operations.parameters]"]
    rows += [f'"path.{name}" = "{id}"' for name, id in known.items()] + ['"query.wait" = 0']
    # Readers may be told to wait in the body: these find a pipe of their own, at which they need not.
    for verb in ("receive", "set"):
        app, pipe = pipe_with_a_backlog(server, api, f"to be read by {verb}")
        rows += ["", "[[operations]]", f'include-name = "POST /api/v1/app/{{app_id}}/endpoint/{{endpoint_id}}/pull/{verb}"']
        rows += ["[operations.parameters]", f'"path.app_id" = "{app}"', f'"path.endpoint_id" = "{pipe}"']
    # A stream has no end, or answers line by line for as long as lines come.
    for operation in ("v1.pipe.stream", "v1.message.stream"):
        rows += ["", "[[operations]]", f'include-operation-id = "{operation}"', "enabled = false"]
    # Svix's own POST is there and answers 501, which the document says of no operation; so what is allowed is more than what is documented.
    rows += ["", "[[operations]]", 'include-name = "GET /api/v1/event-type/export/openapi"', "phases.coverage.enabled = false"]
    # It waits for a receiver, up to half a minute, and has tests of its own.
    rows += ["", "[[operations]]", 'include-operation-id = "v1.message.test-attempt"', "enabled = false"]
    return "\n".join(rows) + "\n"


with tempfile.TemporaryDirectory(prefix="bellwire-contract-") as folder:
    server = Server(folder, env={"SVIX_RETRY_SCHEDULE": "1", "SVIX_WORKER_REQUEST_TIMEOUT": "2"})
    server.start()
    try:
        url, token = f"http://127.0.0.1:{server.port}", server.token()
        settings = pathlib.Path(folder, "schemathesis.toml")
        settings.write_text(configuration(server, server.api()))
        code = subprocess.run(
            [
                schemathesis, "--config-file", str(settings), "run", f"{url}/api/v1/openapi.json",
                "--header", f"Authorization: Bearer {token}", "--checks", "all", "--exclude-checks", "positive_data_acceptance,ensure_resource_availability",
                "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "200" if full else "12", "--seed", str(seed),
                "--continue-on-failure", "--suppress-health-check", "all", "--request-timeout", "10", "--generation-database", "none",
                "--warnings", "off", "--no-color",
            ],
            cwd=folder, env={**os.environ, "NO_COLOR": "1"}, timeout=1500 if full else 400,
        ).returncode  # fmt: skip
        if code or server.process.poll() is not None:
            print(f"the end of the server's log:\n{server.tail()}")
            code = code or 1
    finally:
        server.terminate()
sys.exit(code)
