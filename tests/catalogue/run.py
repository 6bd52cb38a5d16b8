#!/usr/bin/env python3
"""The event catalogue with every pack in it, given out as documents, before those documents' own judges: the validator of OpenAPI, and
AsyncAPI's parser. Each sample is checked against its schema as it stands in the document, by another implementation than ours.

    run.py ASYNCAPI…    (the command that validates an AsyncAPI document, for example: node validate.mjs)
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import jsonschema
import openapi_spec_validator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Server, binary  # noqa: E402


def command(server, *arguments):
    environment = {**os.environ, "BELLWIRE_URL": f"http://127.0.0.1:{server.port}", "BELLWIRE_TOKEN": server.token()}
    done = subprocess.run([binary(), *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        sys.exit(f"bellwire {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def samples(openapi):
    for name, item in openapi["webhooks"].items():
        media = item["post"]["requestBody"]["content"]["application/json"]
        yield name, media["schema"], media["examples"]["sample"]["value"]


with tempfile.TemporaryDirectory(prefix="bellwire-catalogue-") as folder:
    server = Server(folder)
    server.start()
    try:
        packs = json.loads(command(server, "pack", "list", "--json"))
        for pack in packs:
            command(server, "pack", "add", pack["name"])
        openapi = json.loads(command(server, "export", "openapi"))
        asyncapi = pathlib.Path(folder, "asyncapi.json")
        command(server, "export", "asyncapi", "-o", str(asyncapi))
    finally:
        server.terminate()

    openapi_spec_validator.validate(openapi, cls=openapi_spec_validator.OpenAPIV31SpecValidator)
    count = 0
    for name, schema, sample in samples(openapi):
        # The whole document is the schema's home: its references lead from there.
        validator = jsonschema.Draft202012Validator({**openapi, **schema})
        validator.validate(sample)
        if validator.is_valid({"type": "another.event", "zen": 1}):
            sys.exit(f"{name}: its schema does not tell its sample from rubbish")
        count += 1
    expected = sum(len(pack["eventTypes"]) for pack in packs)
    if count != expected:
        sys.exit(f"{count} samples, and {expected} event types")
    subprocess.run([*sys.argv[1:], str(asyncapi)], check=True, timeout=120)
    print(f"{count} event types of {len(packs)} packs: both documents are valid, and every sample fits its schema")
