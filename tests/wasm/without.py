"""A program without WebAssembly, which is what `cargo build --release` makes, says so where it is asked for, and how to get it.

The tests in Rust are built with everything, so none of them can see this.
"""

import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from harness import Server

HOW = "--features wasm"


def refused(api, path, body, place):
    response = api.connection.request("POST", "/api/v1" + path, body)
    answer = response.json()
    assert response.status == 422, f"{path}: {response.status} {json.dumps(answer)}"
    fault = answer["detail"][0]
    assert fault["loc"] == place and HOW in fault["msg"], f"{path}: {json.dumps(answer)}"
    print(f"POST {path}: {fault['msg']}")


with tempfile.TemporaryDirectory() as folder:
    server = Server(folder)
    server.start()
    try:
        api = server.api()
        application = api.application()
        endpoint = {"kind": "plugin", "plugin": {"runs": "wasm", "module": "deploy"}}
        refused(api, f"/app/{application}/endpoint", endpoint, ["body", "plugin", "runs"])
        refused(api, "/plugin", {"name": "deploy", "component": "AGFzbQ0AAQA="}, ["body", "component"])
    finally:
        server.kill()
