#!/usr/bin/env python3
"""Starts a server and lets an official client library live through the life of an application with it.

    run.py PROGRAM [ARGUMENT...]

PROGRAM is called with BELLWIRE_URL and BELLWIRE_TOKEN set, and with what `bellwire token` needs, and ends with 0 if all was as it should be.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from harness import Server, binary  # noqa: E402

with tempfile.TemporaryDirectory(prefix="bellwire-interop-") as folder:
    server = Server(folder, env={"SVIX_RETRY_SCHEDULE": "0.2,0.2", "SVIX_WORKER_REQUEST_TIMEOUT": "5"})
    server.start()
    try:
        env = {
            **os.environ,
            "BELLWIRE": str(binary()),
            "SVIX_JWT_SECRET": server.env["SVIX_JWT_SECRET"],
            "BELLWIRE_URL": f"http://127.0.0.1:{server.port}",
            "BELLWIRE_TOKEN": server.token(),
        }
        code = subprocess.run(sys.argv[1:], env=env, timeout=180).returncode
        if code:
            print(f"the end of the server's log:\n{server.tail()}")
    finally:
        server.terminate()
sys.exit(code)
